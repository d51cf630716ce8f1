"""The small rooms, each by itself."""

from __future__ import annotations

import ast
from itertools import product
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import controller.core
from controller.core.agenda import SLACK, Agenda
from controller.core.backlog import Backlog
from controller.core.choices import Choice
from controller.core.costs import REMEMBERED, CostTable
from controller.core.idle import due_depth, next_rung_at
from controller.core.ledger import HOST, Ledger
from controller.core.lifecycle import (
    STORY_LINES,
    TRANSITIONS,
    Action,
    InvariantBroken,
    Phase,
    Place,
    Replica,
)
from controller.core.models import backoff_s
from controller.core.names import (
    NEVER,
    CostGuess,
    Depth,
    DeviceId,
    Eviction,
    Footprint,
    Instant,
    Ladder,
    ModelName,
    NodeId,
    OrderTimes,
    ReplicaId,
    RequestId,
    Residency,
    model_of,
)
from controller.core.routing import pick_to_serve
from tests.core.fleets import spec

A = ModelName("a")
PURE = {"__future__", "dataclasses", "enum", "typing", "collections", "itertools", "functools"}
PURE |= {"heapq", "bisect", "math", "controller"}


def replica(index: int = 0, phase: Phase = Phase.COLD) -> Replica:
    return Replica(ReplicaId(f"a#{index}"), A, index, phase)


def test_the_core_imports_nothing_but_the_whitelist() -> None:
    for path in Path(controller.core.__path__[0]).glob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(statement, "names", [])]
            if isinstance(statement, ast.ImportFrom):
                names = [statement.module or ""]
            elif not isinstance(statement, ast.Import):
                continue
            assert {name.split(".")[0] for name in names} <= PURE, path.name
            inside = [name for name in names if name.startswith("controller")]
            assert all(name.startswith("controller.core") for name in inside), path.name


@pytest.mark.parametrize(("before", "after"), list(product(Phase, Phase)))
def test_only_what_stands_in_the_table_may_follow(before: Phase, after: Phase) -> None:
    one = replica(phase=before)
    if after in TRANSITIONS[before]:
        one.move(after, Instant(1.0), "because")
        assert (one.phase, one.since) == (after, Instant(1.0))
    else:
        with pytest.raises(InvariantBroken, match="because"):
            one.move(after, Instant(1.0), "because")
        assert one.phase is before


def test_every_phase_can_be_reached_and_left() -> None:
    followed = {after for follows in TRANSITIONS.values() for after in follows}
    assert followed == set(Phase) == set(TRANSITIONS)
    assert all(TRANSITIONS.values())


def test_a_story_is_bounded() -> None:
    one = replica()
    for number in range(2 * STORY_LINES):
        one.tell(Instant(float(number)), "something", "nothing")
    assert len(one.story) == STORY_LINES
    assert one.story[-1].at == Instant(2.0 * STORY_LINES - 1)


def test_the_ledger_reserves_settles_and_releases() -> None:
    ledger, one, two = Ledger(), replica(0), replica(1)
    n, both = NodeId("n"), Place(NodeId("n"), (DeviceId("0"), DeviceId("1")))
    ledger.join(n, ((DeviceId("0"), 10), (DeviceId("1"), 10)), 5)
    ledger.reserve(one, both, Footprint(6, 5))
    assert ledger.booked(n) == {"0": 6, "1": 6, HOST: 5}
    with pytest.raises(InvariantBroken, match="overdraws"):
        ledger.reserve(two, Place(n, (DeviceId("1"),)), Footprint(5))
    assert ledger.booked(n) == {"0": 6, "1": 6, HOST: 5}
    ledger.settle(one, both, Footprint(2, 5))
    ledger.reserve(two, Place(n, (DeviceId("1"),)), Footprint(8))
    assert not ledger.is_over_budget(n)
    ledger.settle(two, Place(n, (DeviceId("1"),)), Footprint(9))
    assert ledger.excused[n] == {"1": 1}
    ledger.release(one, both)
    assert (ledger.booked(n), ledger.excused[n]) == ({"0": 0, "1": 9, HOST: 0}, {})


