"""What conversations need of the world, and what the API needs of conversations."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from controller.ports import OperationView
from kv_store.conversations import ConversationKey, ConversationRecord, KVPlace
from kv_store.conversations import RecordsUnavailable as RecordsUnavailable
from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from kv_store.turns import TurnTold


class Records(Protocol):
    """What outlives the controller. All but close may raise RecordsUnavailable."""

    async def open(self) -> list[ConversationRecord]: ...

    async def close(self) -> None: ...

    async def put(
        self, record: ConversationRecord, told: TurnTold | None = None, *, agreed: int = 0
    ) -> None:
        """``told``: a turn that has ended, which begins with ``agreed`` tokens of those on record;
        None: these are as they are."""
        ...

    async def prefix(self, record: ConversationRecord) -> Prefix | None: ...

    async def forget_tokens(self, record: ConversationRecord) -> None: ...

    async def forget(self, record: ConversationRecord) -> None: ...


class KVOrders(Protocol):
    def place(self, replica: str, salt: str) -> KVPlace | None:
        """Where a request that this replica served left its KV; None: nowhere we know."""
        ...

    async def carry_out(self, place: KVPlace, order: KVOrder, prefix: Prefix) -> Placed:
        """Raises EngineError; EngineGone where no node could be asked."""
        ...


class RecallOutcome(Enum):
    """What became of fetching a prefix ahead of its engine's wake."""

    FETCHED = "fetched"
    PARTLY = "partly"
    """Not all of it is there, or fitted; or a request overtook it."""
    FAILED = "failed"
    LATE = "late"
    """The engine was awake before it was its turn."""
    COMPUTED = "computed"
    """The engine was told to compute what the host tier lacks: that is sooner, as measured."""


class RecallCounts(Protocol):
    def recalled(self, model: str, outcome: RecallOutcome, size: int, seconds: float) -> None: ...


class ConversationRefused(Exception):
    """No more can wait in this conversation, or no more conversations be kept."""

    def __init__(self, code: str, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class UnknownConversation(Exception):
    """No conversation of that tenant has that id."""


class Turn(Protocol):
    """One request's turn, while its context lasts; the conversation's next thing waits for it."""

    def stays_near(self, replica: str) -> bool:
        """Whether the engine had better compute what the host tier there lacks."""
        ...

    @property
    def home(self) -> str:
        """The replica that served the one before; empty: none did, or it is not known."""
        ...

    def reaches(self) -> None:
        """From here on it may leave KV behind."""
        ...

    def began(self, found: bytes) -> None:
        """The first of a stream is here. ``found``: the engine's ``x-torpor-kv``."""
        ...

    def answered(self) -> None:
        """Its client is about to have the whole answer: who looks after that sees this turn."""
        ...

    async def spoke(self, replica: str, salt: str, found: bytes, told: TurnTold | None) -> None:
        """It was answered. ``found``: the engine's ``x-torpor-kv``."""
        ...


@dataclass(frozen=True, slots=True)
class ConversationView:
    conversation: str
    tenant: str
    model: str
    replica: str
    """Which served the last turn; empty: none did yet."""
    residency: str
    """``NOT_CREATED``, ``IN_MEMORY`` or ``HIBERNATED``."""
    doing: str | None
    """``turn``, ``hibernate``, ``rehydrate``, ``reset``, ``delete``."""
    waiting: int
    turns: int
    tokens: int
    host_bytes: int
    durable_bytes: int
    """As of the last order about it, or the last look; device blocks are the engine's."""
    created: float
    last_use: float
    """Unix seconds."""
    idle_s: float


@dataclass(frozen=True, slots=True)
class ConversationStatistics:
    """``hits`` and ``misses``: later turns that found KV of their prompt, or none. ``hibernated``
    and ``expired``: by the reaper. ``evicted_chunks``: those that a hibernation found in no tier.
    Counts of events are of this controller's life.

    ``active``: in which something is done; ``live``: in which a turn is served, of the limited
    ones; ``queued``: which wait to be. Limits are None where there is none."""

    active: int
    total: int
    by_residency: dict[str, int]
    tokens: int
    host_bytes: int
    durable_bytes: int
    hits: int
    misses: int
    hibernated: int
    expired: int
    evicted_chunks: int
    with_history: int
    live: int
    queued: int
    limit: int
    waiting_limit: int
    """Of requests behind the one that runs, in one conversation."""
    live_model_limit: int | None
    live_tenant_limit: int | None
    queue_limit: int


@dataclass(frozen=True, slots=True)
class ConversationFilter:
    """None: whatever it is."""

    tenant: str | None = None
    model: str | None = None
    residency: str | None = None
    idle_longer_than_s: float | None = None


@dataclass(frozen=True, slots=True)
class ConversationPage:
    conversations: tuple[ConversationView, ...]
    statistics: ConversationStatistics
    """Of all that the filter's tenant may see, whatever the rest of the filter."""
    after: int | None
    """To ask for the next page with; None: this is the last."""


class Conversations(Protocol):
    """Orders return the id of an operation at once; those about one conversation raise
    UnknownConversation."""

    def operation(self, operation: str) -> OperationView: ...

    async def wait(self, operation: str) -> OperationView: ...

    def turn(self, key: ConversationKey, model: str) -> AbstractAsyncContextManager[Turn]:
        """Waits for what was asked before. Raises ConversationRefused."""
        ...

    async def page(self, of: ConversationFilter, *, after: int, limit: int) -> ConversationPage: ...

    def view(self, key: ConversationKey) -> ConversationView: ...

    async def look(self, key: ConversationKey) -> ConversationView:
        """``view``, once the turns that were answered are on record and the tier has said where the
        KV lies, if they come to it soon."""
        ...

    def hibernate(self, key: ConversationKey) -> str: ...

    def rehydrate(self, key: ConversationKey) -> str: ...

    def reset(self, key: ConversationKey) -> str: ...

    def delete(self, key: ConversationKey) -> str: ...

    def hibernate_all(self, of: ConversationFilter) -> tuple[str, int]:
        """One operation for all of them, and how many they are."""
        ...
