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

Who is frozen is chosen anew when the maximum has passed (``node_room``): of all that may be,
whether they drain already or not, the set that costs least. All that a room lacks is frozen or
nothing: where those that may be frozen do not suffice (a model or a request does not want it, no
room on the host for a sleeper) the drains go on as they were chosen, and everybody runs to the end.
Nor is an engine frozen that drains for an administrator, or for good.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.books import Books
from controller.core.demoting import fitting_depth
from controller.core.freezable import is_out_of_patience, may_freeze
from controller.core.idle import DEEPEST_FROZEN
from controller.core.lifecycle import Phase, Replica
from controller.core.names import Depth, ReplicaId
from controller.core.orders import order_freeze
from controller.core.victims import Asker


def freeze(books: Books, asker: Asker, drains: Iterable[ReplicaId]) -> None:
    """Of these drains the first that still waits for responses; the next look takes the next."""
    if not is_out_of_patience(books, asker):
        return
    busy = [books.replicas[name] for name in drains if books.replicas[name].leases]
    depths = [depth_to_freeze(books, replica) for replica in busy]
    if busy and depths[0] is not None and None not in depths:
        order_freeze(books, busy[0], depths[0])


def depth_to_freeze(books: Books, replica: Replica) -> Depth | None:
    """None: it cannot be, or not yet."""
    goal = replica.goal
    if replica.phase is not Phase.DRAINING or goal is None or not may_freeze(books, replica):
        return None
    deepest = min(books.models[replica.model].spec.deepest, DEEPEST_FROZEN)
    return fitting_depth(books, replica, goal.depth, deepest)
