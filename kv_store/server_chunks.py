"""Export, release, verify and delete inside LMCache's server: chunks addressed by token ids.

LMCache copies each chunk to the durable tier as it is written to the host tier, once, and only
logs a failure. *Export* is therefore: wait for what is under way, order again what is missing,
and say where every chunk stands. It orders by handing keys to LMCache's own store loop, as if
they had just been written, because the results of stores go to that loop and to nobody else.

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

_POLL_S = 0.005
_LONGEST_POLL_S = 0.25
_SLOWER = 1.25
_LAST_LOOK_S = 1.0
_UNLOCK_S = 1.0
_STILL_LOOKS = 4
_AT_ONCE = 16
_TAG = "torpor"


class Chunks:
    def __init__(self, context: MPCacheServerContext) -> None:
        self._context = context
        self._storage = context.storage_manager

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
        began = time.monotonic()
        until = began + limit_s
        before, written = await self._in_durable(keys, until), set[ObjectKey]()
        missing = [key for key in keys if key not in before]
        ordered: set[ObjectKey] = set()
        while missing and time.monotonic() < until:
            underway = self._underway()
            taken = underway | ordered
            again = [key for key in missing if key not in taken and self._held(key)]
            if again:
                ordered.update(again)
                self._order_store(again)
            elif underway.isdisjoint(missing):
                break
            await self._await_stores(missing, until)
            last_look = max(until, time.monotonic() + _LAST_LOOK_S)
            written |= await self._in_durable(missing, last_look)
            missing = [key for key in missing if key not in written]
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
        await self._await_stores(keys, until)
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
        await self._await_stores(keys, until)
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

    def _underway(self) -> set[ObjectKey]:
        """Waiting for LMCache's store loop, or handed to an adapter by it."""
        controller = self._storage._store_controller
        tasks = controller._in_flight_tasks.copy().values()
        waiting = set(controller._listener._pending_keys)
        return waiting.union(*(task.keys for task in tasks))

    async def _await_stores(self, keys: list[ObjectKey], until: float) -> None:
        """Asks LMCache's books: to look into the durable tier would slow down what is awaited.
        Between waiting and handed over a key is for a moment in neither book, so only several
        looks in a row are believed."""
        pause_s, still = _POLL_S, 0
        while (left_s := until - time.monotonic()) > 0:
            still = still + 1 if self._underway().isdisjoint(keys) else 0
            if still == _STILL_LOOKS:
                return
            await asyncio.sleep(min(_POLL_S if still else pause_s, left_s))
            pause_s = min(pause_s * _SLOWER, _LONGEST_POLL_S)

    def _order_store(self, keys: list[ObjectKey]) -> None:
        self._storage._store_controller._listener.on_l1_keys_write_finished(keys)

    async def _in_durable(self, keys: Sequence[ObjectKey], until: float) -> set[ObjectKey]:
        """What does not answer by ``until`` has nothing."""
        found: set[ObjectKey] = set()
        for adapter in self._adapters():
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
    while True:
        result = query()
        if result is not None:
            return result
        await asyncio.sleep(_POLL_S)
