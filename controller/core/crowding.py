"""No more sleepers on a node than the policy allows: those that are missed least are stopped.

Memory is not all that a sleeper takes: it is processes, sockets and a context on the device, and
a host may have enough of these before its bytes are booked. Sleepers that somebody waits for are
left alone, and so are those that may not be stopped; they count all the same.
"""

from __future__ import annotations

from controller.core.books import Books
from controller.core.demoting import demote
from controller.core.eviction import right_to_stay
from controller.core.lifecycle import Goal, Phase, Replica
from controller.core.names import Cause, Depth, ModelName
from controller.core.victims import Asker, replicas_on, victims

LIMIT = "the limit of sleepers"


def thin_out(books: Books) -> None:
    if books.policy.most_sleepers is None or not books.is_crowded:
        return
    books.is_crowded = False
    for node in list(books.ledger.bookings):
        asleep = [r for r in replicas_on(books, node) if r.phase is Phase.ASLEEP]
        surplus = len(asleep) - books.policy.most_sleepers
        if surplus > 0:
            _stop(books, asleep, surplus)


def _stop(books: Books, asleep: list[Replica], surplus: int) -> None:
    asker = Asker(ModelName(""))
    rows = victims(books, asker, asleep)
    found = [v for v in rows if v.choices and v.choices[-1].depth is Depth.STOPPED]
    found.sort(key=lambda victim: right_to_stay(victim, victim.choices[-1], books.policy.eviction))
    free = [v for v in found if books.replicas[v.replica].model not in books.backlog.by_model]
    for victim in free[:surplus]:
        demote(books, books.replicas[victim.replica], Goal(Depth.STOPPED, Cause.EVICTED, LIMIT))
    books.is_crowded |= len(free) < min(surplus, len(found))
