"""The plan: the first thing that wants doing, again and again until nothing does.

expire → grant → bury the failed, carry demotions on → what administrators ordered → what KV tiers
give up → wake, for the demands in their order of right, evicting for room → stop sleepers that are
too many → demote the idle → restart those that leak → what KV tiers have back.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.core import idle
from controller.core.admission import turn_away_hopeless
from controller.core.books import Books
from controller.core.crowding import thin_out
from controller.core.demoting import demote, fitting_depth, go_down, refuse_depth
from controller.core.failures import fail
from controller.core.freezable import end_of_turn
from controller.core.leaking import restart_leaking
from controller.core.leases import grant_lease
from controller.core.lifecycle import (
    IN_FLIGHT,
    SERVING,
    Action,
    Goal,
    InvariantBroken,
    Phase,
    Replica,
)
from controller.core.models import ModelRecord
from controller.core.names import NEVER, Cause, Depth, Instant, RejectReason
from controller.core.operations import rests_at
from controller.core.orders import end_export, order_down
from controller.core.raising import raise_wanted
from controller.core.routing import is_served, is_usable, pick_to_serve
from controller.core.tiers import deadlines, regrow_tiers, shrink_tiers
from controller.core.turns import next_turn, with_turn

MOST_ROUNDS = 100_000


def plan(books: Books) -> None:
    for _ in range(MOST_ROUNDS):
        if is_at_rest(books):
            return
        before = books.version
        for step in STEPS:
            step(books)
            if books.version != before:
                break
        else:
            return
    raise InvariantBroken("the plan does not come to rest")


def is_at_rest(books: Books) -> bool:
    """No step would find anything to look at: seen without taking the steps, since this is how
    nearly every event of a fleet that serves ends. False says nothing."""
    return not (
        books.backlog.by_model
        or books.operations
        or books.moving
        or books.hopeful
        or books.frozen
        or books.is_crowded
        or books.leaking
        or books.agenda.late(books.now)
        or books.ledger.is_over_any_budget()
        or not all(tier.is_whole for tier in books.tiers.values())
    )


def expire(books: Books) -> None:
    for waiting in books.backlog.overdue(books.now):
        waited = books.now - waiting.arrived
        detail = f"no replica of {waiting.model} within {waited:.1f} s"
        books.reject(waiting.request, RejectReason.DEADLINE_PASSED, detail)
    for operation in books.operations:
        if operation.ordered_at + books.policy.operation_limit_s <= books.now:
            books.finish(operation, f"not done within {books.policy.operation_limit_s:.0f} s")


def grant(books: Books) -> None:
    for model in list(books.backlog.by_model):
        replicas = books.models[model].replicas
        _call_back(books, replicas)
        while is_served(replicas) and (waiting := next_turn(books, model)):
            replica = pick_to_serve(replicas, waiting.affinity, books.policy.busy_leases)
            assert replica is not None
            books.backlog.remove(waiting.request)
            grant_lease(books, waiting, replica, waiting.arrived)


def _call_back(books: Books, replicas: list[Replica]) -> None:
    """Those that were on their way down only because nobody asked."""
    for replica in replicas:
        goal = replica.goal
        if replica.phase is Phase.HIBERNATING and goal is not None and goal.cause is Cause.IDLE:
            books.call_off(replica, "it is asked for")


def _due(books: Books) -> list[Replica]:
    late = books.agenda.late(books.now)
    if len(late) < 2:
        return [books.replicas[name] for name in late]
    return [replica for replica in books.replicas.values() if replica.id in late]


def carry_on(books: Books) -> None:
    """Bury the failed, and those who owe an answer for too long; take drains that have ended, and
    retirements, to their next step."""
    for replica in _due(books):
        match replica.phase:
            case phase if phase in IN_FLIGHT:
                _end_waiting(books, replica)
            case Phase.FAILED:
                order_down(books, replica, Goal(Depth.STOPPED, Cause.FAILED))
            case Phase.DRAINING:
                go_down(books, replica)
            case Phase.COLD:
                _end_retirement(books, replica)
            case Phase.AWAKE | Phase.ASLEEP if replica.is_retiring:
                demote(books, replica, books.goal_of_retirement(replica))
            case _:
                pass


def _end_waiting(books: Books, replica: Replica) -> None:
    """An order went without an answer for too long; should one come, it is a late one."""
    order = replica.order
    assert order is not None
    reason = f"no answer to {order.action.value} within {order.until - order.at:.0f} s"
    if order.action is Action.EXPORT:
        replica.order = None
        end_export(books, replica, f"its KV is lost: {reason}")
    else:
        fail(books, replica, reason)
        turn_away_hopeless(books, replica.model)


def _end_retirement(books: Books, replica: Replica) -> None:
    record = books.models[replica.model]
    if record.is_removed or replica.index >= record.spec.replicas:
        books.forget(replica)
    else:
        replica.is_retiring = False
        books.touch(replica)


def close_operations(books: Books) -> None:
    for operation in books.operations:
        for name in list(operation.demoting):
            replica = books.replicas.get(name)
            if replica is None or rests_at(replica, operation.depth):
                del operation.demoting[name]
        if operation.waking and is_served(books.models[operation.waking].replicas):
            operation.waking = None
        if operation.is_done:
            books.finish(operation)


def obey(books: Books) -> None:
    """Start what administrators' demotions still ask for."""
    for operation in books.operations:
        for name in list(operation.demoting):
            replica = books.replicas[name]
            match replica.phase:
                case Phase.AWAKE:
                    demote(books, replica, operation.goal)
                case Phase.DRAINING | Phase.HIBERNATING if (
                    replica.goal is not None and replica.goal.cause in OVERRULED
                ):
                    books.drain(replica, operation.goal)
                case Phase.ASLEEP if replica.leases:
                    pass
                case Phase.ASLEEP if not books.has_host_for(replica, operation.depth):
                    refuse_depth(books, replica, operation.depth)
                case Phase.ASLEEP:
                    demote(books, replica, operation.goal)
                case _:
                    pass


