"""Orders without an answer: how long they are waited for, and what comes of it."""

from __future__ import annotations

from controller.core.commands import RejectRequest, SleepEngine, StartEngine, StopEngine
from controller.core.costs import CostTable
from controller.core.events import DemotionOrdered, EngineWoke, LeaseReleased, TimePassed
from controller.core.lifecycle import Action
from controller.core.names import (
    NEVER,
    CostGuess,
    Depth,
    Footprint,
    Instant,
    ModelName,
    OperationId,
    OpId,
    OrderTimes,
    RejectReason,
    ReplicaId,
    RequestId,
)
from tests.core.fleets import Story, spec

TIMES = OrderTimes(factor=10, least_s=5, least_start_s=20, wake_s=60, start_s=300)
A, A0 = ModelName("a"), ReplicaId("a#0")


def patience_s(*measured: float, action: Action = Action.WAKE) -> float:
    costs = CostTable(CostGuess(), TIMES)
    for seconds in measured:
        costs.learn(A, action, Depth.LEVEL_1, seconds)
    return costs.patience_s(A, action, Depth.LEVEL_1)


def test_what_was_never_measured_is_waited_for_the_longest() -> None:
    assert patience_s() == 60


def test_patience_fits_the_slowest_that_was_measured() -> None:
    assert patience_s(0.8, 2.0, 1.0) == 20


def test_patience_has_a_least_and_a_most() -> None:
    assert patience_s(0.01) == 5
    assert patience_s(30.0) == 60
    assert patience_s(0.1, action=Action.START) == 20


def test_a_stop_is_always_given_all_its_time() -> None:
    assert patience_s(0.1, action=Action.STOP) == TIMES.stop_s


def awake() -> Story:
    story = Story(spec("a", keeps_kv=True), times=TIMES)
    story.raises("r1", "a")
    return story


def demotion(story: Story) -> DemotionOrdered:
    return DemotionOrdered(story.time, OperationId("o"), A, Depth.LEVEL_1)


def late(story: Story) -> list[object]:
    """What the core orders next though nothing happens but that time passes."""
    while True:
        at = story.fleet.next_deadline()
        assert story.at < at < NEVER
        if orders := story.feed(TimePassed(at)):
            return list(orders)


def order(story: Story) -> OpId:
    known = story.fleet.replicas[A0].order
    assert known is not None
    return known.op


def test_a_start_that_hangs_is_stopped_and_tried_again() -> None:
    story = Story(spec("a"), times=TIMES)
    story.arrives("r1", "a", max_wait_s=1000)
    [stop] = late(story)
    assert isinstance(stop, StopEngine)
    assert story.at == 300
    [start] = story.answers("a#0")
    assert isinstance(start, StartEngine)


def test_a_late_answer_changes_nothing() -> None:
    story = awake()
    story.feed(LeaseReleased(story.time, RequestId("r1")))
    story.feed(demotion(story))
    story.answers("a#0")
    story.answers("a#0")
    story.arrives("r2", "a")
    op = order(story)
    [stop] = late(story)
    assert isinstance(stop, StopEngine)
    assert story.feed(EngineWoke(story.time, op, A0, Footprint(10))) == []


def test_an_export_that_hangs_costs_the_kv_and_not_the_engine() -> None:
    story = awake()
    story.feed(LeaseReleased(story.time, RequestId("r1")))
    story.feed(demotion(story))
    [sleep] = late(story)
    assert isinstance(sleep, SleepEngine)
    assert "no answer to export" in story.fleet.replicas[A0].story[-3].why


def test_a_stop_that_hangs_is_ordered_again() -> None:
    story = Story(spec("a"), times=TIMES)
    story.arrives("r1", "a", max_wait_s=1000)
    late(story)
    first = order(story)
    [stop] = late(story)
    assert isinstance(stop, StopEngine)
    assert stop.op != first
    assert story.at >= Instant(300 + TIMES.stop_s)


def test_who_cannot_be_served_in_time_after_a_start_that_hung_is_told_at_once() -> None:
    story = Story(spec("a"), times=TIMES)
    story.arrives("r1", "a", max_wait_s=305)
    [refused, stop] = late(story)
    assert isinstance(refused, RejectRequest)
    assert (refused.request, refused.reason) == ("r1", RejectReason.WAIT_TOO_LONG)
    assert isinstance(stop, StopEngine)
    assert story.at == 300


def test_who_waited_to_the_end_is_told_for_what_and_how_long() -> None:
    story = Story(spec("a", 20), spec("b", 20), times=TIMES)
    story.raises("rb", "b")
    story.arrives("r", "a", max_wait_s=17.0)
    [told] = late(story)
    assert isinstance(told, RejectRequest)
    reason = (told.reason, told.detail)
    assert reason == (RejectReason.DEADLINE_PASSED, "no replica of a within 17.0 s")
