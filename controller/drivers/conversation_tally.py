"""What is counted of conversations, by tenant, and the statistics that are made of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from controller.conversation_ports import ConversationStatistics
from controller.core.bulkheads import Bulkheads
from controller.core.conversations import ConversationLimits, Residency

if TYPE_CHECKING:
    from controller.drivers.conversation_entries import Entry


@dataclass(slots=True)
class Counts:
    """Of one tenant, or of all."""

    hits: int = 0
    misses: int = 0
    hibernated: int = 0
    expired: int = 0
    evicted_chunks: int = 0

    def found(self, kv: bytes) -> None:
        """``kv``: an engine's ``x-torpor-kv`` about a later turn."""
        if kv.startswith(b"hit=0 "):
            self.misses += 1
        elif kv:
            self.hits += 1

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Counts(*(one + another for one, another in pairs))


class Tally:
    def __init__(self, limits: ConversationLimits, bulkheads: Bulkheads) -> None:
        self._limits = limits
        self._bulkheads = bulkheads
        self._counts: defaultdict[str, Counts] = defaultdict(Counts)

    def counts(self, tenant: str) -> Counts:
        return self._counts[tenant]

    def statistics(self, entries: Iterable[Entry], tenant: str | None) -> ConversationStatistics:
        """``entries``: all of ``tenant``; None: of everybody."""
        by_residency = dict.fromkeys((one.name for one in Residency), 0)
        active = tokens = host = durable = histories = 0
        for entry in entries:
            record = entry.record
            by_residency[entry.line.residency.name] += 1
            active += entry.line.doing is not None
            tokens += record.tokens
            host += record.host_bytes
            durable += record.durable_bytes
            histories += entry.has_history
        counts, live = self._counted(tenant), self._limits.live
        return ConversationStatistics(
            active=active,
            total=sum(by_residency.values()),
            by_residency=by_residency,
            tokens=tokens,
            host_bytes=host,
            durable_bytes=durable,
            hits=counts.hits,
            misses=counts.misses,
            hibernated=counts.hibernated,
            expired=counts.expired,
            evicted_chunks=counts.evicted_chunks,
            with_history=histories,
            live=self._bulkheads.live(tenant),
            queued=self._bulkheads.waiting(tenant),
            limit=self._limits.total,
            waiting_limit=self._limits.waiting,
            live_model_limit=live.model,
            live_tenant_limit=live.tenant,
            queue_limit=live.queue,
        )

    def _counted(self, tenant: str | None) -> Counts:
        if tenant is not None:
            return self._counts.get(tenant, Counts())
        return sum(self._counts.values(), Counts())
