"""Recall inside LMCache's server: a prefix from the durable tier to the host tier, ahead of need.

While an engine wakes, the KV of those who wait for it comes back. LMCache's own order of that kind
loads a prefix in one piece; here it is loaded in slices, so that it keeps out of everybody's way:

- A lookup that wants the whole prefix takes over: it loads what is left itself, and no slice is
  ordered after it. Both would load the same chunks otherwise, each slower for the other.
- All recalls together get a part of the host tier; of a prefix that does not fit its beginning is
  loaded, since chunks without those before them are of no use.
- An engine that starts attaches late; recalls may wait for that.

A request whose id has ``NEAR`` in it does not look into the durable tier: whoever asks for it has
found that computing is sooner.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lmcache.v1.distributed.api import (
    GroupedObjectKeys,
    MemoryLayoutDesc,
    ObjectKey,
    PrefetchHandle,
    PrefetchLockMode,
    PrefetchResult,
    PrefetchTaskSpec,
)
from lmcache.v1.multiprocess.cache_control.key_resolver import resolve_grouped_object_keys
from lmcache.v1.multiprocess.engine_context import MPCacheServerContext

from kv_store.lmcache_client import Prefix, Recalled
from kv_store.reports import NEAR

_SHARE = 0.5
"""Of the host tier, for all recalls under way. LMCache makes room from 0.8 of it on."""
_SLICE_BYTES = 64 << 20
_SLICE_SHARE = 1 / 64
"""Of the host tier, at most."""
_SLICES_AT_ONCE = 2
"""Of one recall; so the durable tier has always something to do."""
_POLL_S = 0.001
_ATTACH_POLL_S = 0.05


class NotAttached(Exception):
    """No engine of the model is attached, so nobody knows how its chunks are laid out."""


@dataclass(slots=True, eq=False)
class _UnderWay:
    last: ObjectKey
    """Whoever looks for this one wants all of them."""
    bytes: int
    is_overtaken: bool = False


class Recalls:
    def __init__(self, context: MPCacheServerContext) -> None:
        self._context = context
        self._storage = context.storage_manager
        self._under_way: list[_UnderWay] = []
        self._submit = self._storage.submit_prefetch_task
        self._storage.submit_prefetch_task = self._looked_up

    async def recall(self, prefix: Prefix, limit_s: float, attach_s: float) -> Recalled:
        """``attach_s``: how long to wait for an engine of the model. Raises NotAttached."""
        until = time.monotonic() + limit_s
        rows = await self._rows(prefix, time.monotonic() + min(attach_s, limit_s))
        chunks = len(rows[0].keys) if rows else 0
        wanted = chunks * len(rows)
        chunk_bytes = sum(_object_bytes(row.layout_desc) for row in rows)
        fitting = min(chunks, self._room_bytes() // chunk_bytes) if chunks else 0
        if not fitting:
            return Recalled(wanted, 0, 0, 0.0)
        with self._announced(rows[0].keys[-1], fitting * chunk_bytes) as under_way:
            began = time.monotonic()
            slices = _slices(rows, fitting, max(1, self._slice_bytes() // chunk_bytes))
            found, moved = await self._load(slices, under_way, until)
            return Recalled(wanted, found, moved, time.monotonic() - began)

    async def _load(
        self, slices: Iterator[list[GroupedObjectKeys]], under_way: _UnderWay, until: float
    ) -> tuple[int, int]:
        """Objects that lie in the host tier, up to the first gap, and bytes that came there."""
        found = moved = 0
        ordered: deque[tuple[list[GroupedObjectKeys], PrefetchHandle]] = deque()
        has_gap = False
        while True:
            while len(ordered) < _SLICES_AT_ONCE and not (has_gap or under_way.is_overtaken):
                rows = next(slices, None)
                if rows is None or time.monotonic() > until:
                    break
                ordered.append((rows, self._order(rows)))
            if not ordered:
                return found, moved
            rows, handle = ordered.popleft()
            result = await self._result(handle, until)
            if result is None:
                return found, moved
            if not has_gap:
                found += sum(bits.popcount() for bits in result.hit_cells)
            moved += sum(
                bits.popcount() * _object_bytes(row.layout_desc)
                for bits, row in zip(result.l2_hit_cells, rows, strict=True)
            )
            whole = len(rows) * len(rows[0].keys)
            has_gap |= sum(bits.popcount() for bits in result.hit_cells) < whole

    def _order(self, rows: list[GroupedObjectKeys]) -> PrefetchHandle:
        spec = PrefetchTaskSpec(rows, fetching_policy="full", lock_mode=PrefetchLockMode.NO_LOCK)
        return self._submit(spec)

    async def _result(self, handle: PrefetchHandle, until: float) -> PrefetchResult | None:
        """None: not in time. LMCache goes on loading then."""
        while True:
            result: PrefetchResult | None = self._storage.query_prefetch_status(handle)
            if result is not None or time.monotonic() > until:
                return result
            await asyncio.sleep(_POLL_S)

    def _looked_up(
        self, spec: PrefetchTaskSpec, external_request_id: str = "", skip_l2: bool = False
    ) -> PrefetchHandle:
        """In the place of LMCache's own, on its threads: every request's lookup comes by here."""
        under_way = list(self._under_way)
        if under_way:
            wanted = {key for row in spec.key_groups for key in row.keys}
            for recall in under_way:
                recall.is_overtaken |= recall.last in wanted
        is_near = NEAR in external_request_id
        return self._submit(spec, external_request_id, skip_l2=skip_l2 or is_near)

    async def _rows(self, prefix: Prefix, until: float) -> list[GroupedObjectKeys]:
        registry = self._context.layout_desc_registry
        while not (layouts := registry.find_group_layout_descs(prefix.model, prefix.world_size)):
            if time.monotonic() > until:
                raise NotAttached(prefix.model)
            await asyncio.sleep(_ATTACH_POLL_S)
        rows, _ = resolve_grouped_object_keys(
            self._context.token_hasher,
            prefix.model,
            prefix.world_size,
            list(prefix.tokens),
            prefix.salt,
            layouts,
            registry.find_attn_desc(prefix.model, prefix.world_size),
        )
        return list(rows)

    def _slice_bytes(self) -> int:
        return min(_SLICE_BYTES, int(self._tier_bytes() * _SLICE_SHARE))

    def _room_bytes(self) -> int:
        taken = sum(recall.bytes for recall in self._under_way)
        return max(0, int(self._tier_bytes() * _SHARE) - taken)

    def _tier_bytes(self) -> int:
        _, total = self._storage.get_l1_usage()
        return int(total)

    @contextmanager
    def _announced(self, last: ObjectKey, size: int) -> Iterator[_UnderWay]:
        under_way = _UnderWay(last, size)
        self._under_way.append(under_way)
        try:
            yield under_way
        finally:
            self._under_way.remove(under_way)


def _slices(
    rows: list[GroupedObjectKeys], chunks: int, at_once: int
) -> Iterator[list[GroupedObjectKeys]]:
    for first in range(0, chunks, at_once):
        columns = slice(first, min(first + at_once, chunks))
        yield [replace(row, keys=row.keys[columns]) for row in rows]


def _object_bytes(layout: MemoryLayoutDesc) -> int:
    described: Any = zip(layout.shapes, layout.dtypes, strict=True)
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in described)