OVERRULED = (Cause.IDLE, Cause.EVICTED)


def give_up(books: Books) -> None:
    """Whoever waits for a model that failed too often is told so."""
    asked = [*books.backlog.by_model, *(o.waking for o in books.operations if o.waking)]
    for model in asked:
        record = books.models[model]
        if record.is_given_up and not any(is_usable(replica) for replica in record.replicas):
            books.refuse(model, RejectReason.CANNOT_START, record.why_given_up)


def demote_idle(books: Books) -> None:
    for replica in _due(books):
        if replica.phase not in (Phase.AWAKE, Phase.ASLEEP) or replica.is_retiring:
            continue
        record = books.models[replica.model]
        if replica.model in books.backlog.by_model or record.is_kept(replica):
            continue
        spec = record.spec
        ladder = books.ladder(record)
        depth = idle.due_depth(spec, replica.depth, replica.idle_since, books.now, ladder)
        fitting = depth and fitting_depth(books, replica, depth, spec.deepest)
        if fitting is not None:
            if spec.sets_own_ladder:
                _tell_why(books, replica, fitting)
            demote(books, replica, Goal(fitting, Cause.IDLE))


def _tell_why(books: Books, replica: Replica, depth: Depth) -> None:
    for rung in books.own_rungs(books.models[replica.model]):
        if rung.depth is depth:
            what = f"idle for {rung.after_s:.1f} s, to {depth.name}"
            replica.tell(books.now, what, rung.why)


def next_deadline(books: Books) -> Instant:
    """The first moment after now at which time alone changes what there is to do."""
    is_over = books.ledger.is_over_any_budget()
    is_asked = bool(books.backlog.by_model or books.operations or books.frozen)
    of_tiers = list(deadlines(books)) if books.tiers else []
    if not (is_asked or books.failing or is_over or of_tiers):
        return books.agenda.next_after(books.now)
    now, limit = books.now, books.policy.operation_limit_s
    times = of_tiers
    times += [record.retry_at for record in _failing(books)]
    times += [Instant(operation.ordered_at + limit) for operation in books.operations]
    times += [books.agenda.next_after(now), books.backlog.next_deadline()]
    if is_asked or is_over:
        minimum = books.policy.minimum_awake_s
        serving = [r for r in books.replicas.values() if r.phase in SERVING]
        if minimum:
            times += [Instant(replica.awake_since + minimum) for replica in serving]
        busy = [replica for replica in serving if replica.leases]
        if any(replica.phase is Phase.DRAINING for replica in busy):
            times += [end_of_turn(books, replica) for replica in busy]
    times += _ends_of_patience(books)
    return min([time for time in times if time > now], default=NEVER)


def _ends_of_patience(books: Books) -> Iterator[Instant]:
    limit_s = books.policy.maximum_wait_behind_s
    if limit_s < NEVER:
        waking = (operation for operation in books.operations if operation.waking)
        yield from (Instant(operation.ordered_at + limit_s) for operation in waking)
        yield from (Instant(r.frozen_at + limit_s) for r in books.frozen.values())
        for model in books.backlog.by_model:
            yield from (Instant(waiting.arrived + limit_s) for waiting in with_turn(books, model))


def _failing(books: Books) -> Iterator[ModelRecord]:
    for model in list(books.failing):
        record = books.models.get(model)
        if record is not None and (record.failures or record.retry_at > books.now):
            yield record
        else:
            del books.failing[model]


STEPS = (
    expire,
    grant,
    carry_on,
    close_operations,
    obey,
    give_up,
    shrink_tiers,
    raise_wanted,
    thin_out,
    demote_idle,
    restart_leaking,
    regrow_tiers,
)
