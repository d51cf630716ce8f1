"""How long until a model is awake: for Retry-After, for those who watch, and for ``why``."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from controller.core.books import Books
from controller.core.fits import Fit, Verdict
from controller.core.lifecycle import IN_FLIGHT, Phase, Replica
from controller.core.models import ModelRecord
from controller.core.names import Cause, Depth
from controller.core.placement import best_fit, fit_cold, is_blocked, is_possible
from controller.core.rooms import Rooms
from controller.core.victims import Asker


@dataclass(frozen=True, slots=True)
class Outlook:
    phase: str
    """Of the replica that will be awake first; ``queued`` while it waits for room or is cold."""
    estimate_s: float
    """inf: as things are, never."""


def outlook_of(books: Books, record: ModelRecord) -> Outlook:
    rooms = Rooms(books)
    best = Outlook("queued", inf)
    for replica in record.replicas:
        seconds = _until_awake(books, rooms, record, replica)
        if seconds < best.estimate_s or best.estimate_s == inf:
            is_resting = replica.phase in (Phase.COLD, Phase.ASLEEP)
            best = Outlook("queued" if is_resting else replica.phase.value, seconds)
    return best


def _until_awake(books: Books, rooms: Rooms, record: ModelRecord, replica: Replica) -> float:
    costs, model = books.costs, replica.model
    left = remaining_s(books, replica)
    start = costs.raising(model, Depth.STOPPED) + max(0.0, record.retry_at - books.now)
    match replica.phase:
        case Phase.AWAKE if not replica.is_retiring:
            return 0.0
        case Phase.STARTING | Phase.WAKING:
            return left
        case Phase.FALLING_ASLEEP:
            assert replica.order is not None
            return left + costs.raising(model, replica.order.depth)
        case Phase.HIBERNATING if replica.goal is not None and replica.goal.cause is Cause.IDLE:
            return 0.0
        case Phase.DRAINING | Phase.HIBERNATING if replica.goal is not None:
            down = costs.lowering(model, replica.goal.depth)
            return left + down + costs.raising(model, replica.goal.depth)
        case Phase.ASLEEP:
            raising = costs.raising(model, replica.depth)
            return raising + _room_s(books, rooms, record, replica)
        case Phase.COLD:
            return inf if record.is_given_up else start + _room_s(books, rooms, record, replica)
        case _:
            return inf if record.is_given_up else left + start


def remaining_s(books: Books, replica: Replica) -> float:
    """Of the order that is out, as far as its cost is known; 0 when it is overdue."""
    order = replica.order
    if order is None:
        return 0.0
    takes = books.costs.seconds(replica.model, order.action, order.depth)
    return max(0.0, takes - (books.now - order.at))


def _room_s(books: Books, rooms: Rooms, record: ModelRecord, replica: Replica) -> float:
    """Until it has the memory it needs; what others ahead of it need is not foreseen."""
    if not books.ledger.budgets:
        return 0.0
    asker = Asker(record.spec.name, replica.id, evict_to=books.policy.evict_to)
    fit = best_fit(rooms, asker, record, replica)
    if fit is None or is_blocked(fit):
        if is_possible(rooms, asker, record, replica):
            return _in_flight_s(books, fit) + books.costs.guess.sleep_s
        if replica.place is None or is_blocked(fit_cold(rooms, asker, record)):
            return inf
        return books.costs.lowering(replica.model, Depth.STOPPED)
    if fit.verdict is Verdict.READY:
        return 0.0
    return max(_in_flight_s(books, fit), _moves_s(books, fit))


def _in_flight_s(books: Books, fit: Fit | None) -> float:
    held = books.ledger.bookings.get(fit.place.node, {}) if fit else {}
    replicas = [books.replicas[name] for name in held]
    moving = [remaining_s(books, r) for r in replicas if r.phase in IN_FLIGHT]
    return max(moving, default=0.0)


def _moves_s(books: Books, fit: Fit) -> float:
    moves = [(books.replicas[move.replica], move.depth) for move in fit.moves]
    drains = [books.replicas[name] for name in fit.drains]
    moves += [(replica, replica.goal.depth) for replica in drains if replica.goal]
    return max((books.costs.lowering(r.model, depth) for r, depth in moves), default=0.0)
