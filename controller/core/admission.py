"""Whether an arriving request may wait; if not, why, and when to try again."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from controller.core.books import Books
from controller.core.events import RequestArrived
from controller.core.leases import grant_lease
from controller.core.models import ModelRecord
from controller.core.names import ModelName, RejectReason
from controller.core.outlook import outlook_of
from controller.core.placement import why_never
from controller.core.relieving import why_shed
from controller.core.rooms import Rooms
from controller.core.routing import is_on_its_way, is_served, is_usable, pick_to_serve
from controller.core.turns import has_slot, tenant_has_slot, why_no_more


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: RejectReason
    detail: str
    retry_after_s: float | None = None


def admit(books: Books, event: RequestArrived) -> None:
    """Into the backlog, or rejected. An id that waits or holds a lease is a double: nothing."""
    request, model = event.request, event.model
    if request in books.backlog or request in books.leased:
        return
    record = books.models.get(model)
    if record is None or record.is_removed:
        books.reject(request, RejectReason.UNKNOWN_MODEL, f"no model {model}")
        return
    max_wait_s = record.spec.max_wait_s if event.max_wait_s is None else event.max_wait_s
    if _is_served_at_once(books, record, event.tenant):
        if not (books.backlog or books.moving):
            _grant(books, event, record)
            return
        max_wait_s = inf
    elif refusal := _refusal(books, record, max_wait_s, event):
        books.reject(request, refusal.reason, refusal.detail, refusal.retry_after_s)
        return
    books.backlog.add(
        request,
        model,
        books.now,
        max_wait_s,
        event.tenant,
        event.priority,
        event.affinity,
        event.can_freeze,
    )
    books.version += 1


def _is_served_at_once(books: Books, record: ModelRecord, tenant: str) -> bool:
    """It is granted in this very step."""
    is_awake = is_served(record.replicas)
    return is_awake and has_slot(record) and tenant_has_slot(books, tenant)


def _grant(books: Books, event: RequestArrived, record: ModelRecord) -> None:
    """What the plan would do, where nobody waits and nothing moves that it would have to weigh."""
    replica = pick_to_serve(record.replicas, event.affinity, books.policy.busy_leases)
    assert replica is not None
    grant_lease(books, event, replica, books.now)


def _refusal(
    books: Books, record: ModelRecord, max_wait_s: float, event: RequestArrived
) -> Refusal | None:
    if record.is_given_up and not any(is_usable(replica) for replica in record.replicas):
        return Refusal(RejectReason.CANNOT_START, record.why_given_up)
    is_coming = any(is_on_its_way(replica) for replica in record.replicas)
    if not is_coming and (why := why_never(Rooms(books), record)):
        return Refusal(RejectReason.NEVER_FITS, why)
    if why := why_shed(books, record, event.priority):
        return Refusal(RejectReason.MEMORY_TAKEN, why, books.policy.retry_when_short_s)
    estimate_s = outlook_of(books, record).estimate_s
    retry_s = max(1.0, estimate_s) if estimate_s < inf else None
    if len(books.backlog) >= books.policy.backlog_limit:
        detail = f"{len(books.backlog)} requests wait already"
        return Refusal(RejectReason.BACKLOG_FULL, detail, retry_s)
    if too_many := why_no_more(books, record, event.tenant):
        return Refusal(RejectReason.LIMIT_REACHED, too_many, retry_s)
    if estimate_s == inf and books.ledger.is_cut_anywhere():
        return None
    if estimate_s > max_wait_s:
        books.wish(record)  # whoever tries again when told to ought to find it awake
        return Refusal(
            RejectReason.WAIT_TOO_LONG, _too_long(record, estimate_s, max_wait_s), retry_s
        )
    return None


def _too_long(record: ModelRecord, estimate_s: float, max_wait_s: float) -> str:
    if estimate_s == inf:
        return f"what is pinned leaves no room for {record.spec.name}"
    return f"would take about {estimate_s:.1f} s, longer than {max_wait_s:.1f} s"


def turn_away_hopeless(books: Books, model: ModelName) -> None:
    """After a failure: those who wait but cannot be served in time any more."""
    record = books.models[model]
    if is_served(record.replicas) or record.is_given_up:
        return
    estimate_s = outlook_of(books, record).estimate_s
    for waiting in books.backlog.of(model):
        left_s = waiting.deadline - books.now
        if left_s < estimate_s < inf:
            detail = _too_long(record, estimate_s, left_s)
            books.reject(waiting.request, RejectReason.WAIT_TOO_LONG, detail, estimate_s)
            books.wish(record)