@settings(derandomize=True, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 20), st.booleans())))
def test_the_backlog_is_a_queue_for_each_model(steps: list[tuple[int, float, bool]]) -> None:
    """Against a list."""
    backlog, twin = Backlog(), list[tuple[str, float]]()
    for at, (number, wait, is_arrival) in enumerate(steps):
        name, known = RequestId(f"r{number}"), [entry[0] for entry in twin]
        if is_arrival and name not in known:
            backlog.add(name, ModelName(f"m{number % 2}"), Instant(float(at)), wait)
            twin.append((name, at + wait))
        elif not is_arrival and name in known:
            backlog.remove(name)
            twin = [entry for entry in twin if entry[0] != name]
        assert len(backlog) == len(twin)
        assert backlog.next_deadline() == min((end for _, end in twin), default=NEVER)
        for parity in (0, 1):
            queue = [name for name, _ in twin if int(name[1:]) % 2 == parity]
            waiting = backlog.of(ModelName(f"m{parity}"))
            assert [one.request for one in waiting] == queue
    late = [name for name, end in sorted(twin, key=lambda entry: entry[1]) if end <= 10.0]
    assert sorted(one.request for one in backlog.overdue(Instant(10.0))) == sorted(late)


@settings(derandomize=True, max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([-inf, 0.0, 2.0, 5.0, 9.0, inf])),
        max_size=300,
    )
)
def test_an_agenda_says_who_is_late_and_when_the_next_is(puts: list[tuple[str, float]]) -> None:
    """Against a dictionary, while time passes."""
    agenda, twin = Agenda[str](), dict[str, float]()
    for step, (key, at) in enumerate(puts):
        now = Instant(step / 8)
        agenda.put(key, Instant(at))
        twin[key] = at
        if step % 3 == 0:
            ahead = [at for at in twin.values() if now < at < inf]
            assert agenda.next_after(now) == min(ahead, default=NEVER)
        assert set(agenda.late(now)) == {key for key, at in twin.items() if at <= now}
        ahead = [at for at in twin.values() if now < at < inf]
        assert agenda.next_after(now) == min(ahead, default=NEVER)
        assert agenda.at(ReplicaId(key)) == at


def test_an_agenda_that_was_cleared_of_what_is_outdated_is_in_order() -> None:
    agenda = Agenda[str]()
    for number in range(10):
        agenda.put(f"k{number}", Instant(100.0 - number))
    for step in range(2 * SLACK):
        agenda.put("k0", Instant(200.0 + step))
        assert agenda.next_after(Instant(0.0)) == 91.0
    assert set(agenda.late(Instant(93.0))) == {"k7", "k8", "k9"}


def test_of_what_a_node_does_not_have_nothing_is_free_or_taken() -> None:
    ledger, n, one, other = Ledger(), NodeId("n"), DeviceId("0"), DeviceId("1")
    assert (ledger.free(n, one), ledger.free_on(n), ledger.booked(n)) == (0, {}, {})
    ledger.join(n, ((one, 10),), 5)
    assert (ledger.free(n, other), ledger.deficit(n, other)) == (0, 0)
    assert ledger.free_on(n) == {one: 10, HOST: 5}
    assert not ledger.is_cut(n)
    ledger.measure(n, {one: 7, HOST: -1})
    assert (ledger.deficit(n, one), ledger.deficit(n, HOST)) == (3, 6)
    assert ledger.taken(n) == {one: 3, HOST: 5}
    ledger.give(n, {one: 2})
    assert ledger.budgets[n] == {one: 9, HOST: 0}
    ledger.give(n, {one: 4})
    assert ledger.budgets[n] == {one: 10, HOST: 0}, "no more than was named"


