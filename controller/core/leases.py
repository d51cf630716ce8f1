"""Leases: granted, found of before this run, given back."""

from __future__ import annotations

from controller.core.backlog import Waiting
from controller.core.books import Books
from controller.core.commands import GrantLease
from controller.core.events import RequestArrived
from controller.core.lifecycle import SERVING, Phase, Replica
from controller.core.models import ModelRecord
from controller.core.names import Depth, Instant, ModelState, ReplicaId, RequestId


def grant_lease(
    books: Books, asked: Waiting | RequestArrived, replica: Replica, arrived: Instant
) -> None:
    """To one who does not stand in the backlog any more."""
    was_idle = not replica.leases
    replica.leases[asked.request] = books.now
    if not asked.can_freeze:
        replica.never_frozen[asked.request] = None
    books.leased[asked.request] = replica.id
    books.tenants.begin(asked.request, asked.model, asked.tenant)
    spec = books.models[replica.model].spec
    replica.has_kv = spec.keeps_kv
    if spec.replicas > 1:
        replica.prefixes.served(asked.affinity.prefix)
    state, wake_s = ModelState.AWAKE, 0.0
    if replica.awake_since > arrived:
        is_cold = replica.raised_from is Depth.STOPPED
        state = ModelState.COLD if is_cold else ModelState.WOKEN
        wake_s = replica.awake_since - max(arrived, replica.raised_at)
    books.version += 1
    if was_idle:
        books.touch_use(replica)
        _wanted(books, books.models[replica.model])
    books.commands.append(GrantLease(asked.request, replica.id, state, books.now - arrived, wake_s))


def keep_lease(books: Books, request: RequestId, holder: ReplicaId, can_freeze: bool) -> None:
    """A lease that was not granted here; of a replica that cannot serve it is nobody's. On
    one that sleeps, or wakes, it can only be a frozen one."""
    replica = books.replicas.get(holder)
    if request in books.leased or replica is None:
        return
    is_frozen = replica.phase in (Phase.ASLEEP, Phase.WAKING)
    if replica.phase not in SERVING and not is_frozen:
        return
    if is_frozen and not replica.leases:
        replica.frozen_at = books.now
    if not (is_frozen or can_freeze):
        replica.never_frozen[request] = None
    books.leased[request] = holder
    books.version += 1
    was_idle = not replica.leases
    replica.leases[request] = books.now
    if was_idle:
        books.touch_use(replica)


def release_lease(books: Books, request: RequestId) -> None:
    holder = books.leased.pop(request, None)
    books.tenants.end(request)
    replica = books.replicas.get(holder) if holder is not None else None
    if replica is not None and replica.leases.pop(request, None) is not None:
        replica.never_frozen.pop(request, None)
        replica.idle_since = books.now
        books.version += 1
        if not replica.leases:
            books.touch_use(replica)
        record = books.models[replica.model]
        if record.spec.least_replicas > 1:
            _used_together(books, record)


def _wanted(books: Books, record: ModelRecord) -> None:
    if books.popularity.count(record.spec.name, books.now):
        books.reliefs.forget_uses()
    for replica in record.replicas:
        books.reliefs.forget_use(replica)


def _used_together(books: Books, record: ModelRecord) -> None:
    for replica in record.kept():
        if not replica.leases:
            replica.idle_since = books.now
            books.touch_use(replica)
