"""Token records: what a conversation's KV was made from, kept in Redis or Valkey.

Prefetch, verify and delete address chunks by the tokens before them, and nothing else in the
system remembers tokens. A record is one hash; an index by salt finds all records of a model and
tenant, so that they can be deleted together. Records expire with disuse; the index is cleaned of
them when it is read.

There is one writer, the controller: a turn replaces the whole record. Tokens are four bytes
each, little-endian; prompts themselves are not kept, but tokens are as telling: they are sealed
where there is a key for it, and else the store must be as well guarded as the KV. A record that
cannot be opened is none: all it cost is KV that is computed once more.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kv_store.conversations import RecordsUnavailable as RecordsUnavailable
from kv_store.history import HistoryUnreadable
from kv_store.history_seal import Seal
from kv_store.lmcache_client import Prefix

_UINT32 = "I"
_NAMESPACE = "torpor:kv"
_SEALED = "sealed_tokens"
assert array(_UINT32).itemsize == 4


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """``id``: a conversation's or a request's. ``turns``: token counts at which each turn ended.
    ``chunks`` from the front were in the host tier when the last one had."""

    id: str
    model: str
    salt: str
    tokens: Sequence[int] = field(repr=False)
    turns: tuple[int, ...] = ()
    chunks: int = 0
    world_size: int = 1
    written_at_s: float = field(default_factory=time.time)

    @property
    def prefix(self) -> Prefix:
        """What the tier is asked for."""
        return Prefix(self.model, self.salt, self.tokens, self.world_size)


class TokenRecords:
    """``kept_s``: how long a record outlives its last use."""

    def __init__(
        self,
        redis: Redis,
        *,
        kept_s: int,
        namespace: str = _NAMESPACE,
        seal: Seal | None = None,
    ) -> None:
        self._seal = seal
        self._redis = redis
        self._kept_s = kept_s
        self._namespace = namespace

    async def put(self, record: TokenRecord) -> None:
        """Replaces the record of that salt and id. Raises RecordsUnavailable."""
        async with in_our_words(), self._redis.pipeline(transaction=True) as pipe:
            key = self._key(record.salt, record.id)
            pipe.delete(key)
            pipe.hset(key, mapping=cast("Any", self._sealed(record)))
            pipe.expire(key, self._kept_s)
            pipe.zadd(self._index(record.salt), {record.id: record.written_at_s})
            pipe.expire(self._index(record.salt), self._kept_s)
            await pipe.execute()

    async def get(self, salt: str, id: str) -> TokenRecord | None:
        """And lets it live on. Raises RecordsUnavailable."""
        key = self._key(salt, id)
        async with in_our_words(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(key)
            pipe.expire(key, self._kept_s)
            pipe.expire(self._index(salt), self._kept_s)
            packed, *_ = await pipe.execute()
        return self._opened(id, salt, packed) if packed else None

    async def turns(self, salt: str, id: str) -> tuple[int, ...]:
        """Of the record, without its tokens; none where there is no record."""
        async with in_our_words():
            found = cast("bytes | None", await self._redis.hget(self._key(salt, id), "turns"))
        return tuple(_from_bytes(found or b""))

    async def forget(self, salt: str, id: str) -> bool:
        """True if there was one."""
        async with in_our_words(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self._key(salt, id))
            pipe.zrem(self._index(salt), id)
            deleted, _ = await pipe.execute()
        return bool(deleted)

    async def ids(self, salt: str) -> list[str]:
        """Of all records under a salt, the longest unwritten first."""
        async with in_our_words():
            named = cast("list[bytes]", await self._redis.zrange(self._index(salt), 0, -1))
            found = [name.decode() for name in named]
            async with self._redis.pipeline(transaction=False) as pipe:
                for id in found:
                    pipe.exists(self._key(salt, id))
                exist = await pipe.execute() if found else []
            expired = [id for id, exists in zip(found, exist, strict=True) if not exists]
            if expired:
                await self._redis.zrem(self._index(salt), *expired)
        return [id for id in found if id not in expired]

    def _sealed(self, record: TokenRecord) -> dict[str, bytes | str | int | float]:
        packed = _packed(record)
        if self._seal is not None:
            tokens = cast("bytes", packed.pop("tokens"))
            packed[_SEALED] = self._seal.seal(tokens, _place(record.salt, record.id))
        return packed

    def _opened(self, id: str, salt: str, packed: dict[bytes, bytes]) -> TokenRecord | None:
        sealed = packed.get(_SEALED.encode())
        if sealed is None:
            return _unpacked(id, salt, packed)
        if self._seal is None:
            return None
        try:
            tokens = self._seal.open(sealed, _place(salt, id))
        except HistoryUnreadable:
            return None
        return _unpacked(id, salt, packed | {b"tokens": tokens})

    def _key(self, salt: str, id: str) -> str:
        return f"{self._namespace}:record:{salt}:{id}"

    def _index(self, salt: str) -> str:
        return f"{self._namespace}:records:{salt}"


def _place(salt: str, id: str) -> str:
    return json.dumps(["tokens", salt, id])


def _packed(record: TokenRecord) -> dict[str, bytes | str | int | float]:
    return {
        "model": record.model,
        "tokens": _to_bytes(record.tokens),
        "turns": _to_bytes(record.turns),
        "chunks": record.chunks,
        "world_size": record.world_size,
        "written_at_s": record.written_at_s,
    }


def _unpacked(id: str, salt: str, packed: dict[bytes, bytes]) -> TokenRecord:
    return TokenRecord(
        id=id,
        model=packed[b"model"].decode(),
        salt=salt,
        tokens=_from_bytes(packed[b"tokens"]),
        turns=tuple(_from_bytes(packed[b"turns"])),
        chunks=int(packed[b"chunks"]),
        world_size=int(packed[b"world_size"]),
        written_at_s=float(packed[b"written_at_s"]),
    )


def _to_bytes(numbers: Sequence[int]) -> bytes:
    return _little_endian(array(_UINT32, numbers)).tobytes()


def _from_bytes(packed: bytes) -> array[int]:
    numbers = array(_UINT32)
    numbers.frombytes(packed)
    return _little_endian(numbers)


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


@asynccontextmanager
async def in_our_words() -> AsyncIterator[None]:
    """Whatever Redis raises, as RecordsUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise RecordsUnavailable(type(error).__name__) from error