def test_costs_are_guessed_then_the_median_of_what_was_measured() -> None:
    guess = CostGuess(start_s=60, wake_level_1_s=2, wake_level_2_s=8, sleep_s=3)
    costs = CostTable(guess, OrderTimes())
    assert costs.raising(A, Depth.STOPPED) == 60
    assert [costs.raising(A, depth) for depth in Depth][:4] == [0, 0.5, 2, 8]
    for seconds in (4.0, 4.2, 100.0):
        costs.learn(A, Action.WAKE, Depth.LEVEL_1, seconds)
    assert costs.raising(A, Depth.LEVEL_1) == 4.2
    assert costs.raising(ModelName("b"), Depth.LEVEL_1) == 2
    for _ in range(REMEMBERED):
        costs.learn(A, Action.WAKE, Depth.LEVEL_1, 1.0)
    assert costs.raising(A, Depth.LEVEL_1) == 1.0
    assert costs.lowering(A, Depth.LEVEL_2) == 3
    costs.forget(A)
    assert costs.raising(A, Depth.LEVEL_1) == 2


SECONDS = st.sampled_from([inf, 0.0, 0.1, 5.0, 7.3, 60.0])


@settings(derandomize=True, max_examples=300)
@given(
    st.tuples(SECONDS, SECONDS, SECONDS, SECONDS),
    st.sampled_from(Depth),
    st.sampled_from(Depth),
    st.floats(0, 1e6),
)
def test_a_rung_that_is_due_is_one_whose_time_has_come(
    seconds: tuple[float, float, float, float], depth: Depth, deepest: Depth, since: float
) -> None:
    one, idle_since = spec("a", ladder=Ladder(*seconds), deepest=deepest), Instant(since)
    at = next_rung_at(one, depth, idle_since)
    if at == NEVER:
        assert due_depth(one, depth, idle_since, Instant(1e12)) is None
    else:
        due = due_depth(one, depth, idle_since, at)
        assert due is not None
        assert depth < due <= deepest
        if at > since:
            assert due_depth(one, depth, idle_since, Instant(since)) != due or 0.0 in seconds


def test_a_request_goes_to_the_replica_with_the_fewest_leases() -> None:
    busy, free, free_too, asleep = replica(0), replica(1), replica(2), replica(3)
    for one in (busy, free, free_too):
        one.phase = Phase.AWAKE
    busy.leases[RequestId("r")] = Instant(0.0)
    assert pick_to_serve([busy, free, free_too, asleep]) is free
    assert pick_to_serve([asleep]) is None


def test_backing_off_doubles_up_to_a_limit() -> None:
    assert [backoff_s(1.0, failures) for failures in (1, 2, 3, 7, 999)] == [1, 2, 4, 60, 60]


@pytest.mark.parametrize(
    ("phase", "depth", "where"),
    [
        (Phase.COLD, Depth.STOPPED, Residency.COLD),
        (Phase.STARTING, Depth.STOPPED, Residency.COLD),
        (Phase.AWAKE, Depth.AWAKE, Residency.HBM),
        (Phase.FALLING_ASLEEP, Depth.AWAKE, Residency.HBM),
        (Phase.ASLEEP, Depth.KV_RELEASED, Residency.HBM),
        (Phase.ASLEEP, Depth.LEVEL_1, Residency.HOST),
        (Phase.WAKING, Depth.LEVEL_2, Residency.NONE),
        (Phase.FAILED, Depth.LEVEL_1, Residency.COLD),
    ],
)
def test_where_the_weights_are(phase: Phase, depth: Depth, where: Residency) -> None:
    one = replica(phase=phase)
    one.depth = depth
    assert one.residency is where


def test_a_replica_bears_the_name_of_its_model() -> None:
    assert model_of(ReplicaId("org/a#b#10")) == "org/a#b"


def test_what_a_victim_is_counted_at() -> None:
    """Under ``cost`` what it takes, as often as that is likely waited for; never a gain."""
    dear, free = Choice(Depth.LEVEL_2, {}, cost_s=2.0), Choice(Depth.LEVEL_2, {}, cost_s=-1.0)
    assert [dear.regret(3.0, by) for by in (Eviction.COST, Eviction.LRU)] == [6.0, 2.0]
    assert [free.regret(3.0, by) for by in (Eviction.COST, Eviction.LRU)] == [0.0, -1.0]
