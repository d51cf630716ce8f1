"""What the API needs of server-side history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kv_store.conversations import ConversationKey
from kv_store.history import History, Item, KeptResponse


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """Of one conversation; one that has reached either takes nothing more."""

    sealed_bytes: int = 16 << 20
    items: int = 10_000


class HistoryCounts(Protocol):
    def kept(self, items: int, sealed_bytes: int) -> None: ...

    def failed(self, act: str) -> None: ...


class Histories(Protocol):
    """Whatever changes a conversation's history is done in a turn of it (``Conversations``).

    All may raise RecordsUnavailable, and what reads HistoryUnreadable.
    """

    @property
    def limits(self) -> HistoryLimits: ...

    async def has(self, key: ConversationKey) -> bool:
        """Whether anything is kept of it."""
        ...

    async def load(self, key: ConversationKey) -> History | None: ...

    async def append(
        self,
        key: ConversationKey,
        before: History | None,
        items: Sequence[Item],
        *,
        metadata: Mapping[str, str] | None = None,
        response: KeptResponse | None = None,
    ) -> History:
        """``before``: as it was loaded; ``metadata``: for one that begins."""
        ...

    async def describe(
        self, key: ConversationKey, before: History, metadata: Mapping[str, str]
    ) -> History: ...

    async def remove(self, key: ConversationKey, before: History, item: str) -> History: ...

    async def keep_response(self, key: ConversationKey, response: KeptResponse) -> None: ...

    async def responses(self, tenant: str, ids: Sequence[str]) -> list[KeptResponse | None]:
        """As many as were asked for; None: there is none of that id."""
        ...

    async def forget_response(self, tenant: str, response: KeptResponse) -> None: ...
