"""Who ought to be awake and is not, in the order of right.

Somebody who waits comes before nobody who waits: requests and administrators' orders by their
age, then wishes, growth and first starts. Only the former may drain a busy replica, so that
a stream of requests to one model cannot keep the oldest waiting request of another for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from controller.core.books import Books
from controller.core.lifecycle import RISING, Phase
from controller.core.models import ModelRecord
from controller.core.names import Depth, Instant, ModelName
from controller.core.routing import pick_to_serve


class Urgency(IntEnum):
    WAITED_FOR = 0
    WISHED = 1
    GROWTH = 2
    FIRST_START = 3


class Demand(NamedTuple):
    """Sorts by right."""

    urgency: Urgency
    since: Instant
    number: int
    model: ModelName
    evict_to: Depth


def demands_of(books: Books) -> list[Demand]:
    """At most one a model, the one with most right first."""
    demands = _waited_for(books)
    evict_to = books.policy.evict_to
    for record in _hopeful(books):
        model, number = record.spec.name, record.number
        if model in demands or record.is_removed or _is_rising(record):
            continue
        if _is_wished(books, record):
            since = record.wished_at or books.now
            demands[model] = Demand(Urgency.WISHED, since, number, model, evict_to)
        elif _must_grow(books, record):
            demands[model] = Demand(Urgency.GROWTH, books.now, number, model, evict_to)
        elif record.is_unstarted and _can_prefetch(books):
            demands[model] = Demand(Urgency.FIRST_START, books.now, number, model, evict_to)
    return sorted(demands.values())


def why(books: Books, demand: Demand) -> str:
    """For the story."""
    head = books.backlog.head(demand.model)
    if head is not None:
        return f"request {head.request}"
    operations = books.operations.waking(demand.model)
    if operations:
        return f"operation {operations[0].id}"
    return demand.urgency.name.lower().replace("_", " ")


def _waited_for(books: Books) -> dict[ModelName, Demand]:
    demands: dict[ModelName, Demand] = {}
    evict_to, waited = books.policy.evict_to, Urgency.WAITED_FOR
    for model in books.backlog.by_model:
        if _is_rising(books.models[model]):
            continue
        head = books.backlog.head(model)
        assert head is not None
        demands[model] = Demand(waited, head.arrived, head.number, model, evict_to)
    for operation in books.operations:
        model_ = operation.waking
        if model_ is None or pick_to_serve(books.models[model_].replicas):
            continue
        if _is_rising(books.models[model_]):
            continue
        depth = evict_to if operation.depth is Depth.AWAKE else operation.depth
        ordered = Demand(waited, operation.ordered_at, 0, model_, depth)
        demands[model_] = min(ordered, demands.get(model_, ordered))
    return demands


def _hopeful(books: Books) -> Iterator[ModelRecord]:
    for model in list(books.hopeful):
        record = books.models.get(model)
        if record is not None and may_hope(record):
            yield record
        else:
            del books.hopeful[model]


def may_hope(record: ModelRecord) -> bool:
    """Whether it may want to be awake, or another of its replicas, though nobody waits."""
    return record.wished_at is not None or record.is_unstarted or record.spec.replicas != 1


def _is_rising(record: ModelRecord) -> bool:
    """One wake however many wait."""
    return any(r.phase in RISING and not r.is_retiring for r in record.replicas)


def _can_prefetch(books: Books) -> bool:
    starting = sum(replica.phase is Phase.STARTING for replica in books.moving.values())
    return starting < books.policy.prefetch_at_once


def _is_wished(books: Books, record: ModelRecord) -> bool:
    """A wish is kept as long as a request would have waited."""
    if record.wished_at is None or pick_to_serve(record.replicas):
        return False
    return books.now < record.wished_at + record.spec.max_wait_s


def _must_grow(books: Books, record: ModelRecord) -> bool:
    if record.spec.replicas == 1:
        return False
    awake = [r for r in record.replicas if r.phase is Phase.AWAKE]
    limit = books.policy.busy_leases
    return bool(awake) and all(len(r.leases) >= limit for r in awake)
