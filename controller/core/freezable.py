"""Whose responses may be suspended, and from when on; of whom rooms are made by freezing."""

from __future__ import annotations

from controller.core.books import Books
from controller.core.choices import Choice, Victim
from controller.core.idle import DEEPEST_FROZEN
from controller.core.ledger import Amounts
from controller.core.lifecycle import Phase, Replica
from controller.core.names import Cause, Depth, Instant
from controller.core.victims import Asker


def is_out_of_patience(books: Books, asker: Asker) -> bool:
    """It has waited as long as it must. Nobody is frozen for a pinned model, which would not give
    the room back."""
    limit_s = books.policy.maximum_wait_behind_s
    if not asker.can_drain or asker.since + limit_s > books.now:
        return False
    return not books.models[asker.model].spec.pinned


def may_freeze(books: Books, replica: Replica) -> bool:
    """At this moment, if it is made to drain or does so for somebody already."""
    goal, spec = replica.goal, books.models[replica.model].spec
    if replica.never_frozen or not spec.can_freeze or books.now < end_of_turn(books, replica):
        return False
    if replica.phase is Phase.DRAINING and goal is not None:
        return goal.cause is Cause.EVICTED and goal.depth <= DEEPEST_FROZEN
    return replica.phase is Phase.AWAKE


def end_of_turn(books: Books, replica: Replica) -> Instant:
    """It is not frozen before."""
    took_s = replica.awake_since - replica.raised_at
    return Instant(replica.awake_since + max(books.policy.minimum_awake_s, took_s))


def draining_victim(books: Books, asker: Asker, replica: Replica, relief: Amounts) -> Victim:
    """One that drains, as it would stand among the victims if it did not."""
    goal, record = replica.goal, books.models[replica.model]
    assert goal is not None
    now_s = books.costs.raising(replica.model, Depth.AWAKE)
    cost_s = books.costs.raising(replica.model, goal.depth) - now_s
    return Victim(
        replica=replica.id,
        is_busy=bool(replica.leases),
        is_awake=True,
        is_wanted=replica.model in asker.behind or record.is_due_awake,
        idle_since=replica.idle_since,
        choices=(Choice(goal.depth, relief, cost_s),),
        wants=books.popularity.of(replica.model),
    )
