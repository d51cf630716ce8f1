"""Waking and starting: for the first demand that can have it, or the first steps to its room.

Each look at the demands ends with the first that changes anything; the plan then looks again.
A demand that must wait claims what it waits for, so that those with less right do not take it.
Only the first demand may have sleepers stopped: to those behind it, for whom everything that is
coming free is claimed, room is often a few seconds away, and a cold start is a long one.
"""

from __future__ import annotations

from controller.core.books import Books
from controller.core.demands import Demand, Urgency, demands_of, why
from controller.core.demoting import demote
from controller.core.failures import fail
from controller.core.fits import Fit, Verdict
from controller.core.freezing import freeze
from controller.core.ledger import HOST
from controller.core.lifecycle import Goal, Phase, Replica
from controller.core.models import ModelRecord
from controller.core.names import Cause, Depth, ModelName, RejectReason
from controller.core.node_room import devices_of
from controller.core.orders import order_start, order_wake
from controller.core.placement import (
    best_fit,
    fit_cold,
    is_blocked,
    is_possible,
    why_never,
    why_no_return,
)
from controller.core.relieving import evict, relieve
from controller.core.rooms import Rooms
from controller.core.routing import order_to_raise
from controller.core.tiers import shrink_for_room
from controller.core.turns import with_turn
from controller.core.victims import Asker

ONLY_INTO_FREE_ROOM = (Urgency.GROWTH, Urgency.HOURS)


def raise_wanted(books: Books) -> None:
    """Wake or start for the first demand that can have it, or begin to make its room."""
    rooms = Rooms(books)
    if relieve(books, rooms):
        return
    demands = demands_of(books)
    models = dict.fromkeys(demand.model for demand in demands)
    ahead: dict[ModelName, None] = {}
    before = books.version
    for demand in demands:
        if rooms.are_closed():
            break
        del models[demand.model]
        _pursue(books, rooms, demand, ahead, models)
        if books.version != before:
            return
        ahead[demand.model] = None
    _call_off_unneeded(books, rooms)


def _pursue(
    books: Books,
    rooms: Rooms,
    demand: Demand,
    ahead: dict[ModelName, None],
    behind: dict[ModelName, None],
) -> None:
    record = books.models[demand.model]
    best: tuple[Replica, Asker, Fit | None] | None = None
    for replica in _candidates(books, record):
        asker = Asker(
            demand.model,
            replica.id,
            can_evict=demand.urgency not in ONLY_INTO_FREE_ROOM,
            can_drain=demand.urgency is Urgency.WAITED_FOR,
            can_stop=demand.urgency is Urgency.WAITED_FOR and not ahead,
            since=demand.since,
            evict_to=demand.evict_to,
            ahead=ahead,
            behind=behind,
        )
        fit = best_fit(rooms, asker, record, replica)
        if best is None or _is_better(fit, best[2]):
            best = (replica, asker, fit)
    if best is not None:
        _act(books, rooms, demand, *best)


def _candidates(books: Books, record: ModelRecord) -> list[Replica]:
    """Sleepers, and one cold replica if it may be started now. Those with frozen requests first;
    where nobody else asks, no others."""
    frozen = [replica for replica in record.replicas if replica.id in books.frozen]
    if frozen and not _is_asked_for(books, record):
        return frozen
    head = books.backlog.head(record.spec.name)
    home = head.affinity.home if head is not None else None
    resting = order_to_raise(record.replicas, books.costs, home)
    asleep = [r for r in resting if r.phase is Phase.ASLEEP and r.id not in books.frozen]
    cold = [replica for replica in resting if replica.phase is Phase.COLD]
    can_start = not record.is_given_up and record.retry_at <= books.now
    return frozen + asleep + (cold[:1] if can_start else [])


def _is_asked_for(books: Books, record: ModelRecord) -> bool:
    model = record.spec.name
    return bool(books.operations.waking(model)) or any(with_turn(books, model))


def _is_better(fit: Fit | None, other: Fit | None) -> bool:
    return fit is not None and (other is None or fit.rank < other.rank)


def _act(
    books: Books, rooms: Rooms, demand: Demand, replica: Replica, asker: Asker, fit: Fit | None
) -> None:
    record = books.models[demand.model]
    if fit is None or is_blocked(fit):
        if _tiers_give(books, rooms, demand):
            return
        if replica.leases and (lost := why_no_return(books, replica)):
            fail(books, replica, f"its frozen requests cannot go on: {lost}")
        elif never := why_never(rooms, record):
            books.refuse(demand.model, RejectReason.NEVER_FITS, never)
            record.is_unstarted = False
        elif demand.urgency is Urgency.WAITED_FOR:
            _hold_back_others(books, rooms, demand, replica, asker)
    elif fit.verdict is Verdict.WAITS:
        rooms.at(fit.place.node).close(fit.place.devices, fit.need[HOST])
    elif fit.verdict is Verdict.READY:
        if replica.phase is Phase.ASLEEP:
            order_wake(books, replica, why(books, demand, replica))
        else:
            order_start(books, replica, fit.place, why(books, demand, replica))
    elif fit.moves:
        evict(books, fit, demand.model)
    else:
        freeze(books, asker, fit.drains)
        rooms.at(fit.place.node).claim(fit)


def _tiers_give(books: Books, rooms: Rooms, demand: Demand) -> bool:
    """Whatever else is done waits for what comes of it."""
    if demand.urgency is not Urgency.WAITED_FOR or not books.tiers:
        return False
    return not why_never(rooms, books.models[demand.model]) and shrink_for_room(books)


def _hold_back_others(
    books: Books, rooms: Rooms, demand: Demand, replica: Replica, asker: Asker
) -> None:
    """Nobody with less right may take what this demand will need. A demand that no eviction
    could satisfy (too much is pinned, or is frozen and must be able to come back) holds nobody
    back; a sleeper for which there is room elsewhere is stopped, to be started there."""
    record = books.models[demand.model]
    if not is_possible(rooms, asker, record, replica, may_thaw=False):
        is_free = replica.phase is Phase.ASLEEP and not replica.leases
        if is_free and not is_blocked(fit_cold(rooms, asker, record)):
            demote(books, replica, Goal(Depth.STOPPED, Cause.EVICTED, demand.model))
        return
    for room in rooms.nodes():
        if replica.place is None or replica.place.node == room.node:
            devices = replica.place.devices if replica.place else devices_of(room)
            room.close(devices, record.footprint(Depth.AWAKE).host_bytes)


def _call_off_unneeded(books: Books, rooms: Rooms) -> None:
    """Drains that make room for nobody any more. One that began in this very moment is left: two
    looks that prefer different places would otherwise undo each other's work for ever."""
    for replica in [r for r in books.moving.values() if r.phase is Phase.DRAINING]:
        if replica.since == books.now:
            continue
        assert replica.place is not None
        assert replica.goal is not None
        room, devices = rooms.at(replica.place.node), replica.place.devices
        if replica.id in room.drains and not any(d in room.closed for d in devices):
            books.call_off(replica, f"{replica.goal.whom} needs no room any more")
