"""Stories that need more than a script: adoption, budgets, growth, orders that go wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.core.commands import (
    FinishOperation,
    GrantLease,
    SleepEngine,
    StartEngine,
    StopEngine,
    WakeEngine,
)
from controller.core.events import (
    CanaryDisagreed,
    DemotionOrdered,
    EngineFailed,
    EngineFound,
    EngineLost,
    EngineStarted,
    EngineWoke,
    LeaseReleased,
    ModelAdded,
    ModelChanged,
    NodeJoined,
    PinOrdered,
    TimePassed,
    WakeOrdered,
)
from controller.core.fleet import Fleet
from controller.core.invariants import check
from controller.core.lifecycle import InvariantBroken, Phase
from controller.core.names import (
    Cause,
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    NodeId,
    OperationId,
    OpId,
    ReplicaId,
    RequestId,
    Residency,
)
from tests.core.fleets import Story, ladder, node, policy, spec

A, B = ModelName("a"), ModelName("b")
A0, B0 = ReplicaId("a#0"), ReplicaId("b#0")
ON_0 = (NodeId("n"), (DeviceId("0"),))


def found(at: float, name: str, depth: Depth, incarnation: int = 77) -> EngineFound:
    held = Footprint(9) if depth is Depth.AWAKE else Footprint(2, 9)
    model = ModelName(name.split("#")[0])
    return EngineFound(Instant(at), ReplicaId(name), model, OpId(incarnation), depth, *ON_0, held)


@pytest.mark.parametrize("depth", [Depth.AWAKE, Depth.LEVEL_1])
def test_an_engine_from_before_is_adopted_as_it_is(depth: Depth) -> None:
    fleet = Fleet(policy(prefetch_start=True), [spec("a")])
    assert fleet.handle(found(0.0, "a#0", depth)) == []
    assert fleet.handle(node(0.0)) == []  # it is not started once more
    check(fleet)
    replica = fleet.replicas[A0]
    assert (replica.depth, replica.incarnation) == (depth, 77)
    assert fleet.ledger.booked(NodeId("n"))[DeviceId("0")] == replica.held.device_bytes


def test_ops_go_on_above_the_incarnations_that_were_found() -> None:
    fleet = Fleet(policy(), [spec("a"), spec("b")])
    fleet.handle(found(0.0, "a#0", Depth.LEVEL_1, incarnation=500))
    fleet.handle(node(0.0))
    [wake] = fleet.handle(WakeOrdered(Instant(1.0), OperationId("o"), A))
    assert isinstance(wake, WakeEngine)
    assert wake.op > 500


def test_an_engine_of_an_unknown_model_is_stopped_and_forgotten() -> None:
    story = Story(spec("a"))
    [stop] = story.feed(found(1.0, "ghost#0", Depth.AWAKE))
    assert isinstance(stop, StopEngine)
    assert stop == StopEngine(stop.op, ReplicaId("ghost#0"), OpId(77), Cause.REMOVED)
    assert story.fleet.ledger.free(NodeId("n"), DeviceId("0")) == 24 - 9
    story.answers("ghost#0")
    assert list(story.fleet.models) == ["a"]
    assert story.fleet.ledger.free(NodeId("n"), DeviceId("0")) == 24


def test_a_second_engine_for_a_replica_is_a_stray_and_stopped() -> None:
    story = Story(spec("a"))
    story.raises("r", "a")
    [stop] = story.feed(found(1.0, "a#0", Depth.AWAKE))
    assert isinstance(stop, StopEngine)
    assert stop.incarnation == 77
    assert story.fleet.replicas[A0].phase is Phase.AWAKE


def test_what_is_measured_is_what_is_booked_from_then_on() -> None:
    story = Story(spec("a", 10), spec("b", 10))
    story.arrives("r1", "a")
    order = story.fleet.replicas[A0].order
    assert order is not None
    story.feed(EngineStarted(Instant(10.0), order.op, A0, Footprint(16)))
    story.feed(LeaseReleased(Instant(11.0), RequestId("r1")))
    [sleep] = story.arrives("r2", "b")  # 16 + 10 do not fit into 24
    assert isinstance(sleep, SleepEngine)
    assert sleep == SleepEngine(sleep.op, A0, Depth.LEVEL_1, Cause.EVICTED, "b")
    story.answers("a#0")
    story.answers("b#0")
    assert story.fleet.models[A].footprint(Depth.AWAKE) == Footprint(16)


def test_an_engine_larger_than_its_budget_is_evicted_once_idle_and_then_refused() -> None:
    story = Story(spec("a", 10))
    story.arrives("r1", "a")
    order = story.fleet.replicas[A0].order
    assert order is not None
    [grant] = story.feed(EngineStarted(Instant(10.0), order.op, A0, Footprint(30)))
    assert isinstance(grant, GrantLease)
    [sleep] = story.feed(LeaseReleased(Instant(11.0), RequestId("r1")))
    assert isinstance(sleep, SleepEngine)
    assert sleep.whom == "the budget"
    story.answers("a#0")
    [refusal] = story.arrives("r2", "a")
    assert "needs 30 bytes, budget 24 bytes" in str(refusal)


def test_a_budget_that_shrinks_evicts_the_idle() -> None:
    story = Story(spec("a"), spec("b"))
    story.raises("r1", "a")
    story.raises("r2", "b")
    story.feed(LeaseReleased(story.time, RequestId("r2")))
    [sleep] = story.feed(node(20.0, device=15))
    assert isinstance(sleep, SleepEngine)
    assert sleep.replica == B0


def test_a_failed_stop_keeps_the_bytes_and_is_tried_again_later() -> None:
    story = Story(spec("a"))
    story.raises("r", "a")
    incarnation = story.fleet.replicas[A0].incarnation
    assert incarnation is not None
    [first] = story.feed(EngineLost(story.time, A0, incarnation, "killed"))
    assert isinstance(first, StopEngine)
    assert story.feed(EngineFailed(Instant(2.0), first.op, A0, "cannot be killed")) == []
    assert story.fleet.ledger.free(NodeId("n"), DeviceId("0")) == 14
    op, waited = first.op, []
    for _ in range(3):
        waited.append(story.fleet.next_deadline() - story.at)
        [again] = story.feed(TimePassed(story.fleet.next_deadline()))
        assert isinstance(again, StopEngine)
        assert again.op != op
        op = again.op
        assert story.feed(EngineFailed(story.time, op, A0, "cannot be killed")) == []
    assert waited == [1.0, 2.0, 4.0]


def test_an_order_to_sleep_waits_for_the_leases_and_for_the_depth() -> None:
    story = Story(spec("a"))
    story.raises("r1", "a")
    order = DemotionOrdered(story.time, OperationId("o"), A, Depth.LEVEL_2)
    assert story.feed(order) == []
    assert story.arrives("r2", "a") == []  # waits behind the order
    [sleep] = story.feed(LeaseReleased(story.time, RequestId("r1")))
    assert isinstance(sleep, SleepEngine)
    finish, wake = story.answers("a#0")
    assert finish == FinishOperation(OperationId("o"))
    assert isinstance(wake, WakeEngine)  # for r2


def test_an_order_to_sleep_that_fails_says_so() -> None:
    story = Story(spec("a"))
    story.raises("r1", "a")
    story.feed(LeaseReleased(story.time, RequestId("r1")))
    [sleep] = story.feed(DemotionOrdered(story.time, OperationId("o"), A, Depth.LEVEL_1))
    assert isinstance(sleep, SleepEngine)
    story.feed(EngineFailed(story.time, sleep.op, A0, "out of memory"))
    [finish] = story.answers("a#0")
    assert isinstance(finish, FinishOperation)
    assert "out of memory" in finish.error


def test_a_depth_for_which_the_host_has_no_room_is_refused() -> None:
    story = Story(spec("a"), host=5)
    story.raises("r1", "a")
    story.feed(LeaseReleased(story.time, RequestId("r1")))
    [finish] = story.feed(DemotionOrdered(story.time, OperationId("o"), A, Depth.LEVEL_1))
    assert finish == FinishOperation(OperationId("o"), "a#0: the host has no room for LEVEL_1")
    assert story.fleet.replicas[A0].phase is Phase.AWAKE


def test_a_wake_calls_off_a_sleep_that_has_not_begun() -> None:
    story = Story(spec("a"))
    story.raises("r1", "a")
    story.feed(DemotionOrdered(story.time, OperationId("down"), A, Depth.LEVEL_1))
    down, up = story.feed(WakeOrdered(story.time, OperationId("up"), A))
    assert down == FinishOperation(OperationId("down"), "called off by up")
    assert up == FinishOperation(OperationId("up"))
    assert story.fleet.replicas[A0].phase is Phase.AWAKE


def test_an_order_that_takes_too_long_ends_with_an_error() -> None:
    story = Story(spec("a"), operation_limit_s=100.0)
    story.raises("r1", "a")
    story.feed(DemotionOrdered(Instant(10.0), OperationId("o"), A, Depth.LEVEL_1))
    assert story.fleet.next_deadline() == 110.0
    [finish] = story.feed(TimePassed(Instant(110.0)))
    assert finish == FinishOperation(OperationId("o"), "not done within 100 s")


def test_a_changed_model_is_replaced_once_drained() -> None:
    story = Story(spec("a", 10))
    story.raises("r1", "a")
    assert story.feed(ModelChanged(story.time, spec("a", 12), restart=True)) == []
    assert story.arrives("r2", "a") == []
    [stop] = story.feed(LeaseReleased(story.time, RequestId("r1")))
    assert isinstance(stop, StopEngine)
    assert stop.cause is Cause.CHANGED
    [start] = story.answers("a#0")
    assert isinstance(start, StartEngine)
    [grant] = story.answers("a#0")
    assert isinstance(grant, GrantLease)
    assert story.fleet.replicas[A0].held == Footprint(12)


@pytest.mark.parametrize("is_awake", [True, False])
def test_a_changed_model_is_awake_again_unasked_if_it_was(is_awake: bool) -> None:
    story = Story(spec("a"))
    story.raises("r", "a")
    story.releases("r")
    if not is_awake:
        story.feed(DemotionOrdered(story.time, OperationId("o"), A, Depth.LEVEL_1))
        story.answers("a#0")
    story.feed(ModelChanged(story.time, spec("a", 12), restart=True))
    expected = [StartEngine] if is_awake else []
    assert [type(command) for command in story.answers("a#0")] == expected


def test_a_model_grows_while_its_replicas_are_busy_and_there_is_room() -> None:
    story = Story(spec("a", 10, replicas=2), busy_leases=2)
    story.raises("r1", "a")
    grant, start = story.arrives("r2", "a")
    assert isinstance(grant, GrantLease)
    assert isinstance(start, StartEngine)
    assert start.replica == "a#1"
    story.answers("a#1")
    [balanced] = story.arrives("r3", "a")
    assert isinstance(balanced, GrantLease)
    assert balanced.replica == "a#1"


def test_a_model_with_fewer_replicas_stops_the_last() -> None:
    both = spec("a", 10, replicas=2)
    story = Story(both, busy_leases=1)
    story.raises("r1", "a")
    story.answers("a#1")
    [stop] = story.feed(ModelChanged(story.time, replace(both, replicas=1), restart=False))
    assert isinstance(stop, StopEngine)
    story.answers("a#1")
    assert list(story.fleet.replicas) == ["a#0"]


def test_a_pinned_engine_that_dies_is_started_again_unasked() -> None:
    story = Story(spec("a"))
    story.feed(PinOrdered(story.time, A, True))
    story.raises("r1", "a")
    incarnation = story.fleet.replicas[A0].incarnation
    assert incarnation is not None
    story.feed(EngineLost(story.time, A0, incarnation, "killed"))
    [start] = story.answers("a#0")
    assert isinstance(start, StartEngine)


def test_an_engine_that_served_for_long_begins_a_new_count_of_failures() -> None:
    story = Story(spec("a", max_restarts=2))
    for number in range(4):
        story.raises(f"r{number}", "a")
        story.at += 100.0
        incarnation = story.fleet.replicas[A0].incarnation
        assert incarnation is not None
        story.feed(EngineLost(story.time, A0, incarnation, "killed"))
        story.feed(LeaseReleased(story.time, RequestId(f"r{number}")))
        story.answers("a#0")
    assert story.fleet.models[A].failures == 1


def test_busy_for_less_than_the_minimum_is_not_drained() -> None:
    story = Story(spec("a", 20), spec("b", 20), minimum_awake_s=5.0)
    story.raises("r1", "a")
    story.arrives("r2", "b")
    assert story.fleet.replicas[A0].phase is Phase.AWAKE
    assert story.fleet.next_deadline() == story.at + 5.0
    story.feed(TimePassed(story.fleet.next_deadline()))
    assert story.fleet.replicas[A0].phase is Phase.DRAINING


def test_a_sleeper_without_room_is_started_where_there_is_some() -> None:
    story = Story(spec("a", 10), spec("b", 12, pinned=True), device=14)
    story.raises("r1", "a")
    story.feed(LeaseReleased(story.time, RequestId("r1")))
    story.arrives("r2", "b")
    story.answers("a#0")
    story.answers("b#0")
    story.feed(node(20.0, "m", 1, 12, 50))
    [stop] = story.arrives("r3", "a")
    assert isinstance(stop, StopEngine)
    [start] = story.answers("a#0")
    assert isinstance(start, StartEngine)
    assert start.node == "m"


def test_the_dearest_demotion_is_the_last_resort() -> None:
    """Draining a busy replica is preferred to stopping sleepers that would start anew."""
    story = Story(spec("a", 12), spec("b", 10), spec("c", 12))
    for number, name in enumerate(["b", "c"]):
        story.raises(f"r{number}", name)
        story.feed(LeaseReleased(story.time, RequestId(f"r{number}")))
        story.feed(DemotionOrdered(story.time, OperationId(name), ModelName(name), Depth.LEVEL_2))
        story.answers(f"{name}#0")
    story.raises("r", "a")
    story.arrives("s", "b")
    story.answers("b#0")
    story.arrives("t", "c")
    assert story.fleet.replicas[A0].phase is Phase.DRAINING
    assert story.fleet.replicas[B0].phase is Phase.AWAKE


def test_what_can_be_seen() -> None:
    story = Story(spec("a", ladder=ladder(10.0)), spec("b"))
    fleet = story.fleet
    assert fleet.state(A) == "stopped"
    assert (fleet.outlook(A).phase, fleet.outlook(A).estimate_s) == ("queued", 10.0)
    story.arrives("r1", "a")
    story.at += 4.0
    story.feed(TimePassed(story.time))
    assert (fleet.outlook(A).phase, fleet.outlook(A).estimate_s) == ("starting", 6.0)
    assert fleet.idle_s(A, story.time) is None
    assert fleet.waiting() == fleet.waiting(A) == 1
    story.answers("a#0", after=8.0)
    assert (fleet.state(A), fleet.running(A), fleet.waiting()) == ("awake", 1, 0)
    assert fleet.idle_s(A, story.time) is None
    story.feed(LeaseReleased(story.time, RequestId("r1")))
    assert fleet.idle_s(A, Instant(story.at + 3.0)) == 3.0
    assert fleet.replicas[A0].residency is Residency.HBM
    story.feed(TimePassed(fleet.next_deadline()))
    story.at += 10.0
    story.answers("a#0")
    assert fleet.state(A) == "kv_released"
    whats = [line.what for line in fleet.story(A)]
    assert whats[:3] == ["COLD -> STARTING", "STARTING -> AWAKE", "AWAKE -> DRAINING"]
    assert [change.after for change in fleet.changes] == [Phase.ASLEEP]
    assert fleet.costs.raising(A, Depth.STOPPED) == 12.0


def test_an_answer_of_the_wrong_kind_is_our_mistake_and_carries_the_story() -> None:
    story = Story(spec("a"))
    story.arrives("r1", "a")
    order = story.fleet.replicas[A0].order
    assert order is not None
    with pytest.raises(InvariantBroken, match="COLD -> STARTING") as broken:
        story.fleet.handle(EngineWoke(story.time, order.op, A0, Footprint(1)))
    assert broken.value.replica == A0
    check(story.fleet)


def test_nothing_starts_before_a_node_has_joined() -> None:
    fleet = Fleet(policy(prefetch_start=True))
    assert fleet.handle(ModelAdded(Instant(0.0), spec("a"))) == []
    joined = NodeJoined(Instant(1.0), NodeId("n"), ((DeviceId("cpu"), 20),), 0)
    [start] = fleet.handle(joined)
    assert isinstance(start, StartEngine)
    assert start.devices == ("cpu",)


def test_failures_soon_after_a_start_are_counted_together() -> None:
    story = Story(spec("a", max_restarts=3))
    for number in range(2):
        story.raises(f"r{number}", "a")
        story.at += 1.0
        incarnation = story.fleet.replicas[A0].incarnation
        assert incarnation is not None
        story.feed(EngineLost(story.time, A0, incarnation, "killed"))
        assert story.fleet.models[A].failures == number + 1
        story.feed(LeaseReleased(story.time, RequestId(f"r{number}")))
        story.answers("a#0", after=60.0)


def test_each_canary_that_disagrees_is_counted_once() -> None:
    story = Story(spec("a"))
    [start] = story.arrives("r", "a")
    assert isinstance(start, StartEngine)
    story.feed(CanaryDisagreed(story.time, start.op, A0, "other words"))
    assert story.fleet.models[A].canary_failures == 1
