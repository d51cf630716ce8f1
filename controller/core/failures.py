"""An engine that broke: what is kept of it, and who is to blame."""

from __future__ import annotations

from controller.core.books import Books
from controller.core.lifecycle import LEAVING, RISING, Phase, Replica
from controller.core.models import ModelRecord, backoff_s
from controller.core.names import Depth, Footprint, Instant

MORE = 1.25
"""Of what was booked for an engine that ran out of memory."""


def starve(books: Books, replica: Replica, reason: str) -> None:
    """It ran out of memory: what it needs is more than was booked. That is learned, and as
    long as there is more to be booked nobody is to blame."""
    record, place = books.models[replica.model], replica.place
    assert place is not None
    known = books.footprint(replica, Depth.AWAKE)
    most = min([books.ledger.named.get(place.node, {}).get(d, 0) for d in place.devices])
    need = min(most, int(known.device_bytes * MORE) + 1)
    can_grow = replica.phase in RISING and need > known.device_bytes
    failures = record.failures
    fail(books, replica, reason)
    if can_grow and not replica.is_retiring:
        record.need = Footprint(need, known.host_bytes)
        record.failures = failures
        books.learned(record)
        replica.tell(books.now, f"{need >> 20} MiB will be booked for it", reason)


def fail(books: Books, replica: Replica, reason: str) -> None:
    """Its engine is broken: the bytes stay, the leases are nobody's until released."""
    record = books.models[replica.model]
    is_stop = replica.phase is Phase.STOPPING
    was_awake = replica.phase in (Phase.AWAKE, *LEAVING)
    replica.bury_at = books.now
    if is_stop:
        replica.stop_failures += 1
        wait = backoff_s(books.policy.restart_backoff_s, replica.stop_failures)
        replica.bury_at = Instant(books.now + wait)
    else:
        _count_failure(books, record, replica, reason)
    replica.order = replica.goal = None
    replica.drop_leases()
    replica.has_kv = False
    books.move(replica, Phase.FAILED, reason)
    if record.spec.pinned and was_awake:
        books.wish(record)
    for operation in books.operations:
        if replica.id in operation.demoting and operation.depth is not Depth.STOPPED:
            operation.error = f"{replica.id} failed and is being stopped: {reason}"


def _count_failure(books: Books, record: ModelRecord, replica: Replica, reason: str) -> None:
    was_stable = (
        replica.phase is not Phase.STARTING
        and books.now - replica.up_since >= books.policy.stable_after_s
    )
    record.failures = 1 if was_stable else record.failures + 1
    wait = backoff_s(books.policy.restart_backoff_s, record.failures)
    record.retry_at = Instant(books.now + wait)
    record.last_error = reason
    books.failing[record.spec.name] = None
    record.is_unstarted = False
