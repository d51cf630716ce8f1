"""Histories in Redis or Valkey, sealed (``history_seal``).

A conversation's history is one hash: a head, and a field for each item under its number. It is
read whole and written in one transaction, so it is there whole or not at all; the head says how
many items there are, and one that was lost makes it unreadable, never shorter. Responses lie
beside it, one string each, with a set that finds those of a conversation. A sorted set of all
conversations by last change tells a controller that starts which there are.

There is one writer, the controller, and one at a time in a conversation (its line).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from kv_store.conversations import ConversationKey
from kv_store.history import History, HistoryUnreadable, Item, KeptResponse
from kv_store.history_seal import Seal
from kv_store.records import in_our_words
from kv_store.redis_client import client_at
from kv_store.settings import Redis as Settings

_NAMESPACE = "torpor"
_HEAD = b"head"
_PATIENCE_S = 10.0
"""A store that answers no sooner is away."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 0.5
"""Before it is tried again, four times: the embedded store is back within about a second."""
_LARGE_BYTES = 256 << 10
"""Opening so much takes milliseconds, in which others would wait."""


class HistoryStore:
    """All but close raise RecordsUnavailable; what reads raises HistoryUnreadable."""

    @classmethod
    def at(cls, store: Settings | Path, seal: Seal) -> HistoryStore:
        """A path: the embedded store's socket."""
        return cls(client_at(store, Retry(ExponentialBackoff(_LONGEST_PAUSE_S, _PAUSE_S), 4)), seal)

    def __init__(self, redis: Redis, seal: Seal, *, namespace: str = _NAMESPACE) -> None:
        self._redis = redis
        self._seal = seal
        self._namespace = namespace

    async def close(self) -> None:
        await self._redis.aclose()

    async def known(self) -> list[tuple[ConversationKey, float]]:
        """Every conversation of which something is kept, and when it changed last."""
        async with _asking():
            told = await self._redis.zrange(self._index, 0, -1, withscores=True)
        found = cast("list[tuple[bytes, float]]", told)
        return [(ConversationKey.parse(name.decode()), at) for name, at in found]

    # histories

    async def load(self, key: ConversationKey) -> History | None:
        async with _asking():
            fields = await cast(
                "Awaitable[dict[bytes, bytes]]", self._redis.hgetall(self._history(key))
            )
        if sum(map(len, fields.values())) > _LARGE_BYTES:
            return await asyncio.to_thread(self._opened, key, fields)
        return self._opened(key, fields) if fields else None

    async def append(
        self,
        key: ConversationKey,
        before: History,
        items: Sequence[Item],
        at_s: float,
        response: KeptResponse | None = None,
    ) -> History:
        """``before``: as it was loaded, or a fresh one. As it is then."""
        numbers = range(before.next_number, before.next_number + len(items))
        after = replace(
            before,
            items=(*before.items, *items),
            numbers=(*before.numbers, *numbers),
            next_number=numbers.stop,
        )
        fields = {
            str(number): self._sealed(item, _place(key, number))
            for number, item in zip(numbers, items, strict=True)
        }
        async with self._changing(key, at_s) as pipe:
            pipe.hset(self._history(key), mapping=cast("Any", self._head(key, after) | fields))
            if response is not None:
                self._put(pipe, key, response)
        return after

    async def describe(
        self, key: ConversationKey, before: History, metadata: Mapping[str, str], at_s: float
    ) -> History:
        after = replace(before, metadata=metadata)
        async with self._changing(key, at_s) as pipe:
            pipe.hset(self._history(key), mapping=cast("Any", self._head(key, after)))
        return after

    async def remove(self, key: ConversationKey, before: History, id: str, at_s: float) -> History:
        """The items of that id."""
        kept = [
            pair
            for pair in zip(before.items, before.numbers, strict=True)
            if pair[0].get("id") != id
        ]
        items, numbers = tuple(i for i, _ in kept), tuple(n for _, n in kept)
        gone = set(before.numbers) - set(numbers)
        after = replace(before, items=items, numbers=numbers)
        async with self._changing(key, at_s) as pipe:
            pipe.hset(self._history(key), mapping=cast("Any", self._head(key, after)))
            pipe.hdel(self._history(key), *map(str, gone))
        return after

    async def forget(self, key: ConversationKey) -> None:
        """Its history and its responses."""
        async with _asking():
            told = self._redis.smembers(self._responses(key))
            responses = await cast("Awaitable[set[bytes]]", told)
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(self._history(key), self._responses(key))
                for id in responses:
                    pipe.delete(self._response(key.tenant, id.decode()))
                pipe.zrem(self._index, str(key))
                await pipe.execute()

    # responses

    async def keep_response(
        self, key: ConversationKey, response: KeptResponse, at_s: float
    ) -> None:
        async with self._changing(key, at_s) as pipe:
            self._put(pipe, key, response)

    async def responses(self, tenant: str, ids: Sequence[str]) -> list[KeptResponse | None]:
        """As many as were asked for; None: there is none of that id."""
        if not ids:
            return []
        async with _asking():
            names = [self._response(tenant, id) for id in ids]
            found = cast("list[bytes | None]", await self._redis.mget(names))
        return [
            None if sealed is None else self._response_of(tenant, id, sealed)
            for id, sealed in zip(ids, found, strict=True)
        ]

    async def forget_response(self, tenant: str, response: KeptResponse) -> None:
        key = ConversationKey(tenant, response.conversation)
        async with _asking(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self._response(tenant, response.id))
            pipe.srem(self._responses(key), response.id)
            await pipe.execute()

    # how it stands there

    @asynccontextmanager
    async def _changing(self, key: ConversationKey, at_s: float) -> AsyncIterator[Pipeline]:
        async with _asking(), self._redis.pipeline(transaction=True) as pipe:
            yield pipe
            pipe.zadd(self._index, {str(key): at_s})
            await pipe.execute()

    def _put(self, pipe: Pipeline, key: ConversationKey, response: KeptResponse) -> None:
        told = {
            "conversation": response.conversation,
            "is_chained": response.is_chained,
            "ancestors": response.ancestors,
            "first_number": response.first_number,
            "input": response.input,
            "answer": response.answer,
        }
        sealed = self._sealed(told, _response_place(key.tenant, response.id))
        pipe.set(self._response(key.tenant, response.id), sealed)
        pipe.sadd(self._responses(key), response.id)

    def _response_of(self, tenant: str, id: str, sealed: bytes) -> KeptResponse:
        told = json.loads(self._seal.open(sealed, _response_place(tenant, id)))
        told["input"], told["ancestors"] = tuple(told["input"]), tuple(told["ancestors"])
        return KeptResponse(id=id, sealed_bytes=len(sealed), **told)

    def _head(self, key: ConversationKey, history: History) -> dict[str, bytes]:
        told = {
            "created_s": history.created_s,
            "metadata": history.metadata,
            "next": history.next_number,
            "count": len(history.items),
        }
        return {_HEAD.decode(): self._sealed(told, _place(key, "head"))}

    def _opened(self, key: ConversationKey, fields: dict[bytes, bytes]) -> History:
        if _HEAD not in fields:
            raise HistoryUnreadable("its head is missing")
        head = json.loads(self._seal.open(fields[_HEAD], _place(key, "head")))
        numbers = sorted(int(name) for name in fields if name != _HEAD)
        if len(numbers) != head["count"]:
            raise HistoryUnreadable("a part of it is missing")
        sealed = ((number, fields[str(number).encode()]) for number in numbers)
        return History(
            created_s=head["created_s"],
            metadata=head["metadata"],
            items=tuple(json.loads(self._seal.open(s, _place(key, n))) for n, s in sealed),
            numbers=tuple(numbers),
            next_number=head["next"],
            sealed_bytes=sum(map(len, fields.values())),
        )

    def _sealed(self, value: object, place: str) -> bytes:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return self._seal.seal(text.encode("utf-8", "surrogatepass"), place)

    @property
    def _index(self) -> str:
        return f"{self._namespace}:histories"

    def _history(self, key: ConversationKey) -> str:
        return f"{self._namespace}:history:{key}"

    def _responses(self, key: ConversationKey) -> str:
        return f"{self._namespace}:responses:{key}"

    def _response(self, tenant: str, id: str) -> str:
        return f"{self._namespace}:response:{ConversationKey(tenant, id)}"


def _place(key: ConversationKey, number: int | str) -> str:
    return json.dumps(["history", key.tenant, key.id, number])


def _response_place(tenant: str, id: str) -> str:
    return json.dumps(["response", tenant, id])


@asynccontextmanager
async def _asking() -> AsyncIterator[None]:
    async with in_our_words(), asyncio.timeout(_PATIENCE_S):
        yield
