"""Engines and leases that were there before: what follows from them at once."""

from __future__ import annotations

import pytest

from controller.core.commands import ExportKV, StopEngine, WakeEngine
from controller.core.demands import demands_of
from controller.core.events import DemotionOrdered, EngineFound, LeaseFound, RequestArrived
from controller.core.fits import Verdict
from controller.core.fleet import Fleet
from controller.core.invariants import check
from controller.core.lifecycle import Goal
from controller.core.models import ModelRecord
from controller.core.names import (
    NEVER,
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
    model_of,
)
from controller.core.placement import fit_cold, why_no_return
from controller.core.rooms import Rooms
from controller.core.victims import Asker
from tests.core.fleets import ladder, node, policy, spec


def found(name: str, device: str, depth: Depth, size: int) -> EngineFound:
    replica, on = ReplicaId(name), (NodeId("n"), (DeviceId(device),))
    return EngineFound(
        Instant(0.0), replica, model_of(replica), OpId(7), depth, *on, Footprint(size)
    )


def test_of_two_sleepers_that_one_wakes_which_has_room_where_it_lies() -> None:
    fleet = Fleet(policy(), [spec("a", 10, replicas=2), spec("p", 11, pinned=True)])
    fleet.handle(found("a#0", "0", Depth.LEVEL_2, 1))
    fleet.handle(found("a#1", "1", Depth.LEVEL_2, 1))
    fleet.handle(found("p#0", "0", Depth.AWAKE, 11))
    fleet.handle(node(0.0, devices=2, device=12))
    [wake] = fleet.handle(RequestArrived(Instant(1.0), RequestId("r"), ModelName("a")))
    assert isinstance(wake, WakeEngine)
    assert wake.replica == "a#1"


@pytest.mark.parametrize("drains", [False, True])
def test_of_several_devices_those_are_chosen_where_most_would_be_free(drains: bool) -> None:
    """What is held on one device gives nothing on another, be it by many, and draining or not."""
    small = [spec(name, 3) for name in "abc"]
    fleet = Fleet(policy(), [*small, spec("p", 2, pinned=True), spec("m", 11)])
    fleet.handle(found("p#0", "0", Depth.AWAKE, 2))
    for name in "abc":
        fleet.handle(found(f"{name}#0", "2", Depth.AWAKE, 3))
    fleet.handle(node(0.0, devices=3, device=12))
    if drains:
        for name in "abc":
            replica = fleet.replicas[ReplicaId(f"{name}#0")]
            replica.leases[RequestId(name)] = Instant(0.0)
            fleet.books.drain(replica, Goal(Depth.STOPPED, Cause.EVICTED, "m"))
    wide = ModelRecord(spec("m", 11, devices_per_replica=2))
    fit = fit_cold(Rooms(fleet.books), Asker(wide.spec.name), wide)
    assert fit is not None
    assert fit.place.devices == ("1", "2")
    assert fit.verdict is (Verdict.DRAINS if drains else Verdict.STOPS)


def test_leases_that_are_found_on_a_sleeper_are_frozen_since_the_first_was_found() -> None:
    fleet = Fleet(policy(), [spec("a", 10), spec("p", 11, pinned=True)])
    fleet.handle(found("a#0", "0", Depth.LEVEL_2, 1))
    fleet.handle(found("p#0", "0", Depth.AWAKE, 11))
    fleet.handle(node(0.0, device=12))
    a = fleet.replicas[ReplicaId("a#0")]
    for number in (1, 2):
        fleet.handle(LeaseFound(Instant(float(number)), RequestId(f"r{number}"), a.id))
        assert a.frozen_at == 1.0
    assert fleet.frozen() == [a.id]


@pytest.mark.parametrize(("frozen_at", "since"), [(1.0, 1.0), (3.0, 2.0)])
def test_a_model_is_wanted_back_since_its_freeze_or_since_somebody_waits(
    frozen_at: float, since: float
) -> None:
    fleet = Fleet(policy(), [spec("a", 10)])
    fleet.handle(found("a#0", "0", Depth.LEVEL_2, 1))
    fleet.handle(LeaseFound(Instant(0.5), RequestId("r"), ReplicaId("a#0")))
    fleet.replicas[ReplicaId("a#0")].frozen_at = Instant(frozen_at)
    fleet.books.backlog.add(RequestId("q"), ModelName("a"), Instant(2.0), 100.0)
    assert [demand.since for demand in demands_of(fleet.books)] == [since]


