"""The host tier's size while the server runs: smaller under pressure, and large again after it.

LMCache takes the whole segment of shared memory at its start and hands out ranges of it. Pages
come as they are written, and never go: a chunk that is evicted leaves its pages behind. To shrink
is therefore three things here: the chunks used least recently are exported and evicted, free
ranges are withdrawn from LMCache's books, so that nobody is given them, and their pages are handed
back to the system. LMCache's own marks are parts of the size in its books, so they shrink along. To
grow, ranges are put back into the books; their pages come as they are written.

Pages that an engine has pinned for CUDA would stay where they are, and no longer be those of the
segment. Who asks must know that nobody has (``workers.node_agent``).
"""

from __future__ import annotations

import asyncio
import mmap
import time
from pathlib import Path
from typing import Any

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.memory_management import FreeBlock
from lmcache.v1.multiprocess.engine_context import MPCacheServerContext

from kv_store.lmcache_client import Resized
from kv_store.server_chunks import Chunks

_FULL = 0.8
"""LMCache evicts from there on: filled further, the smaller tier would be emptied again at once."""
_EXPORT_SHARE = 0.5
"""Of the time. What is not exported by then is evicted all the same: it can be computed again."""
_POLL_S = 0.05
"""Chunks in use are so often asked after."""
_SEGMENTS = Path("/dev/shm")  # noqa: S108


class NotShared(Exception):
    """The host tier does not lie in shared memory, so nothing of it can be handed back."""


class HostRoom:
    def __init__(self, context: MPCacheServerContext, chunks: Chunks) -> None:
        self._context = context
        self._storage = context.storage_manager
        self._chunks = chunks
        self._withdrawn: list[tuple[int, int]] = []
        """(start, size) of ranges that nobody is given."""
        self._one_at_a_time = asyncio.Lock()

    async def resize(self, to_bytes: int, limit_s: float) -> Resized:
        """As near as that can be had by ``limit_s``; chunks in use stay. Raises NotShared."""
        until = time.monotonic() + limit_s
        async with self._one_at_a_time:
            segment = self._segment()
            self._put_back(to_bytes)
            evicted = 0
            while await asyncio.to_thread(self._withdraw, segment, to_bytes):
                if time.monotonic() > until:
                    break
                gone = await self._evict(to_bytes, until)
                evicted += gone
                if not gone:
                    await asyncio.sleep(_POLL_S)
            return Resized(self._books().get_heap_size(), evicted)

    async def _evict(self, to_bytes: int, until: float) -> int:
        """So many chunks, those used least recently: enough for the tier to be of that size."""
        keys = self._oldest(self._books().total_allocated_size - int(to_bytes * _FULL))
        await self._chunks.hand_over(keys, _EXPORT_SHARE * (until - time.monotonic()))
        gone, _ = self._storage.delete_l1_keys(keys)
        return int(gone)

    def _oldest(self, size: int) -> list[ObjectKey]:
        policy: Any = self._storage._eviction_controller
        found: list[ObjectKey] = []
        for action in policy._eviction_policy.get_eviction_actions(1.0):
            for key in action.keys:
                if size <= 0:
                    return found
                state = self._storage._l1_manager.get_object_state(key)
                if state is not None:
                    found.append(key)
                    size -= state.memory_obj.get_physical_size()
        return found

    def _withdraw(self, segment: Path, to_bytes: int) -> bool:
        """Free ranges, from the end; whether some are still lacking."""
        books, taken = self._books(), list[tuple[int, int]]()
        with books._lock:
            for block in sorted(books._explicit_list, key=lambda block: -block.start):
                size = min(block.size, (books._size - to_bytes) // mmap.PAGESIZE * mmap.PAGESIZE)
                if size <= 0:
                    break
                books._explicit_list.remove(block)
                if block.size > size:
                    books._explicit_list.add(FreeBlock(block.start, block.size - size))
                books._size -= size
                taken.append((block.start + block.size - size, size))
        _hand_back(segment, taken)
        self._withdrawn += taken
        return bool(books.get_heap_size() - to_bytes >= mmap.PAGESIZE)

    def _put_back(self, to_bytes: int) -> None:
        books = self._books()
        while self._withdrawn:
            size = (to_bytes - books.get_heap_size()) // mmap.PAGESIZE * mmap.PAGESIZE
            if size <= 0:
                return
            start, withdrawn = self._withdrawn.pop()
            if withdrawn > size:
                self._withdrawn.append((start, withdrawn - size))
                start += withdrawn - size
            back = min(size, withdrawn)
            with books._lock:
                books._size += back
                books.total_allocated_size += back
            books.free(start, back)

    def _books(self) -> Any:
        """LMCache's AddressManager: which ranges are free, and how many bytes there are in all."""
        manager: Any = self._storage._l1_manager
        return manager._memory_manager._allocator.pin_allocator.address_manager

    def _segment(self) -> Path:
        name: str = self._context.shm_pool_info["shm_name"]
        if not name:
            raise NotShared
        return _SEGMENTS / name


def _hand_back(segment: Path, ranges: list[tuple[int, int]]) -> None:
    """Their pages are nobody's then, whoever maps the segment."""
    if not ranges:
        return
    with segment.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        for start, size in ranges:
            mapped.madvise(mmap.MADV_REMOVE, start, size)
