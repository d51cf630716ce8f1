"""All conversations there are, in the controller's memory: which to show, and how many.

100,000 of them are looked through in tens of milliseconds, so there is no index to keep.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice

from controller.conversation_ports import (
    ConversationFilter,
    ConversationPage,
    ConversationRefused,
    ConversationStatistics,
    ConversationView,
    UnknownConversation,
)
from controller.core.bulkheads import Bulkheads
from controller.core.conversations import Conversation, ConversationLimits, Residency
from controller.drivers.conversation_tally import Counts, Tally
from kv_store.conversations import ConversationKey, ConversationRecord

RETRY_AFTER_S = 1.0


@dataclass(slots=True, eq=False)
class Entry:
    number: int
    """In the order they became known."""
    record: ConversationRecord
    line: Conversation
    has_history: bool = False
    """Something that was said in it is kept, or may be."""

    @property
    def key(self) -> ConversationKey:
        return self.record.key

    @property
    def is_blank(self) -> bool:
        """Nobody was ever answered in it, nobody waits to be, and nothing of it is kept."""
        is_unused = self.record.turns == 0 and not self.has_history
        return is_unused and self.line.doing is None and not self.line.waiting

    def view(self, now: float) -> ConversationView:
        record, line = self.record, self.line
        return ConversationView(
            conversation=record.key.id,
            tenant=record.key.tenant,
            model=record.model,
            replica=record.replica,
            residency=line.residency.name,
            doing=line.doing.act.value if line.doing is not None else None,
            waiting=len(line.waiting),
            turns=record.turns,
            tokens=record.tokens,
            host_bytes=record.host_bytes,
            durable_bytes=record.durable_bytes,
            created=record.created_s,
            last_use=record.last_use_s,
            idle_s=0.0 if line.doing is not None else max(0.0, now - record.last_use_s),
        )


class Entries:
    """``run``: of the fleet. Residency from another one is from before its host tier."""

    def __init__(self, limits: ConversationLimits, run: str) -> None:
        self.limits = limits
        self.bulkheads = Bulkheads(limits.live)
        self._tally = Tally(limits, self.bulkheads)
        self._run = run
        self._known: dict[ConversationKey, Entry] = {}
        self._numbers = count(1)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._known.values()))

    def counts(self, tenant: str) -> Counts:
        return self._tally.counts(tenant)

    def get(self, key: ConversationKey) -> Entry:
        """Raises UnknownConversation."""
        entry = self._known.get(key)
        if entry is None:
            raise UnknownConversation(key.id)
        return entry

    def get_or_create(self, key: ConversationKey, model: str) -> Entry:
        """Raises ConversationRefused: there are too many."""
        entry = self._known.get(key)
        if entry is not None:
            return entry
        if len(self._known) >= self.limits.total:
            message = f"{self.limits.total} conversations are kept already."
            raise ConversationRefused("too_many_conversations", message, RETRY_AFTER_S)
        return self._add(self._fresh(key, model))

    def has(self, entry: Entry) -> bool:
        return self._known.get(entry.key) is entry

    def remove(self, entry: Entry) -> None:
        if self.has(entry):
            del self._known[entry.key]

    def restore(self, record: ConversationRecord) -> None:
        """What an earlier controller left behind."""
        if record.run != self._run and record.residency == Residency.IN_MEMORY.value:
            residency = Residency.HIBERNATED.value
            record = replace(record, residency=residency, run=self._run, host_bytes=0)
        self._add(record)

    def adopt(self, key: ConversationKey, changed_s: float) -> None:
        """One of which something is kept, with a record or without."""
        if key not in self._known:
            record = replace(self._fresh(key, ""), created_s=changed_s, last_use_s=changed_s)
            self._add(record)
        self._known[key].has_history = True

    def has_history(self, key: ConversationKey) -> bool:
        entry = self._known.get(key)
        return entry is not None and entry.has_history

    def renew(self, entry: Entry) -> None:
        """Deleted while others wait: it begins anew under its id."""
        entry.record = self._fresh(entry.key, entry.record.model)

    def as_it_is(self, entry: Entry) -> ConversationRecord:
        return replace(entry.record, residency=entry.line.residency.value, run=self._run)

    def seen(self, of: ConversationFilter) -> Iterator[Entry]:
        latest = None if of.idle_longer_than_s is None else time.time() - of.idle_longer_than_s
        for entry in self._known.values():
            record = entry.record
            if of.tenant is not None and record.key.tenant != of.tenant:
                continue
            if of.model is not None and record.model != of.model:
                continue
            if of.residency is not None and entry.line.residency.name != of.residency:
                continue
            if latest is not None and (record.last_use_s > latest or entry.line.doing):
                continue
            yield entry

    def page(self, of: ConversationFilter, *, after: int, limit: int) -> ConversationPage:
        now = time.time()
        found = list(islice((e for e in self.seen(of) if e.number > after), limit + 1))
        more = found[limit - 1].number if len(found) > limit else None
        shown = tuple(entry.view(now) for entry in found[:limit])
        return ConversationPage(shown, self.statistics(of.tenant), more)

    def statistics(self, tenant: str | None = None) -> ConversationStatistics:
        return self._tally.statistics(self.seen(ConversationFilter(tenant=tenant)), tenant)

    def _add(self, record: ConversationRecord) -> Entry:
        entry = Entry(next(self._numbers), record, Conversation(Residency(record.residency)))
        self._known[record.key] = entry
        return entry

    def _fresh(self, key: ConversationKey, model: str) -> ConversationRecord:
        now = time.time()
        residency = Residency.NOT_CREATED.value
        return ConversationRecord(key, model, now, now, residency, self._run)
