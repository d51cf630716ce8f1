"""Conversations on record in Redis or Valkey: the Records port, beside ``records.TokenRecords``.

One short string for each conversation, and one sorted set of all their keys by last use, from
which they are read when a controller starts. Lists are answered from the controller's memory, so
nothing here is searched. Tokens are written by turns alone; what changes oftener is the string.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from redis.asyncio import Redis

from kv_store.conversations import ConversationRecord, KVPlace
from kv_store.history_seal import Seal
from kv_store.lmcache_client import Prefix
from kv_store.records import TokenRecord, TokenRecords, in_our_words
from kv_store.redis_client import client_at
from kv_store.settings import Redis as Settings
from kv_store.turns import TurnTold

_NAMESPACE = "torpor"
_AT_ONCE = 1000
_KEPT_S = 10 * 365 * 24 * 3600
"""Whoever owns the records lets them expire; this is against what nobody owns any more."""


class ConversationRecords:
    @classmethod
    def at_socket(cls, path: Path) -> ConversationRecords:
        """Of the embedded store."""
        return cls(client_at(path))

    @classmethod
    def at(cls, store: Settings) -> ConversationRecords:
        return cls(client_at(store))

    def __init__(
        self, redis: Redis, *, namespace: str = _NAMESPACE, seal: Seal | None = None
    ) -> None:
        """``seal``: of tokens; None: they stand there as they are."""
        self._redis = redis
        self._namespace = namespace
        self._tokens = TokenRecords(redis, kept_s=_KEPT_S, namespace=f"{namespace}:kv", seal=seal)

    async def open(self) -> list[ConversationRecord]:
        """All there are, the longest unused first. Raises RecordsUnavailable."""
        found: list[ConversationRecord] = []
        async with in_our_words():
            names = cast("list[bytes]", await self._redis.zrange(self._index, 0, -1))
            for first in range(0, len(names), _AT_ONCE):
                keys = [self._key_of(name.decode()) for name in names[first : first + _AT_ONCE]]
                texts = cast("list[bytes | None]", await self._redis.mget(keys))
                found += [ConversationRecord.from_json(text) for text in texts if text is not None]
        return found

    async def close(self) -> None:
        await self._redis.aclose()

    async def put(
        self, record: ConversationRecord, told: TurnTold | None = None, *, agreed: int = 0
    ) -> None:
        """``told``: a turn that has ended, which begins with ``agreed`` tokens of those on record;
        None: they are as they are. Raises RecordsUnavailable."""
        if told is not None and record.place is not None:
            name = (record.place.salt, str(record.key))
            before = await self._tokens.turns(*name) if agreed else ()
            turns = (*(end for end in before if end <= agreed), len(told.tokens))
            await self._tokens.put(_token_record(record, record.place, told, turns))
        async with in_our_words(), self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._key_of(str(record.key)), record.to_json(), ex=_KEPT_S)
            pipe.zadd(self._index, {str(record.key): record.last_use_s})
            await pipe.execute()

    async def prefix(self, record: ConversationRecord) -> Prefix | None:
        """Raises RecordsUnavailable."""
        if record.place is None:
            return None
        found = await self._tokens.get(record.place.salt, str(record.key))
        return found.prefix if found is not None else None

    async def forget_tokens(self, record: ConversationRecord) -> None:
        """Raises RecordsUnavailable."""
        if record.place is not None:
            await self._tokens.forget(record.place.salt, str(record.key))

    async def forget(self, record: ConversationRecord) -> None:
        """Raises RecordsUnavailable."""
        await self.forget_tokens(record)
        async with in_our_words(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self._key_of(str(record.key)))
            pipe.zrem(self._index, str(record.key))
            await pipe.execute()

    @property
    def _index(self) -> str:
        return f"{self._namespace}:conversations"

    def _key_of(self, name: str) -> str:
        return f"{self._namespace}:conversation:{name}"


def _token_record(
    record: ConversationRecord, place: KVPlace, told: TurnTold, turns: tuple[int, ...]
) -> TokenRecord:
    return TokenRecord(
        id=str(record.key),
        model=place.path,
        salt=place.salt,
        tokens=told.tokens,
        turns=turns,
        chunks=told.chunks,
        world_size=place.world_size,
        written_at_s=record.last_use_s,
    )
