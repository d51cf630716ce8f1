"""Who may take what, and who must leave it alone."""

from __future__ import annotations

from controller.core.commands import RejectRequest, SleepEngine, StartEngine
from controller.core.events import DemotionOrdered, LeaseReleased, TimePassed
from controller.core.lifecycle import Phase
from controller.core.names import (
    Depth,
    Instant,
    ModelName,
    OperationId,
    RejectReason,
    RequestId,
)
from tests.core.fleets import Story, ladder, node, spec


def phases(story: Story) -> dict[str, Phase]:
    return {replica.model: replica.phase for replica in story.fleet.replicas.values()}


def rests(story: Story, name: str, depth: Depth = Depth.LEVEL_1) -> None:
    """The model has been up and sleeps."""
    story.raises(f"first {name}", name)
    story.feed(LeaseReleased(story.time, RequestId(f"first {name}")))
    order = DemotionOrdered(story.time, OperationId(f"down {name}"), ModelName(name), depth)
    story.feed(order)
    story.answers(f"{name}#0")


def test_a_younger_request_does_not_take_what_an_older_one_waits_for() -> None:
    story = Story(spec("a", 20), spec("b", 22), spec("c", 4), minimum_awake_s=5.0)
    story.raises("r1", "a")
    assert story.arrives("r2", "b") == []  # a was woken just before: b waits
    assert story.arrives("r3", "c") == []  # there is room for c, but b needs it
    story.feed(TimePassed(Instant(story.at + 5.0)))
    [sleep] = story.feed(LeaseReleased(story.time, RequestId("r1")))
    assert isinstance(sleep, SleepEngine)
    [start] = story.answers("a#0")
    assert isinstance(start, StartEngine)
    assert start.model == "b"


def test_nor_a_sleeper_on_the_same_device() -> None:
    story = Story(spec("a", 18), spec("b", 22), spec("c", 4), minimum_awake_s=5.0)
    rests(story, "b", Depth.LEVEL_2)
    rests(story, "c", Depth.LEVEL_2)
    story.raises("r1", "a")
    story.feed(node(story.at, devices=2))
    assert story.arrives("r2", "b") == []
    assert story.arrives("r3", "c") == []


def test_a_younger_request_may_take_what_the_older_one_does_not_need() -> None:
    story = Story(spec("a", 15), spec("b", 18), spec("c", 4))
    story.raises("r1", "a")
    assert story.arrives("r2", "b") == []  # a is drained: 9 are free, 23 will be
    [start] = story.arrives("r3", "c")
    assert isinstance(start, StartEngine)
    assert phases(story) == {"a": Phase.DRAINING, "b": Phase.COLD, "c": Phase.STARTING}


def test_two_who_wait_do_not_count_on_the_same_bytes() -> None:
    story = Story(spec("a", 12), spec("b", 12), spec("c", 11), spec("d", 11))
    story.raises("r1", "a")
    story.raises("r2", "b")
    story.arrives("r3", "c")
    assert phases(story)["b"] is Phase.AWAKE
    story.arrives("r4", "d")
    assert phases(story)["a"] is phases(story)["b"] is Phase.DRAINING


def test_a_sleeper_for_which_somebody_waits_is_not_pushed_deeper_for_idleness() -> None:
    story = Story(spec("a", 20, ladder=ladder(1e9, 1e9, 60.0)), spec("b", 20))
    rests(story, "a")
    story.raises("r1", "b")
    story.arrives("r2", "a")
    story.at += 100.0
    assert story.feed(TimePassed(story.time)) == []
    assert phases(story)["a"] is Phase.ASLEEP


def test_a_sleeper_is_no_victim_of_its_own_wake() -> None:
    story = Story(spec("a", 24), spec("b", 10, deepest=Depth.LEVEL_2))
    rests(story, "a")
    rests(story, "b")
    [refusal] = story.arrives("r", "a")
    assert isinstance(refusal, RejectRequest)
    assert refusal.reason is RejectReason.WAIT_TOO_LONG
    assert phases(story)["a"] is Phase.ASLEEP


def test_a_first_start_stops_nobody() -> None:
    story = Story(spec("a", 23), spec("b", 24), prefetch_start=True)
    story.answers("a#0")
    assert phases(story) == {"a": Phase.AWAKE, "b": Phase.COLD}
    story.arrives("r", "b")  # a request may
    assert phases(story)["a"] is Phase.STOPPING


def test_an_arrival_told_twice_is_one() -> None:
    story = Story(spec("a"))
    story.arrives("r", "a")
    assert story.arrives("r", "a") == []
    assert story.fleet.waiting() == 1
    story.answers("a#0")
    assert story.arrives("r", "a") == []
    assert story.fleet.running(ModelName("a")) == 1


def test_a_deadline_that_comes_with_the_wake_comes_first() -> None:
    story = Story(spec("a"))
    story.arrives("r", "a", 10.0)
    [refusal] = story.answers("a#0", after=10.0)
    assert isinstance(refusal, RejectRequest)
    assert refusal.reason is RejectReason.DEADLINE_PASSED
