"""What must always hold, after every event. Tests call ``check`` after each; the numbers are
those of docs/architecture.md. That a request is granted and rejected at most once (1) and that
late and doubled answers change nothing (6) needs memory that a fleet does not have: the simulator
and the rule machine keep it. (8) is a replay.
"""

from __future__ import annotations

from collections import Counter

from controller.core.demands import may_hope
from controller.core.fleet import Fleet
from controller.core.ledger import spread
from controller.core.lifecycle import (
    FROZEN,
    IN_FLIGHT,
    LEAVING,
    ON_THE_MOVE,
    SERVING,
    InvariantBroken,
    Phase,
    Replica,
)
from controller.core.names import DeviceId
from controller.core.placement import work_out_need
from controller.core.planning import STEPS
from controller.core.victims import (
    work_out_choices,
    work_out_coming,
    work_out_offer,
    work_out_victim,
)


def check(fleet: Fleet) -> None:
    """Raises InvariantBroken."""
    for replica in fleet.replicas.values():
        _check_order(replica)
        _check_leases(fleet, replica)
        _check_kv(replica)
        _check_booking(fleet, replica)
        _check_due(fleet, replica)
    _check_requests(fleet)
    _check_budgets(fleet)
    _check_indexes(fleet)
    _check_rest(fleet)


def _demand(holds: bool, what: str, replica: Replica | None = None) -> None:
    if not holds:
        raise InvariantBroken(what, replica)


def _check_requests(fleet: Fleet) -> None:
    """(1) Nobody waits and holds a lease at once; that nobody holds two is among (3)."""
    books = fleet.books
    waiting = [request for queue in books.backlog.by_model.values() for request in queue]
    _demand(len(waiting) == len(books.backlog), "the backlog and its queues differ")
    _demand(all(queue for queue in books.backlog.by_model.values()), "an empty queue is kept")
    _demand(not any(request in books.leased for request in waiting), "granted and waiting")
    lanes = books.backlog.lanes.values()
    queued = [request for by_lane in lanes for lane in by_lane.values() for request in lane]
    _demand(sorted(queued) == sorted(waiting), "the backlog and its lanes differ")


def _check_budgets(fleet: Fleet) -> None:
    """(2) No resource is over its budget, but by what was measured or cut."""
    ledger = fleet.ledger
    for node in ledger.bookings:
        total: Counter[DeviceId] = Counter()
        for booking in ledger.bookings[node].values():
            total.update(spread(booking.footprint, booking.place.devices))
        booked = ledger.booked(node)
        _demand(all(booked.get(r) == total[r] for r in total), f"{node}: totals differ")
        if node in ledger.budgets:
            over = {r: -ledger.free(node, r) for r in booked if ledger.free(node, r) < 0}
            _demand(over == ledger.excused.get(node, {}), f"{node}: over its budget by {over}")
    for node, budget in ledger.budgets.items():
        named = ledger.named.get(node, {})
        holds = budget.keys() == named.keys() and all(0 <= budget[r] <= named[r] for r in budget)
        _demand(holds, f"{node}: the budget {budget} is not within {named}")

    for tier in fleet.books.tiers.values():
        least = min(tier.least_bytes, tier.held_bytes)
        _demand(0 <= tier.held_bytes <= tier.whole_bytes, f"{tier}: larger than it may be")
        _demand(tier.order is None or tier.order.to_bytes >= least, f"{tier}: told to give up all")
        given = ledger.given(tier.node).get(tier.device, 0)
        _demand(given == tier.given_bytes, f"{tier}: {given} are given")


def _check_leases(fleet: Fleet, replica: Replica) -> None:
    """(3) A lease is held only on AWAKE or DRAINING, or frozen, and on one replica; some are
    never frozen."""
    holds = not replica.leases or replica.phase in (*SERVING, *FROZEN)
    _demand(holds, f"{replica.id}: a lease while {replica.phase.name}", replica)
    may_be = not (replica.is_frozen and replica.never_frozen)
    _demand(may_be, f"{replica.id}: frozen in spite of {list(replica.never_frozen)}", replica)
    are_held = all(request in replica.leases for request in replica.never_frozen)
    _demand(are_held, f"{replica.id}: not leases: {list(replica.never_frozen)}", replica)
    for request in replica.leases:
        _demand(fleet.books.leased.get(request) == replica.id, f"{request}: whose lease?", replica)


