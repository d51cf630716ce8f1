"""What is ordered of an engine, and how that is answered: phase, ledger, story and command at once.

An order reserves before it goes out; how it ended is told to ``close_order``, or is a failure.
"""

from __future__ import annotations

from controller.core.books import Books
from controller.core.commands import ExportKV, SleepEngine, StartEngine, StopEngine, WakeEngine
from controller.core.lifecycle import Action, Goal, Order, Phase, Place, Replica
from controller.core.names import Depth, Instant


def order_start(books: Books, replica: Replica, place: Place, why: str) -> None:
    _reserve(books, replica, place, Depth.AWAKE)
    replica.place = place
    order = _open(books, replica, Action.START, Depth.STOPPED)
    replica.incarnation = order.op
    replica.raised_at, replica.raised_from = books.now, Depth.STOPPED
    books.models[replica.model].is_unstarted = False
    books.move(replica, Phase.STARTING, why)
    books.commands.append(
        StartEngine(order.op, replica.id, replica.model, place.node, place.devices)
    )


def order_wake(books: Books, replica: Replica, why: str) -> None:
    assert replica.place is not None
    _reserve(books, replica, replica.place, Depth.AWAKE)
    order = _open(books, replica, Action.WAKE, replica.depth)
    replica.raised_at, replica.raised_from = books.now, replica.depth
    books.move(replica, Phase.WAKING, why)
    books.commands.append(WakeEngine(order.op, replica.id, replica.depth))


def order_export(books: Books, replica: Replica) -> None:
    order = _open(books, replica, Action.EXPORT, Depth.AWAKE)
    books.move(replica, Phase.HIBERNATING, f"for {replica.goal}")
    books.commands.append(ExportKV(order.op, replica.id))


def end_export(books: Books, replica: Replica, why: str) -> None:
    replica.has_kv = False
    books.move(replica, Phase.DRAINING, why)


def order_down(books: Books, replica: Replica, goal: Goal) -> None:
    """To the goal's depth, from DRAINED, from ASLEEP, or (stopped) from FAILED."""
    assert replica.place is not None
    assert replica.incarnation is not None
    replica.prefixes.clear()
    if goal.depth is Depth.STOPPED:
        order = _open(books, replica, Action.STOP, Depth.STOPPED)
        books.move(replica, Phase.STOPPING, str(goal))
        books.commands.append(
            StopEngine(order.op, replica.id, replica.incarnation, goal.cause, goal.whom)
        )
    else:
        _reserve(books, replica, replica.place, goal.depth)
        order = _open(books, replica, Action.SLEEP, goal.depth)
        books.move(replica, Phase.FALLING_ASLEEP, f"to {goal.depth.name}: {goal}")
        books.commands.append(
            SleepEngine(
                order.op, replica.id, goal.depth, goal.cause, goal.whom, bool(replica.leases)
            )
        )


def order_freeze(books: Books, replica: Replica, depth: Depth) -> None:
    """From DRAINING, with its leases. What KV they have is dropped without an export: it is
    computed again, or found in the tier, when they go on."""
    goal = replica.goal
    assert goal is not None
    replica.frozen_at, replica.has_kv, replica.goal = books.now, False, None
    books.move(replica, Phase.DRAINED, f"frozen with {len(replica.leases)} running: {goal}")
    order_down(books, replica, Goal(depth, goal.cause, goal.whom))


def close_order(books: Books, replica: Replica) -> Order:
    """It was answered well: what it took is learned."""
    order = replica.order
    assert order is not None
    replica.order = None
    if not replica.is_retiring:
        books.costs.learn(replica.model, order.action, order.depth, books.now - order.at)
        books.learned(books.models[replica.model])
    return order


def _open(books: Books, replica: Replica, action: Action, depth: Depth) -> Order:
    patience_s = books.costs.patience_s(replica.model, action, depth)
    until = Instant(books.now + patience_s)
    replica.order = Order(books.new_op(), action, depth, books.now, until)
    return replica.order


def _reserve(books: Books, replica: Replica, place: Place, depth: Depth) -> None:
    union = replica.held.union(books.footprint(replica, depth))
    books.ledger.reserve(replica, place, union)
