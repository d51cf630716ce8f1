"""On the way down: from the decision to the order, the depth chosen late."""

from __future__ import annotations

from controller.core.books import Books
from controller.core.idle import RUNGS
from controller.core.lifecycle import Goal, Phase, Replica
from controller.core.names import Cause, Depth
from controller.core.orders import order_down, order_export


def demote(books: Books, replica: Replica, goal: Goal) -> None:
    """Down to the goal: at once if it sleeps; else the plan sees when its drain has ended."""
    if replica.phase is Phase.ASLEEP:
        order_down(books, replica, goal)
    else:
        books.drain(replica, goal)


def go_down(books: Books, replica: Replica) -> None:
    """The drain has ended: choose the depth and order it. Where the host has no room for the
    goal it goes deeper, or, where it must not, stays awake."""
    goal = replica.goal
    assert goal is not None
    if goal.cause is Cause.ORDERED and not books.has_host_for(replica, goal.depth):
        refuse_depth(books, replica, goal.depth)
        books.call_off(replica, f"the host has no room for {goal.depth.name}")
        return
    deepest = books.models[replica.model].spec.deepest
    depth = fitting_depth(books, replica, goal.depth, max(goal.depth, deepest))
    if depth is None:
        books.call_off(replica, f"the host has no room for {goal.depth.name}")
        return
    if replica.has_kv:
        order_export(books, replica)
        return
    books.move(replica, Phase.DRAINED, str(goal))
    replica.goal = None
    order_down(books, replica, Goal(depth, goal.cause, goal.whom))


def fitting_depth(books: Books, replica: Replica, depth: Depth, deepest: Depth) -> Depth | None:
    """The first depth from ``depth`` to ``deepest`` for which the host has room."""
    rungs = [rung for rung in RUNGS if depth <= rung <= deepest]
    return next((rung for rung in rungs if books.has_host_for(replica, rung)), None)


def refuse_depth(books: Books, replica: Replica, depth: Depth) -> None:
    for operation in books.operations.demoting(replica.model):
        if operation.depth == depth and replica.id in operation.demoting:
            del operation.demoting[replica.id]
            operation.error = f"{replica.id}: the host has no room for {depth.name}"
            books.version += 1