def _check_order(replica: Replica) -> None:
    """(4) An open op exactly while waiting for the world; DRAINED is never seen."""
    is_waiting = replica.phase in IN_FLIGHT
    _demand((replica.order is not None) == is_waiting, f"{replica.id}: order and phase", replica)
    _demand(replica.phase is not Phase.DRAINED, f"{replica.id}: seen DRAINED", replica)
    is_leaving = replica.phase in LEAVING
    _demand((replica.goal is not None) == is_leaving, f"{replica.id}: goal and phase", replica)
    is_there = replica.phase is not Phase.COLD
    _demand((replica.place is not None) == is_there, f"{replica.id}: place and phase", replica)
    _demand((replica.incarnation is not None) == is_there, f"{replica.id}: incarnation", replica)


def _check_kv(replica: Replica) -> None:
    """(7) KV is dropped only after its export ended, well or badly."""
    may_hold = (*SERVING, Phase.HIBERNATING)
    holds = not replica.has_kv or replica.phase in may_hold
    _demand(holds, f"{replica.id}: KV dropped while {replica.phase.name}", replica)


def _check_booking(fleet: Fleet, replica: Replica) -> None:
    """What is booked is what is held, and in flight at least that."""
    if replica.place is None:
        everywhere = fleet.ledger.bookings.values()
        _demand(
            not any(replica.id in on_node for on_node in everywhere), "cold and booked", replica
        )
        return
    booking = fleet.ledger.bookings[replica.place.node][replica.id]
    _demand(booking.place == replica.place, f"{replica.id}: booked elsewhere", replica)
    covers = booking.footprint.union(replica.held) == booking.footprint
    is_exact = booking.footprint == replica.held
    is_raised = replica.phase in IN_FLIGHT or replica.phase is Phase.FAILED
    _demand(covers if is_raised else is_exact, f"{replica.id}: booked and held differ", replica)


def _check_due(fleet: Fleet, replica: Replica) -> None:
    holds = fleet.books.agenda.at(replica.id) == fleet.books.due(replica)
    _demand(holds, f"{replica.id}: due is stale", replica)
    expected = fleet.models[replica.model].replicas
    is_moving = replica.phase in ON_THE_MOVE
    _demand((replica.id in fleet.books.moving) == is_moving, f"{replica.id}: moving?", replica)
    _demand(replica in expected, f"{replica.id}: not among its model's", replica)


def _check_indexes(fleet: Fleet) -> None:
    """What is kept is what would be worked out."""
    books = fleet.books
    frozen = [r.id for r in books.replicas.values() if r.is_frozen and r.phase is Phase.ASLEEP]
    _demand(sorted(frozen) == sorted(books.frozen), f"frozen: {frozen}")
    hoping = [model for model, record in books.models.items() if may_hope(record)]
    missing = [model for model in hoping if model not in books.hopeful]
    _demand(not missing, f"hoping in vain: {missing}")
    failing = [model for model, record in books.models.items() if record.failures]
    _demand(all(model in books.failing for model in failing), "a failure is forgotten")
    for name, leaking in books.leaking.items():
        is_there = books.replicas.get(name) is leaking and leaking.incarnation is not None
        _demand(is_there, f"{name}: leaks, and is not there")
    for record in books.models.values():
        is_fresh = record.rungs is None or record.rungs == books.work_out_rungs(record)
        _demand(is_fresh, f"{record.spec.name}: a stale ladder")
    for name, choices in books.reliefs.choices.items():
        replica = books.replicas[name]
        _demand(choices == work_out_choices(books, replica), f"{name}: stale choices", replica)
    for name, coming in books.reliefs.coming.items():
        replica = books.replicas[name]
        _demand(coming == work_out_coming(books, replica), f"{name}: stale relief", replica)
    for name, need in books.reliefs.needs.items():
        replica = books.replicas[name]
        _demand(need == work_out_need(books, replica), f"{name}: a stale need", replica)
    for name, rows in books.reliefs.idle.items():
        replica = books.replicas[name]
        fresh = {regard: work_out_victim(books, replica, regard) for regard in rows}
        _demand(rows == fresh, f"{name}: regarded as before", replica)
    for (node, device), offers in list(books.reliefs.offers.items()):
        for depth, offer in offers.items():
            books.reliefs.shares.clear()
            worked_out = work_out_offer(books, node, device, depth)
            _demand(offer == worked_out, f"{node} {device}: a stale offer")


def _check_rest(fleet: Fleet) -> None:
    """(5) Planning again orders nothing; nor does any step by itself, also where the plan would
    see from afar that it need not be taken."""
    version = fleet.books.version
    for step in STEPS:
        step(fleet.books)
    _demand(not fleet.books.commands, f"planning again orders {fleet.books.commands}")
    _demand(fleet.books.version == version, "planning again changes the books")
