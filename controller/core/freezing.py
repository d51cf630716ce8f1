"""Whose requests are suspended in the middle, so that another model has its turn.

A drain waits for the responses that run, however long they are. Once somebody has waited
``maximum_wait_behind_s``, and all that its room still lacks are engines that drain for it, these
are put to sleep as they are: their leases are *frozen*. A lease is frozen on a replica that is
FALLING_ASLEEP, ASLEEP or WAKING; there is no mark on it, since nothing else may hold a lease
there. It never is on one that stops: a frozen engine goes to level 2 at the deepest.

A frozen replica is a demand, as old as its freeze (``demands``), and has the same means: it may
drain others, and have them frozen in its turn once it has waited its maximum. So two long streams
alternate by the maximum, and nobody is overtaken for ever. Nobody is frozen before it has had a
turn, though: its minimum awake, and as long as it took to bring it up, so that engines that are
slow to switch do not switch all the time.

Nobody is frozen for a pinned model, which would not give the room back.

All that a room lacks is frozen or nothing: one drain that cannot be (a model or a request that
does not want it, no room on the host for a sleeper) leaves the others running to their end. Nor
is an engine frozen that drains for an administrator, or for good.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.books import Books
from controller.core.demands import Demand, Urgency
from controller.core.demoting import fitting_depth
from controller.core.idle import DEEPEST_FROZEN
from controller.core.lifecycle import Phase, Replica
from controller.core.names import Cause, Depth, Instant, ReplicaId


def freeze(books: Books, demand: Demand, drains: Iterable[ReplicaId]) -> None:
    """Of these drains the first that still waits for responses; the next look takes the next."""
    if not is_out_of_patience(books, demand) or books.models[demand.model].spec.pinned:
        return
    busy = [books.replicas[name] for name in drains if books.replicas[name].leases]
    depths = [depth_to_freeze(books, replica) for replica in busy]
    if busy and depths[0] is not None and None not in depths:
        books.freeze(busy[0], depths[0])


def is_out_of_patience(books: Books, demand: Demand) -> bool:
    if demand.urgency is not Urgency.WAITED_FOR:
        return False
    return demand.since + books.policy.maximum_wait_behind_s <= books.now


def depth_to_freeze(books: Books, replica: Replica) -> Depth | None:
    """None: it cannot be, or not yet."""
    goal, spec = replica.goal, books.models[replica.model].spec
    if replica.phase is not Phase.DRAINING or goal is None or goal.cause is not Cause.EVICTED:
        return None
    if replica.never_frozen or not spec.can_freeze or books.now < end_of_turn(books, replica):
        return None
    return fitting_depth(books, replica, goal.depth, min(spec.deepest, DEEPEST_FROZEN))


def end_of_turn(books: Books, replica: Replica) -> Instant:
    """It is not frozen before."""
    took_s = replica.awake_since - replica.raised_at
    return Instant(replica.awake_since + max(books.policy.minimum_awake_s, took_s))
