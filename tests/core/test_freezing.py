"""Long responses that are suspended for those who waited their maximum, and go on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations, pairwise
from math import fsum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.commands import (
    Command,
    ExportKV,
    FinishOperation,
    GrantLease,
    SleepEngine,
    StopEngine,
    WakeEngine,
)
from controller.core.events import (
    CanaryDisagreed,
    DemotionOrdered,
    EngineFailed,
    EngineFound,
    EngineLost,
    Event,
    LeaseFound,
    LeaseReleased,
    ModelRemoved,
    NodeLost,
    PinOrdered,
    RequestArrived,
    RequestCancelled,
    TimePassed,
)
from controller.core.freezable import may_freeze
from controller.core.lifecycle import Goal, Phase
from controller.core.names import (
    Cause,
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    ModelSpec,
    NodeId,
    OperationId,
    OpId,
    Priority,
    ReplicaId,
    RequestId,
)
from tests.core.fleets import Story, node, simulator, sizes, spec

MAXIMUM_S = 9.0


def crowded(*specs: ModelSpec, **more: Any) -> Story:
    """There is room for one."""
    both = specs or more.pop("specs", (spec("a", 20), spec("b", 20)))
    return Story(*both, **{"maximum_wait_behind_s": MAXIMUM_S, "minimum_awake_s": 2.0, **more})


def phases(story: Story) -> dict[str, Phase]:
    return {replica.model: replica.phase for replica in story.fleet.replicas.values()}


def wait(story: Story, seconds: float) -> list[Command]:
    """As the core wants it: whenever it asked to be told of the time."""
    end, commands = story.at + seconds, list[Command]()
    while (at := story.fleet.next_deadline()) <= end:
        commands += story.feed(TimePassed(at))
    story.at = end
    return commands


def ends(story: Story, request: str) -> list[Command]:
    return story.feed(LeaseReleased(story.time, RequestId(request)))


def only(commands: Sequence[Command], kind: type[Command]) -> Any:
    [command] = [command for command in commands if isinstance(command, kind)]
    return command


def a_freeze(**more: Any) -> Story:
    """``long`` streams on a; b waited for it and a falls asleep with it."""
    story = crowded(**more)
    story.raises("long", "a")
    wait(story, 20.0)
    assert story.arrives("rb", "b") == []
    sleep = only(wait(story, MAXIMUM_S), SleepEngine)
    assert (sleep.replica, sleep.keep, sleep.whom) == ("a#0", True, "b")
    assert story.fleet.frozen() == ["a#0"], "on its way down already"
    return story


def frozen(**more: Any) -> Story:
    """The same, and b answers."""
    story = a_freeze(**more)
    story.answers("a#0")
    assert story.fleet.state(ModelName("a")) == "frozen"
    assert story.fleet.frozen() == ["a#0"]
    grant = only(story.answers("b#0"), GrantLease)
    assert grant.request == "rb"
    return story


# when


def test_a_stream_is_frozen_when_somebody_waited_the_maximum_and_no_sooner() -> None:
    story = crowded()
    story.raises("long", "a")
    wait(story, 20.0)
    story.arrives("rb", "b")
    assert wait(story, MAXIMUM_S - 0.1) == []
    assert phases(story)["a"] is Phase.DRAINING
    [sleep] = wait(story, 0.1)
    assert isinstance(sleep, SleepEngine)
    assert (sleep.keep, sleep.depth) == (True, Depth.LEVEL_1)


# who


def busy_fleet(*models: tuple[int, bool, int], need: int) -> Story:
    """(size, may be frozen, requests before): all awake with a long response, and no room left;
    ``z`` needs so much and is waited for."""
    specs = [spec(f"m{i}", size, can_freeze=may) for i, (size, may, _) in enumerate(models)]
    device = sum(size for size, _, _ in models)
    story = crowded(*specs, spec("z", need), device=device, host=100, minimum_awake_s=0.0)
    for i, (_, _, before) in enumerate(models):
        story.raises(f"long{i}", f"m{i}")
        for extra in range(before):
            story.arrives(f"r{i}-{extra}", f"m{i}")
            ends(story, f"r{i}-{extra}")
    wait(story, 20.0)
    story.arrives("rz", "z")
    return story


def frozen_for_z(story: Story) -> list[ReplicaId]:
    """Once it has waited its maximum, until it starts, or nothing more happens."""
    asleep = []
    commands = wait(story, MAXIMUM_S)
    while sleeps := [order for order in commands if isinstance(order, SleepEngine)]:
        for sleep in sleeps:
            assert sleep.keep
            asleep.append(sleep.replica)
            commands = story.answers(sleep.replica, after=0.0)
    return asleep


def test_who_may_be_frozen_is_chosen_though_another_would_do_alone() -> None:
    story = busy_fleet((20, False, 0), (10, True, 5), (12, True, 5), need=19)
    assert sorted(frozen_for_z(story)) == ["m1#0", "m2#0"]
    assert phases(story)["z"] is Phase.STARTING


def test_a_drain_that_cannot_be_frozen_is_not_begun_where_another_will_do() -> None:
    story = busy_fleet((20, False, 0), (20, True, 5), need=10)
    assert phases(story)["m1"] is Phase.DRAINING
    assert phases(story)["m0"] is Phase.AWAKE


def test_where_those_who_may_be_frozen_do_not_suffice_nobody_is() -> None:
    story = busy_fleet((20, False, 0), (10, True, 0), need=25)
    assert frozen_for_z(story) == []


@given(
    st.lists(
        st.tuples(st.integers(2, 9), st.booleans(), st.integers(0, 6)), min_size=1, max_size=5
    ),
    st.integers(1, 40),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_those_are_frozen_who_cost_least_of_all_who_may_be(
    models: list[tuple[int, bool, int]], need: int
) -> None:
    need = min(need, sum(size for size, _, _ in models))
    story = busy_fleet(*models, need=need)
    books = story.fleet.books
    asleep = frozen_for_z(story)

    def paid(names: Collection[str]) -> tuple[int, float]:
        return len(names), fsum(books.popularity.of(ModelName(name)) for name in names)

    may = {f"m{i}": size - 1 for i, (size, may, _) in enumerate(models) if may}
    ways = [
        way
        for count in range(1, len(may) + 1)
        for way in combinations(may, count)
        if sum(may[name] for name in way) >= need
    ]
    chosen = [name.removesuffix("#0") for name in asleep]
    assert bool(chosen) == bool(ways)
    if ways:
        assert tuple(sorted(chosen)) in ways
        assert paid(chosen) == pytest.approx(min(map(paid, ways)))


def test_a_drain_that_ends_by_itself_freezes_nobody() -> None:
    story = crowded()
    story.raises("long", "a")
    story.arrives("rb", "b")
    wait(story, MAXIMUM_S / 2)
    [sleep] = ends(story, "long")
    assert isinstance(sleep, SleepEngine)
    assert not sleep.keep


@pytest.mark.parametrize("never", ["model", "request"])
def test_who_does_not_want_it_is_not_frozen(never: str) -> None:
    story = crowded(spec("a", 20, can_freeze=never != "model"), spec("b", 20))
    arrival = RequestArrived(
        story.time, RequestId("long"), ModelName("a"), can_freeze=never != "request"
    )
    story.feed(arrival)
    story.answers("a#0")
    story.arrives("other", "a")
    wait(story, 20.0)
    story.arrives("rb", "b")
    assert wait(story, 100.0) == []
    assert phases(story)["a"] is Phase.DRAINING
    sleeps = ends(story, "long")
    if never == "request":
        assert only(sleeps, SleepEngine).keep, "the other one does not mind"
    else:
        assert sleeps == []


def test_whoever_was_brought_up_just_before_has_its_turn_first() -> None:
    story = crowded(minimum_awake_s=0.0)
    story.arrives("rb", "b")
    story.answers("b#0")
    story.arrives("long", "a")
    ends(story, "rb")
    story.answers("b#0")
    story.arrives("rb2", "b")
    story.answers("a#0", after=12.0)  # so long did the start take: longer than the maximum
    assert wait(story, 11.9) == []
    assert only(wait(story, 0.1), SleepEngine).keep


def test_for_a_pinned_model_which_would_stay_nobody_is_frozen() -> None:
    story = crowded(spec("a", 20), spec("b", 20, pinned=True))
    story.raises("long", "a")
    wait(story, 20.0)
    story.arrives("rb", "b")
    assert wait(story, 100.0) == []


def test_the_flexible_freeze_nobody() -> None:
    story = crowded()
    story.raises("long", "a")
    flexible = RequestArrived(story.time, RequestId("rb"), ModelName("b"), priority=Priority.FLEX)
    assert story.feed(flexible) == []
    assert wait(story, 100.0) == []


def test_an_engine_that_drains_for_an_administrator_is_not_frozen() -> None:
    story = crowded()
    story.raises("long", "a")
    order = DemotionOrdered(story.time, OperationId("o"), ModelName("a"), Depth.LEVEL_1)
    story.feed(order)
    story.arrives("rb", "b")
    assert wait(story, 100.0) == []


def test_all_that_the_room_lacks_is_frozen_or_nothing() -> None:
    small = (spec("a", 10, can_freeze=False), spec("c", 10), spec("b", 20))
    story = crowded(*small)
    story.raises("ra", "a")
    story.raises("rc", "c")
    wait(story, 20.0)
    story.arrives("rb", "b")
    assert wait(story, 100.0) == []
    commands = ends(story, "ra")
    assert {(c.replica, c.keep) for c in commands if isinstance(c, SleepEngine)} == {
        ("a#0", False),
        ("c#0", True),
    }


def test_several_are_frozen_for_one() -> None:
    story = crowded(spec("a", 10), spec("c", 10), spec("b", 20))
    story.raises("ra", "a")
    story.raises("rc", "c")
    wait(story, 20.0)
    story.arrives("rb", "b")
    kept = [c.replica for c in wait(story, MAXIMUM_S) if isinstance(c, SleepEngine) and c.keep]
    assert sorted(kept) == ["a#0", "c#0"]


def test_no_deeper_than_the_room_needs_and_never_stopped() -> None:
    story = crowded(evict_to=Depth.KV_RELEASED, device=32)
    story.raises("long", "a")
    wait(story, 20.0)
    story.arrives("rb", "b")
    assert only(wait(story, MAXIMUM_S), SleepEngine).depth is Depth.KV_RELEASED
    tight = crowded(host=0)
    tight.raises("long", "a")
    wait(tight, 20.0)
    tight.arrives("rb", "b")
    assert only(wait(tight, MAXIMUM_S), SleepEngine).depth is Depth.LEVEL_2
    stopped = crowded(spec("a", 20), spec("b", 24))
    stopped.raises("long", "a")
    wait(stopped, 20.0)
    stopped.arrives("rb", "b")
    assert wait(stopped, 100.0) == []
    assert phases(stopped)["a"] is Phase.DRAINING


# and back


def test_it_goes_on_when_the_other_has_nothing_more_to_do() -> None:
    story = frozen()
    assert only(ends(story, "rb"), SleepEngine).replica == "b#0"
    wake = only(story.answers("b#0"), WakeEngine)
    assert (wake.replica, wake.depth) == ("a#0", Depth.LEVEL_1)
    assert story.answers("a#0") == []
    assert story.fleet.replicas[ReplicaId("a#0")].leases.keys() == {"long"}
    assert story.fleet.state(ModelName("a")) == "awake"


def test_two_long_streams_alternate_by_the_maximum() -> None:
    story = frozen()
    frozen_at = story.fleet.replicas[ReplicaId("a#0")].frozen_at
    [sleep] = wait(story, 100.0)[:1]
    assert isinstance(sleep, SleepEngine)
    assert (sleep.replica, sleep.keep, sleep.whom) == ("b#0", True, "a")
    assert story.fleet.replicas[ReplicaId("b#0")].frozen_at == frozen_at + MAXIMUM_S


def test_requests_of_a_frozen_model_wait_and_are_served_with_it() -> None:
    story = frozen()
    assert story.arrives("ra", "a") == []
    ends(story, "rb")
    story.answers("b#0")
    assert only(story.answers("a#0"), GrantLease).request == "ra"


def test_a_stream_of_requests_to_the_other_does_not_hold_it_for_ever() -> None:
    story = frozen()
    for number in range(30):
        story.arrives(f"b{number}", "b")
        wait(story, 0.5)
        if phases(story)["b"] is Phase.DRAINING:
            break
    else:
        pytest.fail("b is granted whatever comes")
    assert story.arrives("late", "b") == []
    assert story.fleet.waiting(ModelName("b")) == 1


def test_a_client_that_leaves_while_frozen_brings_nobody_back() -> None:
    story = frozen()
    story.feed(RequestCancelled(story.time, RequestId("long")))
    assert ends(story, "rb") == []
    assert phases(story) == {"a": Phase.ASLEEP, "b": Phase.AWAKE}
    assert story.fleet.state(ModelName("a")) == "level_1"


def test_where_the_room_was_not_needed_after_all_it_goes_on_at_once() -> None:
    story = a_freeze()
    story.feed(RequestCancelled(story.time, RequestId("rb")))
    assert only(story.answers("a#0"), WakeEngine).replica == "a#0"


def test_frozen_it_may_be_pushed_to_level_2_but_not_further() -> None:
    sized = {**sizes(20), Depth.LEVEL_1: Footprint(1, 60)}
    story = Story(
        spec("a", 20, footprints=sized),
        spec("b", 20, footprints=sized),
        device=24,
        host=100,
        maximum_wait_behind_s=MAXIMUM_S,
    )
    story.raises("long", "a")
    wait(story, 20.0)
    story.arrives("rb", "b")
    wait(story, MAXIMUM_S)
    story.answers("a#0")
    story.answers("b#0")
    commands = ends(story, "rb")
    assert not any(isinstance(c, StopEngine) for c in commands)


@pytest.mark.parametrize("priority", [Priority.DEFAULT, Priority.PRIORITY])
def test_it_goes_on_also_where_somebody_with_more_right_needs_it_stopped(
    priority: Priority,
) -> None:
    """c needs the whole device; that a frozen engine stands in its way must not keep it frozen."""
    story = frozen(specs=(spec("a", 20), spec("b", 20), spec("c", 24)))
    arrival = RequestArrived(story.time, RequestId("rc"), ModelName("c"), 1e6, priority=priority)
    story.feed(arrival)
    wait(story, 5.0)
    commands = ends(story, "rb") + story.answers("b#0")
    assert not any(isinstance(c, StopEngine) and c.replica == "a#0" for c in commands)
    assert only(commands, WakeEngine).replica == "a#0"
    story.answers("a#0")
    stops = [*wait(story, 30.0), *ends(story, "long")]
    assert any(isinstance(c, StopEngine) and c.replica == "a#0" for c in stops)


def test_an_administrators_order_waits_until_the_frozen_have_finished() -> None:
    story = frozen()
    order = DemotionOrdered(story.time, OperationId("o"), ModelName("a"), Depth.STOPPED)
    assert story.feed(order) == []
    ends(story, "rb")
    story.answers("b#0")
    story.answers("a#0")
    assert phases(story)["a"] is Phase.DRAINING
    assert only(ends(story, "long"), StopEngine).replica == "a#0"
    assert only(story.answers("a#0"), FinishOperation).error == ""


def test_a_removed_model_finishes_what_is_frozen_first() -> None:
    story = frozen()
    assert story.feed(ModelRemoved(story.time, ModelName("a"))) == []
    ends(story, "rb")
    assert only(story.answers("b#0"), WakeEngine).replica == "a#0"
    story.answers("a#0")
    assert only(ends(story, "long"), StopEngine).replica == "a#0"


def test_what_a_pin_takes_the_frozen_have_when_it_ends() -> None:
    story = frozen()
    story.feed(PinOrdered(story.time, ModelName("b"), True))
    ends(story, "rb")
    assert wait(story, 1000.0) == []
    commands = story.feed(PinOrdered(story.time, ModelName("b"), False))
    assert only(commands, SleepEngine).replica == "b#0"


def test_kv_of_a_thawed_stream_is_exported_when_it_ends() -> None:
    kept = (spec("a", 20, keeps_kv=True), spec("b", 20))
    story = crowded(*kept)
    story.raises("long", "a")
    wait(story, 20.0)
    story.arrives("rb", "b")
    wait(story, MAXIMUM_S)
    story.answers("a#0")
    story.answers("b#0")
    ends(story, "rb")
    story.answers("b#0")
    story.answers("a#0")
    story.arrives("rb2", "b")
    assert only(ends(story, "long"), ExportKV).replica == "a#0"


# what goes wrong


def broken(story: Story, kind: type[EngineFailed] | type[CanaryDisagreed]) -> list[Command]:
    order = story.fleet.replicas[ReplicaId("a#0")].order
    assert order is not None
    return story.feed(kind(story.time, order.op, ReplicaId("a#0"), "broke"))


def test_an_engine_that_cannot_be_frozen_is_stopped_and_its_streams_end() -> None:
    story = a_freeze()
    assert only(broken(story, EngineFailed), StopEngine).replica == "a#0"
    assert story.fleet.running(ModelName("a")) == 0


@pytest.mark.parametrize("kind", [EngineFailed, CanaryDisagreed])
def test_one_that_wakes_wrong_never_goes_on(
    kind: type[EngineFailed] | type[CanaryDisagreed],
) -> None:
    story = frozen()
    ends(story, "rb")
    story.answers("b#0")
    assert phases(story)["a"] is Phase.WAKING
    assert only(broken(story, kind), StopEngine).replica == "a#0"
    assert story.fleet.frozen() == []
    ends(story, "long")  # as the client's end is told of
    assert story.answers("a#0") == []


def test_one_that_dies_frozen_loses_its_streams_and_nothing_else() -> None:
    story = frozen()
    incarnation = story.fleet.replicas[ReplicaId("a#0")].incarnation
    assert incarnation is not None
    story.feed(EngineLost(story.time, ReplicaId("a#0"), incarnation, "killed"))
    assert story.fleet.frozen() == []
    assert phases(story)["b"] is Phase.AWAKE


def test_a_node_that_goes_takes_its_frozen_with_it() -> None:
    story = frozen()
    story.feed(NodeLost(story.time, NodeId("n")))
    assert story.fleet.frozen() == []
    assert set(phases(story).values()) == {Phase.COLD}


def test_one_that_can_never_wake_again_is_stopped() -> None:
    story = frozen()
    commands = story.feed(node(story.at, device=10))
    assert only(commands, StopEngine).replica == "a#0"
    last = story.fleet.story(ModelName("a"))[-2]
    assert "cannot go on" in last.why


# a controller that is started again


def found(*before: Event) -> Story:
    """It finds a asleep; b has room beside it."""
    story = Story(spec("a", 20), spec("b", 20), maximum_wait_behind_s=MAXIMUM_S)
    place, held = (NodeId("n"), (DeviceId("0"),)), Footprint(1, 20)
    name = ReplicaId("a#0")
    story.feed(
        EngineFound(story.time, name, ModelName("a"), OpId(500), Depth.LEVEL_1, *place, held)
    )
    return story


def test_a_sleeper_that_is_found_is_not_woken_for_nobody() -> None:
    story = found()
    assert wait(story, 100.0) == []
    assert story.fleet.frozen() == []


def test_one_whose_response_a_carrier_still_holds_is_brought_back() -> None:
    story = found()
    commands = story.feed(LeaseFound(story.time, RequestId("kept"), ReplicaId("a#0")))
    assert only(commands, WakeEngine).replica == "a#0"


# to reach


@pytest.mark.parametrize("seed", range(5))
def test_the_first_token_comes_within_the_maximum_and_one_switch(seed: int) -> None:
    """And the stream takes so much longer as it was frozen, no more."""
    sim = simulator(
        spec("a", 20), spec("b", 20), seed=seed, maximum_wait_behind_s=30.0, minimum_awake_s=5.0
    )
    sim.request(0.0, "long", "a", serve_s=1000.0, max_wait_s=1e6)
    sim.request(100.0, "short", "b", serve_s=3.0)
    sim.run()
    waited_s = sim.clients[RequestId("short")].granted[0] - 100.0
    switch_s = 1.2 * (2.0 + 10.0)
    assert 30.0 < waited_s <= 30.0 + switch_s
    [(end, _)] = [
        (event.at, commands)
        for event, commands in sim.journal
        if isinstance(event, LeaseReleased) and event.request == "long"
    ]
    began = sim.clients[RequestId("long")].granted[0]
    assert end - began == pytest.approx(1000.0 + 2 * switch_s, abs=switch_s)


def test_two_streams_and_two_maxima_lose_little_to_switching() -> None:
    sim = simulator(spec("a", 20), spec("b", 20), maximum_wait_behind_s=30.0, minimum_awake_s=5.0)
    sim.request(0.0, "ra", "a", serve_s=300.0, max_wait_s=1e6)
    sim.request(1.0, "rb", "b", serve_s=300.0, max_wait_s=1e6)
    sim.run()
    assert sim.now < Instant(800.0)
    kept = [
        (event.at, command.replica)
        for event, commands in sim.journal
        for command in commands
        if isinstance(command, SleepEngine) and command.keep
    ]
    turns = [later[0] - earlier[0] for earlier, later in pairwise(kept)]
    assert len(kept) > 10
    assert all(earlier[1] != later[1] for earlier, later in pairwise(kept))
    assert all(turn == pytest.approx(30.0) for turn in turns)


@pytest.mark.parametrize(
    ("goal", "may"),
    [
        (Goal(Depth.LEVEL_2, Cause.EVICTED, "b"), True),
        (Goal(Depth.STOPPED, Cause.EVICTED, "b"), False),
        (Goal(Depth.LEVEL_1, Cause.ORDERED), False),
    ],
)
def test_only_who_drains_for_another_and_to_sleep_may_be_frozen(goal: Goal, may: bool) -> None:
    story = crowded()
    story.raises("long", "a")
    wait(story, 20.0)
    story.feed(TimePassed(story.time))
    books = story.fleet.books
    books.drain(books.replicas[ReplicaId("a#0")], goal)
    assert may_freeze(books, books.replicas[ReplicaId("a#0")]) is may
