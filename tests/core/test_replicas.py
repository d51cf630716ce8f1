"""Several replicas of a model: how many are kept, on which nodes, and who serves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.core.commands import Command, GrantLease, SleepEngine, StartEngine, WakeEngine
from controller.core.events import (
    EngineFailed,
    EngineLost,
    LeaseReleased,
    NodeLost,
    TimePassed,
    WakeOrdered,
)
from controller.core.lifecycle import Phase
from controller.core.names import (
    Depth,
    Instant,
    ModelName,
    ModelSpec,
    NodeId,
    OperationId,
    ReplicaId,
    RequestId,
)
from tests.core.fleets import Story, ladder, node, simulator, spec
from tests.core.test_simulation import FAULTS, assert_settled

A0, A1 = ReplicaId("a#0"), ReplicaId("a#1")
PAIR = spec("a", 10, replicas=2, least_replicas=2)
REST = ladder(float("inf"), 60.0)


def starts(commands: list[Command]) -> list[tuple[str, str]]:
    return [(c.replica, c.node) for c in commands if isinstance(c, StartEngine)]


def grants(commands: list[Command]) -> list[tuple[str, str]]:
    return [(c.request, c.replica) for c in commands if isinstance(c, GrantLease)]


def on_two_nodes(*specs: ModelSpec, m: int = 24, **more: Any) -> Story:
    story = Story(*specs, **more)
    story.feed(node(0.0, "m", device=m))
    return story


def phases(story: Story) -> dict[str, Phase]:
    return {replica.id: replica.phase for replica in story.fleet.replicas.values()}


def ends(story: Story, request: str, after: float = 0.0) -> list[Command]:
    story.at += after
    return story.feed(LeaseReleased(story.time, RequestId(request)))


def rests(story: Story, until: float) -> list[Command]:
    """Time passes; orders that it leads to are not answered."""
    commands: list[Command] = []
    while (at := story.fleet.next_deadline()) <= until:
        commands += story.feed(TimePassed(at))
    commands += story.feed(TimePassed(Instant(until)))
    return commands


def test_a_backup_comes_up_on_another_node_as_soon_as_the_model_is_used() -> None:
    story = on_two_nodes(PAIR)
    assert starts(story.arrives("r", "a")) == [("a#0", "n")]
    answered = story.answers("a#0")
    assert grants(answered) == [("r", "a#0")]
    assert starts(answered) == [("a#1", "m")]
    story.answers("a#1")
    assert grants(story.arrives("s", "a")) == [("s", "a#1")]


def test_who_is_idle_rests_though_another_of_its_model_is_in_use() -> None:
    """Beyond the least that is kept, and be it one."""
    story = Story(spec("a", 10, replicas=2, ladder=REST), busy_leases=1)
    story.raises("r", "a")
    story.answers("a#1")
    assert grants(story.arrives("s", "a")) == [("s", "a#1")]
    ends(story, "r")
    assert [c.replica for c in rests(story, story.at + 60.0) if isinstance(c, SleepEngine)] == [A0]


def test_a_model_that_is_given_up_is_not_refused_while_one_of_its_engines_can_wake() -> None:
    story = Story(replace(PAIR, ladder=REST, max_restarts=1))
    story.raises("r", "a")
    broken = story.fleet.replicas[A1].order
    assert broken is not None
    story.feed(EngineFailed(story.time, broken.op, A1, "broke"))
    story.answers("a#1")
    ends(story, "r")
    rests(story, story.at + 60.0)
    story.answers("a#0")
    assert story.fleet.models[ModelName("a")].is_given_up
    assert [type(command) for command in story.arrives("s", "a")] == [WakeEngine]


def test_a_backup_that_is_kept_keeps_nobody_else_awake() -> None:
    story = Story(replace(PAIR, ladder=REST), spec("b", 4, ladder=REST))
    story.raises("r", "a")
    story.answers("a#1")
    story.raises("s", "b")
    ends(story, "s")
    story.fleet.books.replicas[A1].idle_since = story.time
    story.fleet.books.touch(story.fleet.books.replicas[A1])
    slept = [c.replica for c in rests(story, story.at + 60.0) if isinstance(c, SleepEngine)]
    assert slept == ["b#0"]


def test_a_lost_node_takes_one_of_two_and_the_other_serves_on() -> None:
    story = on_two_nodes(PAIR)
    story.raises("r", "a")
    story.answers("a#1")
    story.feed(NodeLost(story.time, NodeId("n")))
    assert grants(story.arrives("again", "a")) == [("again", "a#1")]
    assert story.fleet.replicas[A0].phase is Phase.STARTING  # beside the other: there is room
    assert story.fleet.replicas[A1].phase is Phase.AWAKE


@pytest.mark.parametrize(("spreads", "expected"), [(True, "m"), (False, "n")])
def test_replicas_are_spread_over_nodes_unless_told_not_to(spreads: bool, expected: str) -> None:
    """Beside the first one is the emptier node."""
    story = Story(replace(PAIR, spreads=spreads), device=40)
    story.feed(node(0.0, "m", device=24))
    story.arrives("r", "a")
    assert starts(story.answers("a#0")) == [("a#1", expected)]


def test_a_backup_is_rather_beside_the_first_than_nowhere() -> None:
    story = on_two_nodes(PAIR, m=5)
    story.arrives("r", "a")
    assert starts(story.answers("a#0")) == [("a#1", "n")]


def test_nobody_is_evicted_for_a_backup() -> None:
    story = on_two_nodes(PAIR, spec("b", 20), m=5)
    story.raises("b1", "b")
    ends(story, "b1")
    orders = story.arrives("a1", "a")
    assert [c.replica for c in orders if isinstance(c, SleepEngine)] == ["b#0"]
    story.answers("b#0")
    story.answers("a#0")  # 10 of 24 are free beside it
    assert phases(story) == {"a#0": Phase.AWAKE, "a#1": Phase.STARTING, "b#0": Phase.ASLEEP}
    story.answers("a#1")
    orders = story.arrives("b2", "b")  # a backup that nobody uses makes room, a busy one waits
    assert [c.replica for c in orders if isinstance(c, SleepEngine)] == ["a#1"]


def test_replicas_that_are_kept_go_to_rest_together() -> None:
    story = on_two_nodes(replace(PAIR, ladder=REST))
    story.raises("long", "a")
    story.answers("a#1")
    assert rests(story, 500.0) == []  # the backup is as awake as the one that is in use
    assert ends(story, "long", after=10.0) == []
    assert rests(story, story.at + 59.0) == []
    slept = rests(story, story.at + 2.0)
    assert [c.replica for c in slept if isinstance(c, SleepEngine)] == ["a#0", "a#1"]
    story.answers("a#0")
    story.answers("a#1")
    assert rests(story, 10_000.0) == []


def test_what_is_above_the_least_goes_to_rest_by_itself() -> None:
    story = on_two_nodes(replace(PAIR, least_replicas=1, ladder=REST), busy_leases=1)
    story.raises("long", "a")
    story.answers("a#1")
    slept = rests(story, 500.0)
    assert [c.replica for c in slept if isinstance(c, SleepEngine)] == ["a#1"]


def test_a_backup_that_fails_is_tried_again_while_the_other_serves() -> None:
    story = on_two_nodes(PAIR)
    story.raises("r", "a")
    incarnation = story.fleet.replicas[A1].incarnation
    assert incarnation is not None
    story.answers("a#1")
    story.feed(EngineLost(story.time, A1, incarnation, "killed"))
    story.answers("a#1", after=0.5)  # buried
    rests(story, story.at + 5.0)
    assert phases(story) == {"a#0": Phase.AWAKE, "a#1": Phase.STARTING}


@pytest.mark.parametrize("seed", range(20))
def test_kept_replicas_come_to_rest_whatever_breaks(seed: int) -> None:
    short = ladder(float("inf"), 20.0, 60.0, 200.0)
    sim = simulator(
        spec("a", 8, replicas=3, least_replicas=2, ladder=short, max_restarts=5),
        spec("b", 9, replicas=2, least_replicas=2, ladder=short, max_restarts=5, keeps_kv=True),
        spec("c", 7, ladder=short, max_restarts=5),
        seed=seed,
        faults=FAULTS,
        nodes=(node(0.0, "n", 1, 24, 30), node(0.0, "m", 1, 18, 30)),
        busy_leases=2,
    )
    for number in range(60):
        sim.request(1.0 + number * 3.0, f"r{number}", "abc"[(number * 7 + seed) % 3], 4.0)
    sim.run()
    assert_settled(sim)
    assert all(r.depth is Depth.STOPPED for r in sim.fleet.replicas.values())


@pytest.mark.parametrize(("pinned", "expected"), [(False, []), (True, [("a#1", "m")])])
def test_there_is_a_backup_of_what_is_used_or_pinned(
    pinned: bool, expected: list[tuple[str, str]]
) -> None:
    story = on_two_nodes(replace(PAIR, pinned=pinned))
    story.feed(WakeOrdered(story.time, OperationId("o"), PAIR.name))
    assert starts(story.answers("a#0")) == expected


def test_another_comes_up_only_when_all_that_are_awake_are_busy() -> None:
    story = Story(spec("a", 5, replicas=3), device=30, busy_leases=1)
    story.raises("r1", "a")
    assert story.fleet.replicas[A1].phase is Phase.STARTING
    story.arrives("r2", "a")
    assert starts(story.answers("a#1")) == []  # both requests are at the first
    assert starts(story.arrives("r3", "a")) == [("a#2", "n")]
