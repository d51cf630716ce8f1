"""What is kept of a conversation: plain values, without the store they are kept in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from kv_store.lmcache_client import Prefix
from kv_store.turns import TurnTold


class RecordsUnavailable(Exception):
    """The store is down, full, or refuses; the record is as it was or gone."""


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """Tenants name their conversations as they like: two with one id are two conversations."""

    tenant: str
    id: str

    def __str__(self) -> str:
        return json.dumps([self.tenant, self.id], separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> ConversationKey:
        return cls(*json.loads(text))


@dataclass(frozen=True, slots=True)
class KVPlace:
    """Where a conversation's KV was made, and under what names its chunks are found."""

    node: str
    path: str
    """Of the model, as its engine was started with it."""
    salt: str
    world_size: int = 1

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        return Prefix(self.path, self.salt, tokens, self.world_size)


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """All but its tokens, which lie beside it. Times are Unix seconds."""

    key: ConversationKey
    model: str
    created_s: float
    last_use_s: float
    residency: str
    run: str
    """Of the fleet, in which that residency was true: the host tier ends with its run."""
    place: KVPlace | None = None
    """None: no tokens are on record."""
    replica: str = ""
    """Of the engine that served the last turn."""
    turns: int = 0
    tokens: int = 0
    digest: str = ""
    """Of those tokens."""
    host_bytes: int = 0
    durable_bytes: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: bytes | str) -> ConversationRecord:
        raw = json.loads(text)
        key, place = ConversationKey(**raw.pop("key")), raw.pop("place")
        return cls(key=key, place=KVPlace(**place) if place else None, **raw)


@dataclass(slots=True)
class MemoryRecords:
    """The Records port where nothing need outlive the controller: a fleet that keeps no KV."""

    _records: dict[ConversationKey, ConversationRecord] = field(default_factory=dict)
    _tokens: dict[ConversationKey, Sequence[int]] = field(default_factory=dict)

    async def open(self) -> list[ConversationRecord]:
        return list(self._records.values())

    async def close(self) -> None: ...

    async def put(
        self, record: ConversationRecord, told: TurnTold | None = None, *, agreed: int = 0
    ) -> None:
        self._records[record.key] = record
        if told is not None:
            self._tokens[record.key] = told.tokens

    async def prefix(self, record: ConversationRecord) -> Prefix | None:
        tokens = self._tokens.get(record.key)
        return record.place.prefix(tokens) if record.place and tokens is not None else None

    async def forget_tokens(self, record: ConversationRecord) -> None:
        self._tokens.pop(record.key, None)

    async def forget(self, record: ConversationRecord) -> None:
        self._records.pop(record.key, None)
        self._tokens.pop(record.key, None)
