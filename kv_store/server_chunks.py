"""Export, release, verify and delete inside LMCache's server: chunks addressed by token ids.

LMCache copies each chunk to the durable tier as it is written to the host tier, once, and only
logs a failure. *Export* is therefore: wait for what is under way (``kv_store.server_stores``),
order again what is missing, and say where every chunk stands.

Lookups and loads are LMCache's too; their results are asked for by task, so they disturb nobody.
An *object* is one chunk on one rank.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.error import L1Error
from lmcache.v1.multiprocess.cache_control.key_resolver import resolve_object_keys
from lmcache.v1.multiprocess.engine_context import MPCacheServerContext

from kv_store.keys import destination_of
from kv_store.lmcache_client import Deleted, Exported, Placed, Prefix, Verified
from kv_store.server_stores import Stores, Watch

_SOON_S = 0.0005
_POLL_S = 0.005
_LAST_LOOK_S = 1.0
_UNLOCK_S = 1.0
_AT_ONCE = 16
_TAG = "torpor"


class Chunks:
    def __init__(self, context: MPCacheServerContext) -> None:
        self._context = context
        self._storage = context.storage_manager
        self._stores = Stores(self._storage)

    async def export(self, prefix: Prefix, limit_s: float) -> Exported:
        keys, chunks = self._keys(prefix)
        return await self._export(keys, chunks, limit_s)

    async def settle(self, model: str, limit_s: float) -> Exported:
        """Export of all that the host tier holds of a model, whosever it is."""
        held = [key for key in list(self._storage._l1_manager._objects) if key.model_name == model]
        return await self._export(held, len(held), limit_s)

    async def hand_over(self, keys: list[ObjectKey], limit_s: float) -> None:
        """To the durable tier, as far as there is one and time for it."""
        if self._adapters():
            await self._export(keys, len(keys), limit_s)

    async def _export(self, keys: list[ObjectKey], chunks: int, limit_s: float) -> Exported:
        with self._stores.watched(keys) as watch:
            return await self._exported(keys, chunks, limit_s, watch)

    async def _exported(
        self, keys: list[ObjectKey], chunks: int, limit_s: float, watch: Watch
    ) -> Exported:
        began = time.monotonic()
        until = began + limit_s
        before, written = await self._in_durable(keys, until), set[ObjectKey]()
        missing = [key for key in keys if key not in before]
        ordered: set[ObjectKey] = set()
        while missing and time.monotonic() < until:
            underway = self._stores.under_way()
            taken = underway | ordered | watch.came
            again = [key for key in missing if key not in taken and self._held(key)]
            if again:
                ordered.update(again)
                self._stores.order(again)
                await self._stores.ended(missing, until)
            elif underway.isdisjoint(missing) and watch.came.isdisjoint(missing):
                break
            else:
                await self._stores.come(missing, watch, until)
            untold = [key for key in missing if key not in watch.came]
            last_look = max(until, time.monotonic() + _LAST_LOOK_S)
            written |= watch.came.intersection(missing) | await self._in_durable(untold, last_look)
            missing = [key for key in untold if key not in written]
        return Exported(
            chunks=chunks,
            written=len(written),
            already=len(before),
            failed=(failed := sum(map(self._held, missing))),
            absent=len(missing) - failed,
            bytes=sum(map(self._size, written)),
            seconds=time.monotonic() - began,
        )

    async def verify(self, prefix: Prefix, limit_s: float) -> Verified:
        keys, chunks = self._keys(prefix)
        durable = await self._in_durable(keys, time.monotonic() + limit_s)
        layout = self._context.layout_desc_registry.find(prefix.model, prefix.world_size)
        sound = None
        if layout is not None:
            there = [key for key in keys if key in durable]
            sound = await asyncio.wait_for(self._count_sound(there, layout), limit_s)
        return Verified(
            chunks=chunks,
            in_host=sum(map(self._held, keys)),
            in_durable=len(durable),
            sound=sound,
            unsound=None if sound is None else len(durable) - sound,
        )

    async def delete(self, prefix: Prefix, limit_s: float) -> Deleted:
        until = time.monotonic() + limit_s
        keys, _ = self._keys(prefix)
        await self._stores.ended(keys, until)
        durable = await self._in_durable(keys, until)
        from_host, in_use = await self._delete_held(keys, min(until, time.monotonic() + _UNLOCK_S))
        for adapter in self._adapters():
            await asyncio.to_thread(adapter.delete, list(durable))
        left = await self._in_durable(keys, until)
        return Deleted(from_host, len(durable) - len(left), in_use + len(left))

    async def _delete_held(self, keys: list[ObjectKey], until: float) -> tuple[int, int]:
        """So many, and so many that are in use. Whoever has just stored or written them lets go of
        them a moment later."""
        deleted, in_use = self._storage.delete_l1_keys(keys)
        while in_use and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
            more, in_use = self._storage.delete_l1_keys([key for key in keys if self._held(key)])
            deleted += more
        return deleted, in_use

    async def where(self, prefix: Prefix, limit_s: float) -> Placed:
        keys, _ = self._keys(prefix)
        durable = await self._in_durable(keys, time.monotonic() + limit_s)
        return self._placed(keys, durable, self._largest(keys))

    async def release(self, prefix: Prefix, limit_s: float) -> Placed:
        """Chunks that are locked for a request stay in the host tier."""
        keys, _ = self._keys(prefix)
        object_bytes = self._largest(keys)
        until = time.monotonic() + limit_s
        durable = await self._in_durable(keys, until)
        going = [key for key in keys if key in durable]
        await self._delete_held(going, min(until, time.monotonic() + _UNLOCK_S))
        return self._placed(keys, durable, object_bytes)

    async def withdraw(self, prefix: Prefix, limit_s: float) -> Placed:
        until = time.monotonic() + limit_s
        keys, _ = self._keys(prefix)
        await self._stores.ended(keys, until)
        held = [key for key in keys if self._held(key)]
        going = await self._in_durable(held, until)
        for adapter in self._adapters():
            await asyncio.to_thread(adapter.delete, list(going))
        return self._placed(keys, await self._in_durable(keys, until), self._largest(keys))

    def _placed(self, keys: list[ObjectKey], durable: set[ObjectKey], object_bytes: int) -> Placed:
        return Placed(len(keys), sum(map(self._held, keys)), len(durable), object_bytes)

    def _largest(self, keys: list[ObjectKey]) -> int:
        return max(map(self._size, keys), default=0)

    def _keys(self, prefix: Prefix) -> tuple[list[ObjectKey], int]:
        keys, chunks = self._resolved(prefix, len(prefix.tokens))
        if not prefix.begin:
            return keys, chunks
        before, chunks_before = self._resolved(prefix, prefix.begin)
        left_alone = set(before)
        return [key for key in keys if key not in left_alone], chunks - chunks_before

    def _resolved(self, prefix: Prefix, end: int) -> tuple[list[ObjectKey], int]:
        keys, chunks = resolve_object_keys(
            self._context.token_hasher,
            prefix.model,
            prefix.world_size,
            list(prefix.tokens[:end]),
            prefix.salt,
        )
        return keys, chunks

    def _adapters(self) -> list[Any]:
        return [adapter for _, adapter in self._storage.l2_adapters()]

    def _adapter(self, key: ObjectKey) -> Any:
        """Of the destination that the key is for."""
        wanted = destination_of(key.cache_salt)
        return next(
            adapter
            for described, adapter in self._storage.l2_adapters()
            if described.config.destination == wanted
        )

    def _held(self, key: ObjectKey) -> bool:
        return self._storage._l1_manager.get_object_state(key) is not None

    def _size(self, key: ObjectKey) -> int:
        state = self._storage._l1_manager.get_object_state(key)
        return 0 if state is None else int(state.memory_obj.get_size())

    async def _in_durable(self, keys: Sequence[ObjectKey], until: float) -> set[ObjectKey]:
        """What does not answer by ``until`` has nothing."""
        found: set[ObjectKey] = set()
        for adapter in self._adapters() if keys else ():
            task = adapter.submit_lookup_and_lock_task(list(keys), {})
            asked = partial(adapter.query_lookup_and_lock_result, task)
            with suppress(TimeoutError):
                bitmap = await asyncio.wait_for(_result(asked), until - time.monotonic())
                here = [keys[index] for index in bitmap.get_indices_list()]
                adapter.submit_unlock(here)
                found.update(here)
        return found

    async def _count_sound(self, keys: list[ObjectKey], layout: MemoryLayoutDesc) -> int:
        sound = 0
        for first in range(0, len(keys), _AT_ONCE):
            group = keys[first : first + _AT_ONCE]
            sound += sum(await asyncio.gather(*(self._is_sound(key, layout) for key in group)))
        return sound

    async def _is_sound(self, key: ObjectKey, layout: MemoryLayoutDesc) -> bool:
        """Read into a buffer of its own, that nobody else ever sees."""
        manager = self._storage._l1_manager
        own = ObjectKey(
            chunk_hash=key.chunk_hash + uuid.uuid4().bytes,
            model_name=key.model_name,
            kv_rank=key.kv_rank,
            cache_salt=key.cache_salt,
        )
        error, buffer = manager.reserve_write([own], [True], layout, tag=_TAG)[own]
        if error != L1Error.SUCCESS:
            raise RuntimeError("the host tier has no room to verify in")
        try:
            adapter = self._adapter(key)
            task = adapter.submit_load_task([key], [buffer])
            loaded = await _result(partial(adapter.query_load_result, task))
            return bool(loaded.test(0))
        finally:
            manager.finish_write_and_delete([own], tag=_TAG)


async def _result(query: Callable[[], Any]) -> Any:
    pause_s = _SOON_S
    while (result := query()) is None:
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _POLL_S)
    return result
