"""Who ought to be awake and is not, in the order of right.

Somebody who waits comes before nobody who waits: requests and administrators' orders by their
age, frozen requests among them by that of their freeze, then wishes, growth, flexible requests
and first starts. Only the first may drain a busy
replica, so that a stream of requests to one model cannot keep the oldest waiting request of
another for ever. Among requests those that asked for priority come first, and whoever waited
``maximum_wait_behind_s`` counts as one of them: nobody is overtaken for longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from controller.core.backlog import Waiting
from controller.core.books import Books
from controller.core.lifecycle import RISING, Phase, Replica
from controller.core.models import ModelRecord
from controller.core.names import Depth, Instant, ModelName, Priority
from controller.core.routing import is_served
from controller.core.turns import with_turn


class Urgency(IntEnum):
    WAITED_FOR = 0
    WISHED = 1
    GROWTH = 2
    HOURS = 3
    """It is to be awake at this time of day, as far as memory is free."""
    FLEXIBLE = 4
    FIRST_START = 5


class Demand(NamedTuple):
    """Sorts by right."""

    urgency: Urgency
    standing: Priority
    since: Instant
    number: int
    model: ModelName
    evict_to: Depth


USUAL = Priority.DEFAULT


def demands_of(books: Books) -> list[Demand]:
    """At most one a model, the one with most right first."""
    demands = _waited_for(books)
    for record in _hopeful(books):
        if record.is_removed or _is_rising(record):
            continue
        model, urgency, since = record.spec.name, None, books.now
        if _is_wished(books, record):
            urgency, since = Urgency.WISHED, record.wished_at or since
        elif _must_grow(books, record):
            urgency = Urgency.GROWTH
        elif record.is_due_awake and not is_served(record.replicas):
            urgency = Urgency.HOURS
        elif record.is_unstarted and _can_prefetch(books):
            urgency = Urgency.FIRST_START
        if urgency is not None:
            hoped = Demand(urgency, USUAL, since, record.number, model, books.policy.evict_to)
            demands[model] = min(hoped, demands.get(model, hoped))
    return sorted(demands.values())


def why(books: Books, demand: Demand, replica: Replica) -> str:
    """It is raised: for the story."""
    if replica.leases:
        return f"{len(replica.leases)} frozen for {books.now - replica.frozen_at:.1f} s"
    head = books.backlog.head(demand.model)
    if head is not None:
        return f"request {head.request}"
    operations = books.operations.waking(demand.model)
    if operations:
        return f"operation {operations[0].id}"
    return demand.urgency.name.lower().replace("_", " ")


def _waited_for(books: Books) -> dict[ModelName, Demand]:
    demands: dict[ModelName, Demand] = {}
    evict_to = books.policy.evict_to
    for model in books.backlog.by_model:
        if _is_rising(books.models[model]):
            continue
        claims = [_claim(books, waiting) for waiting in with_turn(books, model)]
        if claims:
            demands[model] = min(claims)
    for operation in books.operations:
        model_ = operation.waking
        if model_ is None or is_served(books.models[model_].replicas):
            continue
        if _is_rising(books.models[model_]):
            continue
        depth = evict_to if operation.depth is Depth.AWAKE else operation.depth
        ordered = Demand(Urgency.WAITED_FOR, USUAL, operation.ordered_at, 0, model_, depth)
        demands[model_] = min(ordered, demands.get(model_, ordered))
    for replica in books.frozen.values():
        if not _is_rising(books.models[replica.model]):
            back = Demand(
                Urgency.WAITED_FOR,
                _standing(books, USUAL, replica.frozen_at),
                replica.frozen_at,
                0,
                replica.model,
                evict_to,
            )
            demands[replica.model] = min(back, demands.get(replica.model, back))
    return demands


def _claim(books: Books, waiting: Waiting) -> Demand:
    urgency, standing = Urgency.WAITED_FOR, waiting.priority
    if standing is Priority.FLEX:
        urgency = Urgency.FLEXIBLE
    else:
        standing = _standing(books, standing, waiting.arrived)
    evict_to = books.policy.evict_to
    return Demand(urgency, standing, waiting.arrived, waiting.number, waiting.model, evict_to)


def _standing(books: Books, own: Priority, since: Instant) -> Priority:
    is_too_long = books.now >= since + books.policy.maximum_wait_behind_s
    return Priority.PRIORITY if is_too_long else own


def _hopeful(books: Books) -> Iterator[ModelRecord]:
    for model in list(books.hopeful):
        record = books.models.get(model)
        if record is not None and may_hope(record):
            yield record
        else:
            del books.hopeful[model]


def may_hope(record: ModelRecord) -> bool:
    """Whether it may want to be awake, or another of its replicas, though nobody waits."""
    if record.wished_at is not None or record.is_due_awake:
        return True
    return record.is_unstarted or record.spec.replicas != 1


def _is_rising(record: ModelRecord) -> bool:
    """One wake however many wait."""
    return any(r.phase in RISING and not r.is_retiring for r in record.replicas)


def _can_prefetch(books: Books) -> bool:
    starting = sum(replica.phase is Phase.STARTING for replica in books.moving.values())
    return starting < books.policy.prefetch_at_once


def _is_wished(books: Books, record: ModelRecord) -> bool:
    """A wish is kept as long as a request would have waited."""
    if record.wished_at is None or is_served(record.replicas):
        return False
    return books.now < record.wished_at + record.spec.max_wait_s


def _must_grow(books: Books, record: ModelRecord) -> bool:
    """All that are awake are busy, or there are fewer than its least while it is in use."""
    if record.spec.replicas == 1:
        return False
    awake = [r for r in record.replicas if r.phase is Phase.AWAKE and not r.is_retiring]
    if not awake:
        return False
    is_kept = record.spec.pinned or record.is_in_use or record.is_due_awake
    if len(awake) < record.spec.least_replicas and is_kept:
        return True
    return all(len(r.leases) >= books.policy.busy_leases for r in awake)
