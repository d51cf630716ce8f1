"""Whose turn it is among those who wait for one model, and who has had enough.

Who asked for priority comes first, who is flexible last. Of several tenants that one comes next
whose last turn at the model is longest ago; of its requests, the oldest. Whoever has as many
requests running as its limit says, or as its model's does, has no turn until one of them ends.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.core.backlog import Waiting
from controller.core.books import Books
from controller.core.models import ModelRecord
from controller.core.names import Limits, ModelName


def next_turn(books: Books, model: ModelName) -> Waiting | None:
    """None also where all who wait are at a limit."""
    heads = list(with_turn(books, model))
    if len(heads) < 2:
        return heads[0] if heads else None
    last = books.tenants.last_turn
    return min(heads, key=lambda w: (w.priority, last(model, w.tenant), w.number))


def with_turn(books: Books, model: ModelName) -> Iterator[Waiting]:
    """The oldest of each priority and tenant, of those who are not at a limit."""
    if has_slot(books.models[model]):
        for (_, tenant), lane in books.backlog.lanes.get(model, {}).items():
            if tenant_has_slot(books, tenant):
                yield next(iter(lane.values()))


def has_slot(record: ModelRecord) -> bool:
    limit = record.spec.limits.running
    return limit is None or sum([len(replica.leases) for replica in record.replicas]) < limit


def tenant_has_slot(books: Books, tenant: str) -> bool:
    limit = limits_of(books, tenant).running
    return limit is None or books.tenants.running(tenant) < limit


def limits_of(books: Books, tenant: str) -> Limits:
    return books.policy.tenants.get(tenant, books.policy.tenant_limits)


def why_no_more(books: Books, record: ModelRecord, tenant: str) -> str | None:
    """The limit on waiting requests that one more would pass."""
    backlog, model = books.backlog, record.spec.name
    for whom, waiting, limit in (
        (model, len(backlog.by_model.get(model, {})), record.spec.limits.waiting),
        (f"tenant {tenant!r}", backlog.of_tenant(tenant), limits_of(books, tenant).waiting),
    ):
        if limit is not None and waiting >= limit:
            return f"{waiting} requests of {whom} wait already, as many as may"
    return None
