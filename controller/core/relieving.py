"""A node that holds more than its budget allows: what is given back, in a declared order.

Where an engine turned out larger than it was booked, or an administrator cut the budget, the idle
are evicted, as for a model that needs the room. Where others took memory that the fleet counts on,
the kernel will kill somebody if nobody goes, so more is done, and this is the order:

1. The KV tier on the host shrinks (``tiers``).
2. Sleepers go deeper and idle engines to sleep, whom it costs least first; then some are stopped.
3. Flexible requests that would have to wait for room are shed (``admission``).
4. Busy engines are drained: they take no further requests.
5. Everybody who would have to wait is shed while not even what is coming free suffices.

Where all of it together is too little, all that can go goes. What is pinned stays whatever happens.
"""

from __future__ import annotations

from controller.core.books import Books
from controller.core.choices import Choice, Victim
from controller.core.demoting import demote
from controller.core.fits import Fit, Verdict
from controller.core.ledger import Amounts
from controller.core.lifecycle import Goal
from controller.core.models import ModelRecord
from controller.core.names import Cause, ModelName, Priority
from controller.core.node_room import NodeRoom
from controller.core.placement import best_fit
from controller.core.rooms import Rooms
from controller.core.tiers import can_give
from controller.core.victims import Asker, replicas_on, victims

BUDGET = "the budget"
OTHERS = "what others took of the memory"


def relieve(books: Books, rooms: Rooms) -> bool:
    """Whether anything was begun."""
    before = books.version
    for node in books.ledger.budgets:
        if books.ledger.is_over_budget(node) and rooms.at(node).is_overrun():
            _relieve(books, rooms.at(node))
    return books.version != before


def _relieve(books: Books, room: NodeRoom) -> None:
    is_cut = books.ledger.is_cut(room.node)
    asker = Asker(ModelName(""), can_drain=is_cut, evict_to=books.policy.evict_to)
    lacking = {resource: -amount for resource, amount in room.spare.items() if amount < 0}
    fit = room.relieve(asker)
    if fit.verdict is not Verdict.BLOCKED:
        evict(books, fit, OTHERS if is_cut else BUDGET)
        room.claim(fit)
    elif is_cut:
        for victim in victims(books, asker, replicas_on(books, room.node)):
            _give(books, victim, lacking)


def evict(books: Books, fit: Fit, whom: str) -> None:
    for move in fit.moves:
        demote(books, books.replicas[move.replica], Goal(move.depth, Cause.EVICTED, whom))


def _give(books: Books, victim: Victim, lacking: Amounts) -> None:
    """All that it has of what is lacking, and no deeper than that takes."""
    best = max(victim.choices, key=lambda choice: _worth(choice, lacking), default=None)
    if best is not None and _worth(best, lacking) > 0:
        demote(books, books.replicas[victim.replica], Goal(best.depth, Cause.EVICTED, OTHERS))


def _worth(choice: Choice, lacking: Amounts) -> int:
    return sum([choice.relief.get(resource, 0) for resource in lacking])


# who is shed


def why_shed(books: Books, record: ModelRecord, priority: Priority) -> str | None:
    """Of a request that would have to wait, while others hold memory of the fleet's; None: it may
    wait for them."""
    ledger = books.ledger
    cut = [node for node in ledger.budgets if ledger.is_cut(node)]
    if not cut:
        return None
    rooms = Rooms(books)
    is_flexible = priority is Priority.FLEX and not can_give(books)
    if is_flexible and not _has_room(books, rooms, record):
        return _told(books)
    if all(node in cut and rooms.at(node).is_overrun() for node in ledger.budgets):
        return _told(books)
    return None


def _has_room(books: Books, rooms: Rooms, record: ModelRecord) -> bool:
    """Without evicting anybody, or on the way already."""
    asker = Asker(record.spec.name, can_evict=False)
    resting = [replica for replica in record.replicas if replica not in books.moving.values()]
    fits = [best_fit(rooms, asker, record, replica) for replica in resting]
    return not fits or any(fit and fit.verdict <= Verdict.COMING for fit in fits)


def _told(books: Books) -> str:
    ledger = books.ledger
    taken = sum([sum(ledger.taken(node).values()) for node in ledger.budgets])
    return f"other processes hold {taken >> 20} MiB of the memory that the fleet counts on"
