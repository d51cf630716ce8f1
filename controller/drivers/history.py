"""The Histories port: the store of histories, and which conversations have one.

Unlike KV, what was said can not be computed again: with the store away whoever needs a history is
refused, and nobody else is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from controller.drivers.conversation_entries import Entries
from controller.history_ports import HistoryCounts, HistoryLimits
from kv_store.conversations import ConversationKey, RecordsUnavailable
from kv_store.history import History, HistoryUnreadable, Item, KeptResponse


class Store(Protocol):
    """``kv_store.history_store``, which says what each does."""

    async def close(self) -> None: ...

    async def known(self) -> list[tuple[ConversationKey, float]]: ...

    async def load(self, key: ConversationKey) -> History | None: ...

    async def append(
        self,
        key: ConversationKey,
        before: History,
        items: Sequence[Item],
        at_s: float,
        response: KeptResponse | None = None,
    ) -> History: ...

    async def describe(
        self, key: ConversationKey, before: History, metadata: Mapping[str, str], at_s: float
    ) -> History: ...

    async def remove(
        self, key: ConversationKey, before: History, id: str, at_s: float
    ) -> History: ...

    async def forget(self, key: ConversationKey) -> None: ...

    async def keep_response(
        self, key: ConversationKey, response: KeptResponse, at_s: float
    ) -> None: ...

    async def responses(self, tenant: str, ids: Sequence[str]) -> list[KeptResponse | None]: ...

    async def forget_response(self, tenant: str, response: KeptResponse) -> None: ...


class LiveHistories:
    def __init__(
        self, entries: Entries, store: Store, limits: HistoryLimits, counts: HistoryCounts
    ) -> None:
        self._entries = entries
        self._store = store
        self._limits = limits
        self._counts = counts
        self._is_read = False

    @property
    def limits(self) -> HistoryLimits:
        return self._limits

    async def open(self) -> None:
        """After the entries were restored. What cannot be read yet is read before it is needed."""
        if not self._is_read:
            for key, changed_s in await self._store.known():
                self._entries.adopt(key, changed_s)
            self._is_read = True

    async def close(self) -> None:
        await self._store.close()

    async def has(self, key: ConversationKey) -> bool:
        await self.open()
        return self._entries.has_history(key)

    async def load(self, key: ConversationKey) -> History | None:
        with self._counted("load"):
            return await self._store.load(key)

    async def append(
        self,
        key: ConversationKey,
        before: History | None,
        items: Sequence[Item],
        *,
        metadata: Mapping[str, str] | None = None,
        response: KeptResponse | None = None,
    ) -> History:
        now = self._changed(key)
        grown = before or History(now, metadata or {})
        with self._counted("append"):
            whole = await self._store.append(key, grown, items, now, response)
        self._counts.kept(len(items), whole.sealed_bytes - grown.sealed_bytes)
        return whole

    async def describe(
        self, key: ConversationKey, before: History, metadata: Mapping[str, str]
    ) -> History:
        return await self._store.describe(key, before, metadata, self._changed(key))

    async def remove(self, key: ConversationKey, before: History, item: str) -> History:
        return await self._store.remove(key, before, item, self._changed(key))

    async def keep_response(self, key: ConversationKey, response: KeptResponse) -> None:
        await self._store.keep_response(key, response, self._changed(key))

    async def responses(self, tenant: str, ids: Sequence[str]) -> list[KeptResponse | None]:
        return await self._store.responses(tenant, ids)

    async def forget_response(self, tenant: str, response: KeptResponse) -> None:
        await self._store.forget_response(tenant, response)

    @contextmanager
    def _counted(self, act: str) -> Iterator[None]:
        try:
            yield
        except (RecordsUnavailable, HistoryUnreadable):
            self._counts.failed(act)
            raise

    def _changed(self, key: ConversationKey) -> float:
        """Said before it is done: what may be there must be found when the conversation is
        deleted."""
        entry, now = self._entries.get(key), time.time()
        entry.has_history = True
        entry.record = replace(entry.record, last_use_s=now)
        return now
