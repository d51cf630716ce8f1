"""Memory runs out all the same, and engines that leak: learned, recovered, never wedged."""

from __future__ import annotations

import pytest

from controller.core.commands import StartEngine, StopEngine, WakeEngine
from controller.core.events import (
    DemotionOrdered,
    EngineFellAsleep,
    LeaseReleased,
    RanOutOfMemory,
    RequestArrived,
)
from controller.core.lifecycle import Phase, Replica
from controller.core.names import (
    Cause,
    Depth,
    Footprint,
    ModelName,
    OperationId,
    ReplicaId,
    RequestId,
)
from controller.core.residuals import Residuals
from tests.core.fleets import Story, spec

A, A0 = ModelName("a"), ReplicaId("a#0")


def a0(story: Story) -> Replica:
    return story.fleet.replicas[A0]


def starves(story: Story) -> list[object]:
    story.at += 1
    order = a0(story).order
    assert order is not None
    return list(story.feed(RanOutOfMemory(story.time, order.op, A0, "tried to allocate 2")))


def asleep(story: Story, left: int = 1) -> None:
    """At level 1, holding so much of the device."""
    number = len(a0(story).story)
    story.feed(DemotionOrdered(story.time, OperationId(f"o{number}"), A, Depth.LEVEL_1))
    story.at += 1
    order = a0(story).order
    assert order is not None
    story.feed(EngineFellAsleep(story.time, order.op, A0, Footprint(left, 10)))


def awake(**more: object) -> Story:
    story = Story(spec("a"), **more)  # type: ignore[arg-type]
    story.raises("r", "a")
    story.feed(LeaseReleased(story.time, RequestId("r")))
    return story


def test_a_wake_that_runs_out_of_memory_is_recovered_with_more_booked() -> None:
    story = awake()
    asleep(story)
    [wake] = story.arrives("r1", "a")
    assert isinstance(wake, WakeEngine)
    [stop] = starves(story)
    assert isinstance(stop, StopEngine)
    story.answers("a#0", after=5.0)
    assert story.fleet.models[A].footprint(Depth.AWAKE) == Footprint(13)
    assert a0(story).phase is Phase.STARTING
    story.answers("a#0")
    assert story.fleet.books.leased == {RequestId("r1"): A0}
    assert a0(story).held == Footprint(13), "what it needs stays booked, whatever is measured"


def test_nobody_is_blamed_while_there_is_more_to_book() -> None:
    story = Story(spec("a", 20, max_restarts=1))
    story.arrives("r1", "a", max_wait_s=900.0)
    starves(story)
    assert story.fleet.models[A].footprint(Depth.AWAKE) == Footprint(24), "all there is"
    assert not story.fleet.models[A].is_given_up
    [start] = story.answers("a#0")
    assert isinstance(start, StartEngine)
    starves(story)
    assert story.fleet.models[A].is_given_up, "it had all there is"


def test_what_it_needs_makes_others_go() -> None:
    story = Story(spec("a"), spec("b", 12))
    story.raises("rb", "b")
    story.feed(LeaseReleased(story.time, RequestId("rb")))
    story.arrives("r1", "a")
    starves(story)
    story.answers("a#0", after=5.0)
    assert story.fleet.replicas[ReplicaId("b#0")].phase is Phase.FALLING_ASLEEP


@pytest.mark.parametrize(
    ("noted", "growth"),
    [
        ([5, 5, 5, 9, 9], 0),
        ([5, 5, 5, 9, 9, 9], 4),
        ([9, 5, 5, 5, 5, 99], 0),
        ([50, 5, 5, 6, 7, 8], 2),
        ([5, 6, 7, 8, 9, 10, 11, 12], 5),
        ([9, 9, 9, 3, 3, 3], -6),
    ],
)
def test_the_trend_counts_and_not_one_measure(noted: list[int], growth: int) -> None:
    residuals = Residuals()
    for held in noted:
        residuals.note(held)
    assert residuals.growth_bytes == growth


def leaking() -> Story:
    """Asleep after a sixth time, keeping a little more each time."""
    story = awake(residual_growth_bytes=2)
    for left in range(1, 7):
        asleep(story, left)
        if left < 6:
            story.arrives(f"r{left}", "a")
            story.answers("a#0")
            story.feed(LeaseReleased(story.time, RequestId(f"r{left}")))
    return story


def test_an_engine_that_leaks_is_restarted_when_all_is_quiet() -> None:
    story = leaking()
    assert a0(story).phase is Phase.STOPPING
    assert any("leaks: at LEVEL_1" in line.what for line in a0(story).story)
    [start] = story.answers("a#0")
    assert isinstance(start, StartEngine)
    story.answers("a#0")
    assert a0(story).residuals == {}


def test_somebody_who_waits_comes_first() -> None:
    story = awake(residual_growth_bytes=0)
    for left in (1, 1, 1, 2, 2):
        asleep(story, left)
        story.arrives(f"r{left}{story.at}", "a")
        story.answers("a#0")
        for request in list(story.fleet.books.leased):
            story.feed(LeaseReleased(story.time, request))
    story.feed(DemotionOrdered(story.time, OperationId("last"), A, Depth.LEVEL_1))
    story.feed(RequestArrived(story.time, RequestId("w"), A))
    order = a0(story).order
    assert order is not None
    story.at += 1
    *_, wake = story.feed(EngineFellAsleep(story.time, order.op, A0, Footprint(2, 10)))
    assert isinstance(wake, WakeEngine)
    story.answers("a#0")
    assert a0(story).phase is Phase.AWAKE, "it is busy"
    [stop] = story.feed(LeaseReleased(story.time, RequestId("w")))
    assert isinstance(stop, StopEngine)
    assert stop.cause is Cause.LEAKING
