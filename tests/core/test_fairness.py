"""Who may take what, and who must leave it alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.core.commands import GrantLease, RejectRequest, SleepEngine, StartEngine
from controller.core.events import DemotionOrdered, LeaseReleased, RequestArrived, TimePassed
from controller.core.lifecycle import Phase
from controller.core.names import (
    Depth,
    Instant,
    Limits,
    ModelName,
    OperationId,
    Priority,
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
    story = Story(
        spec("a", 20, ladder=ladder(1e9, 1e9, 60.0)), spec("b", 20), maximum_wait_behind_s=1e6
    )
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


# priorities


def urgent(story: Story, request: str, model: str, priority: Priority, tenant: str = "") -> Any:
    arrival = RequestArrived(
        story.time, RequestId(request), ModelName(model), tenant=tenant, priority=priority
    )
    return story.feed(arrival)


def test_who_asked_for_priority_goes_first() -> None:
    story = Story(spec("a", 20), spec("b", 20), spec("c", 20))
    story.raises("r", "a")
    story.arrives("rb", "b")
    urgent(story, "rc", "c", Priority.PRIORITY)
    story.feed(LeaseReleased(story.time, RequestId("r")))
    [start] = story.answers("a#0")
    assert start.model == "c"


def test_but_not_before_whoever_waited_the_longest_bearable() -> None:
    story = Story(
        spec("a", 20), spec("b", 20), spec("c", 20), minimum_awake_s=1e6, maximum_wait_behind_s=9.0
    )
    story.raises("r", "a")
    story.arrives("rb", "b")
    story.at += 9.0
    urgent(story, "rc", "c", Priority.PRIORITY)
    story.feed(LeaseReleased(story.time, RequestId("r")))
    [start] = story.answers("a#0")
    assert start.model == "b"


def test_a_stream_is_drained_when_somebody_waited_the_longest_bearable() -> None:
    story = Story(spec("a", 20), spec("b", 20), minimum_awake_s=1e6, maximum_wait_behind_s=9.0)
    story.raises("r", "a")
    assert story.arrives("rb", "b") == []
    assert story.fleet.next_deadline() == story.at + 9.0
    story.feed(TimePassed(Instant(story.at + 9.0)))
    assert phases(story)["a"] is Phase.DRAINING


def test_the_flexible_drain_nobody_but_ride_on_the_wakes_of_others() -> None:
    story = Story(spec("a", 20), spec("b", 20))
    story.raises("r", "a")
    urgent(story, "flexible", "b", Priority.FLEX)
    assert phases(story)["a"] is Phase.AWAKE
    story.arrives("rb", "b")
    assert phases(story)["a"] is Phase.DRAINING
    story.feed(LeaseReleased(story.time, RequestId("r")))
    story.answers("a#0")
    granted = [c.request for c in story.answers("b#0") if isinstance(c, GrantLease)]
    assert granted == ["rb", "flexible"]


def test_the_flexible_take_what_nobody_else_wants() -> None:
    story = Story(spec("a", 20), spec("b", 20))
    story.raises("r", "a")
    story.feed(LeaseReleased(story.time, RequestId("r")))
    [sleep] = urgent(story, "flexible", "b", Priority.FLEX)
    assert isinstance(sleep, SleepEngine)


def test_and_leave_it_to_a_younger_one_that_is_not_flexible() -> None:
    story = Story(spec("a", 20), spec("b", 20), spec("c", 20))
    story.raises("r", "a")
    urgent(story, "flexible", "b", Priority.FLEX)
    story.arrives("rc", "c")
    story.feed(LeaseReleased(story.time, RequestId("r")))
    [start] = story.answers("a#0")
    assert start.model == "c"


# limits and shares


def ends(story: Story, request: str) -> list[str]:
    """The requests that are granted when this one's response ends."""
    commands = story.feed(LeaseReleased(story.time, RequestId(request)))
    return [c.request for c in commands if isinstance(c, GrantLease)]


def test_a_model_runs_as_many_as_its_limit_says_and_the_rest_wait() -> None:
    story = Story(spec("a", limits=Limits(running=1)))
    story.raises("r1", "a")
    assert story.arrives("r2", "a") == []
    assert ends(story, "r1") == ["r2"]


def test_tenants_take_turns() -> None:
    story = Story(spec("a", limits=Limits(running=1)))
    story.raises("first", "a")
    for name in ("x1", "x2", "x3", "y1", "z1"):
        urgent(story, name, "a", Priority.DEFAULT, tenant=name[0])
    order = ["first"]
    for _ in range(5):
        order += ends(story, order[-1])
    assert order[1:] == ["x1", "y1", "z1", "x2", "x3"]


def test_of_a_tenants_own_the_one_with_priority_is_first() -> None:
    story = Story(spec("a", limits=Limits(running=1)))
    story.raises("first", "a")
    urgent(story, "x1", "a", Priority.FLEX, tenant="x")
    urgent(story, "x2", "a", Priority.DEFAULT, tenant="x")
    urgent(story, "x3", "a", Priority.PRIORITY, tenant="x")
    assert ends(story, "first") == ["x3"]
    assert ends(story, "x3") == ["x2"]


def test_a_tenant_at_its_limit_waits_and_wakes_nobody() -> None:
    story = Story(spec("a", 20), spec("b", 20), tenant_limits=Limits(running=1))
    story.arrives("r", "a")
    story.answers("a#0")
    assert story.arrives("r2", "b") == []
    assert phases(story)["a"] is Phase.AWAKE
    assert isinstance(urgent(story, "y", "b", Priority.DEFAULT, tenant="y"), list)
    assert phases(story)["a"] is Phase.DRAINING


def test_a_tenant_may_have_a_limit_of_its_own() -> None:
    story = Story(spec("a"), tenant_limits=Limits(running=1), tenants={"x": Limits(running=2)})
    story.raises("first", "a")
    granted = [urgent(story, f"x{i}", "a", Priority.DEFAULT, tenant="x") for i in range(3)]
    assert [len(commands) for commands in granted] == [1, 1, 0]


@pytest.mark.parametrize(
    "limited",
    [
        lambda: Story(spec("a", limits=Limits(running=1, waiting=1))),
        lambda: Story(spec("a", limits=Limits(running=1)), tenant_limits=Limits(waiting=1)),
    ],
)
def test_of_more_than_may_wait_one_is_shed(limited: Callable[[], Story]) -> None:
    story = limited()
    story.raises("r1", "a")
    assert story.arrives("r2", "a") == []
    [refusal] = story.arrives("r3", "a")
    assert isinstance(refusal, RejectRequest)
    assert refusal.reason is RejectReason.LIMIT_REACHED
    assert refusal.retry_after_s == 1.0


def test_what_waits_at_a_limit_is_refused_at_its_deadline() -> None:
    story = Story(spec("a", limits=Limits(running=1)))
    story.raises("r1", "a")
    story.arrives("r2", "a", 5.0)
    assert story.fleet.next_deadline() == story.at + 5.0
    [refusal] = story.feed(TimePassed(Instant(story.at + 5.0)))
    assert isinstance(refusal, RejectRequest)
    assert refusal.reason is RejectReason.DEADLINE_PASSED