def test_what_an_engine_that_is_found_awake_has_computed_is_kept() -> None:
    """A sleeper has none."""
    for depth, expected in ((Depth.AWAKE, ExportKV), (Depth.LEVEL_1, StopEngine)):
        fleet = Fleet(policy(), [spec("a", 10, keeps_kv=True)])
        fleet.handle(found("a#0", "0", depth, 10))
        fleet.handle(node(0.0, device=12))
        ordered = DemotionOrdered(Instant(1.0), OperationId("o"), ModelName("a"), Depth.STOPPED)
        assert [type(order) for order in fleet.handle(ordered)] == [expected]


def test_a_model_is_in_the_state_of_its_best_replica() -> None:
    fleet = Fleet(policy(), [spec("a", 10, replicas=3)])
    assert fleet.state(ModelName("a")) == "stopped"
    fleet.handle(found("a#2", "0", Depth.LEVEL_2, 1))
    assert fleet.state(ModelName("a")) == "level_2"
    fleet.handle(found("a#1", "0", Depth.LEVEL_1, 1))
    assert fleet.state(ModelName("a")) == "level_1"
    fleet.handle(found("a#0", "0", Depth.AWAKE, 10))
    assert fleet.state(ModelName("a")) == "awake"


@pytest.mark.parametrize(("device", "why"), [(10, "more than the budget of n: 0"), (11, None)])
def test_a_sleeper_cannot_come_back_beside_who_may_not_be_stopped(
    device: int, why: str | None
) -> None:
    fleet = Fleet(policy(), [spec("a", 10), spec("c", 9, deepest=Depth.LEVEL_2)])
    fleet.handle(found("a#0", "0", Depth.LEVEL_2, 1))
    fleet.handle(found("c#0", "0", Depth.LEVEL_2, 1))
    fleet.handle(node(0.0, device=device))
    assert why_no_return(fleet.books, fleet.replicas[ReplicaId("a#0")]) == why


def test_a_sleeper_that_may_not_be_stopped_is_not_in_its_own_way() -> None:
    fleet = Fleet(policy(), [spec("a", 10, deepest=Depth.LEVEL_2), spec("b", 9)])
    fleet.handle(found("a#0", "0", Depth.LEVEL_2, 1))
    fleet.handle(found("b#0", "0", Depth.LEVEL_2, 1))
    fleet.handle(node(0.0, device=10))
    assert why_no_return(fleet.books, fleet.replicas[ReplicaId("a#0")]) is None


def test_who_holds_a_lease_that_was_found_is_not_idle() -> None:
    fleet = Fleet(policy(), [spec("a", 10, ladder=ladder(60.0))])
    fleet.handle(found("a#0", "0", Depth.AWAKE, 10))
    fleet.handle(node(0.0))
    assert fleet.next_deadline() == 60.0
    for request in ("r", "s"):
        fleet.handle(LeaseFound(Instant(1.0), RequestId(request), ReplicaId("a#0")))
        assert fleet.next_deadline() == NEVER
        check(fleet)


@pytest.mark.parametrize("can_freeze", [True, False])
@pytest.mark.parametrize("depth", [Depth.AWAKE, Depth.LEVEL_2])
def test_a_lease_that_is_found_is_never_frozen_if_it_declined_and_is_not_yet(
    depth: Depth, can_freeze: bool
) -> None:
    fleet = Fleet(policy(), [spec("a", 10)])
    fleet.handle(found("a#0", "0", depth, 1))
    fleet.handle(LeaseFound(Instant(1.0), RequestId("r"), ReplicaId("a#0"), can_freeze))
    declined = depth is Depth.AWAKE and not can_freeze
    assert bool(fleet.replicas[ReplicaId("a#0")].never_frozen) is declined
