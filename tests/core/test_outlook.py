"""How long until a model is awake, from each phase."""

from __future__ import annotations

from math import inf

import pytest

from controller.core.commands import RejectRequest
from controller.core.events import (
    DemotionOrdered,
    EngineFailed,
    LeaseReleased,
    ModelAdded,
    PinOrdered,
    TimePassed,
)
from controller.core.fleet import Fleet
from controller.core.leases import keep_lease
from controller.core.lifecycle import Action, Goal, Phase
from controller.core.names import (
    Cause,
    Depth,
    Instant,
    ModelName,
    ModelSpec,
    OperationId,
    RejectReason,
    ReplicaId,
    RequestId,
)
from tests.core.fleets import GUESS, Story, ladder, node, policy, spec

A, A0 = ModelName("a"), ReplicaId("a#0")


def estimate_s(story: Story, model: str = "a") -> float:
    return story.fleet.outlook(ModelName(model)).estimate_s


def passes(story: Story, seconds: float) -> None:
    story.at += seconds
    story.feed(TimePassed(story.time))


def sleeps(story: Story, depth: Depth, model: str = "a") -> None:
    operation = OperationId(f"o{story.at}")
    story.feed(DemotionOrdered(story.time, operation, ModelName(model), depth))


def awake(*more: str, keeps_kv: bool = False, **policy: float) -> Story:
    """``a`` and those are awake; nobody uses them."""
    names = ("a", *more)
    story = Story(*(spec(name, keeps_kv=keeps_kv) for name in names), **policy)
    for name in names:
        story.raises(f"r-{name}", name)
        if not keeps_kv:
            story.releases(f"r-{name}")
    return story


def told(story: Story) -> tuple[str, float]:
    """Guesses only: what has been measured meanwhile is forgotten."""
    story.fleet.costs.measured.clear()
    outlook = story.fleet.outlook(A)
    return outlook.phase, outlook.estimate_s


def test_who_is_awake_is_awake() -> None:
    assert told(awake()) == ("awake", 0.0)


def test_who_falls_asleep_has_to_wake_again() -> None:
    story = awake()
    sleeps(story, Depth.LEVEL_1)
    passes(story, 0.5)
    left_s = GUESS.sleep_s - 0.5
    assert told(story) == ("falling_asleep", left_s + GUESS.wake_level_1_s)
    passes(story, 100.0)  # overdue: any moment
    assert told(story) == ("falling_asleep", GUESS.wake_level_1_s)
    story.answers("a#0")
    assert told(story) == ("queued", GUESS.wake_level_1_s)


def test_who_drains_goes_down_and_comes_back() -> None:
    story = Story(spec("a"))
    story.raises("r", "a")
    sleeps(story, Depth.LEVEL_2)
    assert told(story) == ("draining", GUESS.sleep_s + GUESS.wake_level_2_s)


def test_an_export_for_idleness_is_called_off_and_no_other_is() -> None:
    for is_ordered in (False, True):
        story = Story(spec("a", keeps_kv=True, ladder=ladder(inf, 50.0)))
        story.raises("r", "a")
        story.feed(LeaseReleased(story.time, RequestId("r")))
        if is_ordered:
            sleeps(story, Depth.LEVEL_1)
        else:
            passes(story, 50.0)
        assert story.fleet.replicas[A0].phase is Phase.HIBERNATING
        passes(story, 0.25)
        left_s = GUESS.export_s - 0.25
        down_s = left_s + GUESS.sleep_s + GUESS.wake_level_1_s
        assert told(story) == ("hibernating", down_s if is_ordered else 0.0)


def test_who_stops_has_to_start_again() -> None:
    story = awake()
    sleeps(story, Depth.STOPPED)
    passes(story, 0.5)
    assert told(story) == ("stopping", GUESS.stop_s - 0.5 + GUESS.start_s)


def test_who_failed_starts_when_it_may() -> None:
    story = Story(spec("a"), restart_backoff_s=8.0)
    story.arrives("r", "a")
    order = story.fleet.replicas[A0].order
    assert order is not None
    story.feed(EngineFailed(story.time, order.op, A0, "broke"))
    story.answers("a#0", after=2.0)
    assert story.fleet.replicas[A0].phase is Phase.COLD
    assert told(story) == ("queued", 8.0 - 2.0 + GUESS.start_s)
    passes(story, 6.0)
    assert told(story) == ("starting", GUESS.start_s)


def test_who_is_given_up_never_comes() -> None:
    story = Story(spec("a", max_restarts=1))
    story.arrives("r", "a")
    order = story.fleet.replicas[A0].order
    assert order is not None
    story.feed(EngineFailed(story.time, order.op, A0, "broke"))
    assert estimate_s(story) == inf
    story.answers("a#0")
    assert estimate_s(story) == inf


def test_others_have_to_go_first() -> None:
    """Until the slowest of those that go is asleep; another one's order does not matter."""
    story = Story(spec("a", 20), spec("b"), spec("c"))
    for name in "bc":
        story.raises(f"r-{name}", name)
        story.releases(f"r-{name}")
    assert told(story) == ("queued", GUESS.sleep_s + GUESS.start_s)


def test_what_is_on_the_move_comes_first() -> None:
    story = awake("b")
    sleeps(story, Depth.STOPPED)
    story.answers("a#0")
    sleeps(story, Depth.LEVEL_1, "b")
    passes(story, 0.5)
    assert story.fleet.replicas[ReplicaId("b#0")].phase is Phase.FALLING_ASLEEP
    assert told(story) == ("queued", GUESS.start_s)  # there is room beside it


@pytest.mark.parametrize(("pinned", "seconds"), [(True, inf), (False, GUESS.sleep_s)])
def test_whoever_is_pinned_leaves_no_room(pinned: bool, seconds: float) -> None:
    story = Story(spec("a", 20), spec("b"))
    story.raises("r", "b")
    story.feed(PinOrdered(story.time, ModelName("b"), pinned))
    assert told(story) == ("queued", seconds + GUESS.start_s)


def test_a_moment_later_it_is_a_moment_less() -> None:
    story = Story(spec("a"))
    story.arrives("r", "a")
    before = estimate_s(story)
    story.feed(TimePassed(Instant(story.at + 3.0)))
    assert estimate_s(story) == before - 3.0


@pytest.mark.parametrize("depths", [(Depth.LEVEL_1, Depth.LEVEL_2), (Depth.LEVEL_2, Depth.LEVEL_1)])
def test_the_sooner_of_two_replicas_counts(depths: tuple[Depth, Depth]) -> None:
    """Whichever comes first in the list."""
    story = Story(spec("a", 5, replicas=2), device=30, busy_leases=1)
    story.raises("r1", "a")
    story.arrives("r2", "a")
    story.answers("a#1")
    story.releases("r1")
    story.releases("r2")
    replicas = story.fleet.books.models[A].replicas
    for replica, depth in zip(replicas, depths, strict=True):
        story.fleet.books.drain(replica, Goal(depth, Cause.IDLE))
    passes(story, 0.0)
    for replica in replicas:
        story.answers(replica.id)
    assert [replica.depth for replica in replicas] == list(depths)
    assert told(story) == ("queued", GUESS.wake_level_1_s)


def beside(other: ModelSpec, device: int = 24) -> Story:
    """``a`` sleeps at level 1, and the other one is awake and idle on the same device."""
    story = Story(spec("a"), other, device=device)
    story.raises("r", "a")
    story.releases("r")
    sleeps(story, Depth.LEVEL_1)
    story.answers("a#0")
    story.raises("s", other.name)
    story.releases("s")
    return story


def test_a_sleeper_waits_for_room_too() -> None:
    assert told(beside(spec("b", 5))) == ("queued", GUESS.wake_level_1_s)
    assert told(beside(spec("b", 20))) == ("queued", GUESS.wake_level_1_s + GUESS.sleep_s)


def test_a_sleeper_beside_the_pinned_is_stopped_to_start_elsewhere() -> None:
    story = beside(spec("b", 20, pinned=True))
    assert told(story) == ("queued", inf)
    story.feed(node(story.at, "m"))
    assert told(story) == ("queued", GUESS.wake_level_1_s + GUESS.stop_s)


def test_what_stops_is_waited_for() -> None:
    story = Story(spec("a", 20), spec("b"))
    story.raises("r", "b")
    story.releases("r")
    sleeps(story, Depth.STOPPED, "b")
    passes(story, 0.5)
    assert told(story) == ("queued", GUESS.stop_s - 0.5 + GUESS.start_s)


def test_the_slowest_of_those_who_must_go_counts() -> None:
    story = Story(spec("a", 20), spec("b"), spec("c"))
    for name in "bc":
        story.raises(f"r-{name}", name)
        story.releases(f"r-{name}")
    costs = story.fleet.costs
    costs.measured.clear()
    costs.learn(ModelName("b"), Action.SLEEP, Depth.LEVEL_1, 7.0)
    assert estimate_s(story) == 7.0 + GUESS.start_s


def test_what_is_frozen_goes_on_first_and_then_sleeps() -> None:
    """Its device is needed to the last byte."""
    story = Story(spec("a", 24), spec("b"))
    story.raises("r", "b")
    story.releases("r")
    sleeps(story, Depth.LEVEL_2, "b")
    story.answers("b#0")
    assert told(story) == ("queued", GUESS.sleep_s + GUESS.start_s)
    books = story.fleet.books
    keep_lease(books, RequestId("kept"), ReplicaId("b#0"), True)
    assert told(story) == ("queued", GUESS.sleep_s + GUESS.start_s)


def test_what_is_coming_free_is_waited_for_by_the_moment() -> None:
    """``a`` falls asleep; ``b`` needs what it gives, and demotes nobody for it."""
    story = awake()
    story.feed(ModelAdded(story.time, spec("b", 20)))
    sleeps(story, Depth.LEVEL_2)
    for left_s in (2.0, 0.5, 0.0):
        passes(story, 2.0 - left_s - (story.at - 1.0))
        story.fleet.costs.measured.clear()
        assert estimate_s(story, "b") == GUESS.start_s + left_s


def test_without_a_node_nothing_is_known_of_room() -> None:
    fleet = Fleet(policy(), [spec("a")])
    assert fleet.outlook(A).estimate_s == GUESS.start_s


@pytest.mark.parametrize(("max_wait_s", "is_hopeless"), [(40.0, True), (400.0, False)])
def test_who_cannot_be_served_in_time_any_more_is_told_at_once(
    max_wait_s: float, is_hopeless: bool
) -> None:
    """And told when to come again: the model is started all the same."""
    story = Story(spec("a"), restart_backoff_s=60.0)
    story.arrives("r", "a", max_wait_s)
    order = story.fleet.replicas[A0].order
    assert order is not None
    commands = story.feed(EngineFailed(story.time, order.op, A0, "broke"))
    refused = [command for command in commands if isinstance(command, RejectRequest)]
    assert bool(refused) is is_hopeless
    for refusal in refused:
        assert refusal.reason is RejectReason.WAIT_TOO_LONG
        assert refusal.retry_after_s == pytest.approx(60.0 + GUESS.start_s)
    story.answers("a#0")
    passes(story, 60.0)
    assert story.fleet.replicas[A0].phase is Phase.STARTING
