"""Recall in slices, over a storage that loads when it is told to: who gives way to whom."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import MemoryLayoutDesc, PrefetchResult, PrefetchTaskSpec
from lmcache.v1.multiprocess.engine_context import LayoutDescRegistry
from lmcache.v1.multiprocess.token_hasher import TokenHasher

from kv_store.lmcache_client import Prefix, Recalled
from kv_store.server_recall import NotAttached, Recalls
from tests.kv_store.hand import tokens

CHUNK_BYTES = 32 * 1024
TIER_CHUNKS = 1024
SLICE = 16
"""A 64th of the tier."""
LIMIT_S = 60.0


@dataclass
class Storage:
    """In the place of LMCache's storage manager. Loads end one by one, in ``load``."""

    durable_chunks: int = TIER_CHUNKS
    """Of any prefix, counted from its front."""
    ordered: list[PrefetchTaskSpec] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    """Of each order, whether it kept away from the durable tier."""
    results: dict[int, PrefetchResult] = field(default_factory=dict)
    loads: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def get_l1_usage(self) -> tuple[int, int]:
        return 0, TIER_CHUNKS * CHUNK_BYTES

    def submit_prefetch_task(
        self, spec: PrefetchTaskSpec, external_request_id: str = "", skip_l2: bool = False
    ) -> int:
        self.ordered.append(spec)
        self.skipped.append(skip_l2)
        self.more.set()
        return len(self.ordered) - 1

    def query_prefetch_status(self, handle: int) -> PrefetchResult | None:
        return self.results.get(handle)

    async def orders(self, count: int) -> None:
        """Until there were so many."""
        while len(self.ordered) < count:
            self.more.clear()
            await asyncio.wait_for(self.more.wait(), LIMIT_S)

    def load(self) -> None:
        """The oldest order that is under way."""
        chunks = len(self.ordered[self.loads].key_groups[0].keys)
        there = max(0, min(chunks, self.durable_chunks - self.loads * SLICE))
        hit = Bitmap(chunks)
        for column in range(there):
            hit.set(column)
        self.results[self.loads] = PrefetchResult([hit], [Bitmap(chunks)], [hit])
        self.loads += 1


@dataclass
class Stand:
    storage: Storage
    recalls: Recalls
    layouts: LayoutDescRegistry

    def attach(self) -> None:
        shape = torch.Size([2, 2, 128, 16])
        self.layouts.register("m", 1, MemoryLayoutDesc([shape], [torch.float32]))

    def recall(self, prompt: list[int], limit_s: float = LIMIT_S) -> asyncio.Task[Recalled]:
        return asyncio.create_task(self.recalls.recall(Prefix("m", "s", prompt), limit_s, 0.0))

    async def lookup(self, prompt: list[int], request: str = "cmpl-a") -> None:
        """As LMCache's server does for a request."""
        rows = await self.recalls._rows(Prefix("m", "s", prompt), 0.0)
        submit: Any = self.storage.submit_prefetch_task
        submit(PrefetchTaskSpec(rows), external_request_id=request)


@pytest.fixture
def stand() -> Stand:
    storage, layouts = Storage(), LayoutDescRegistry()
    hasher = TokenHasher(chunk_size=128, hash_algorithm="blake3")
    context = SimpleNamespace(
        storage_manager=storage, layout_desc_registry=layouts, token_hasher=hasher
    )
    standing = Stand(storage, Recalls(context), layouts)  # type: ignore[arg-type]
    standing.attach()
    return standing


async def test_two_slices_are_under_way_at_a_time(stand: Stand) -> None:
    recall = stand.recall(tokens(4 * SLICE))
    for count in (2, 3, 4):
        await stand.storage.orders(count)
        assert len(stand.storage.ordered) == count
        stand.storage.load()
    stand.storage.load()
    done = await recall
    assert (done.wanted, done.found, done.bytes) == (4 * SLICE, 4 * SLICE, 4 * SLICE * CHUNK_BYTES)


async def test_nothing_is_ordered_behind_a_gap(stand: Stand) -> None:
    stand.storage.durable_chunks = SLICE + 3
    recall = stand.recall(tokens(9 * SLICE))
    for count in (2, 3):
        await stand.storage.orders(count)
        stand.storage.load()
    stand.storage.load()
    assert (await recall).found == SLICE + 3
    assert len(stand.storage.ordered) == 3


async def test_a_request_for_all_of_it_takes_over(stand: Stand) -> None:
    prompt = tokens(9 * SLICE)
    recall = stand.recall(prompt)
    await stand.storage.orders(2)
    await stand.lookup([*prompt, *tokens(2, seed=1)])
    stand.storage.load()
    stand.storage.load()
    assert (await recall).found == 2 * SLICE
    assert len(stand.storage.ordered) == 3, "two slices, and the request's own"


async def test_a_request_that_shares_its_beginning_does_not(stand: Stand) -> None:
    prompt = tokens(3 * SLICE)
    recall = stand.recall(prompt)
    await stand.storage.orders(2)
    await stand.lookup([*prompt[: SLICE * 128], *tokens(2, seed=1)])
    stand.storage.load()
    await stand.storage.orders(4)
    for _ in range(3):
        stand.storage.load()
    assert (await recall).found == 3 * SLICE


async def test_all_recalls_together_get_half_of_the_host_tier(stand: Stand) -> None:
    first = stand.recall(tokens(300, seed=1))
    await stand.storage.orders(2)
    second = stand.recall(tokens(300, seed=2))
    await stand.storage.orders(4)
    third = await stand.recall(tokens(300, seed=3))
    assert (third.wanted, third.found) == (300, 0), "there is no room for a third one"
    while not (first.done() and second.done()):
        if stand.storage.loads < len(stand.storage.ordered):
            stand.storage.load()
        await asyncio.wait([first, second], timeout=0.001)
    asked = [len(spec.key_groups[0].keys) for spec in stand.storage.ordered]
    assert sum(asked) == TIER_CHUNKS // 2, "of the second one, its beginning"


async def test_it_ends_in_time(stand: Stand) -> None:
    done = await stand.recall(tokens(4 * SLICE), limit_s=0.0)
    assert (done.wanted, done.found) == (4 * SLICE, 0)


async def test_a_prompt_below_one_chunk_wants_nothing(stand: Stand) -> None:
    assert await stand.recall(tokens(1)[:100]) == Recalled(0, 0, 0, 0.0)


async def test_without_an_engine_of_the_model_it_cannot_be_done(stand: Stand) -> None:
    stand.layouts.unregister("m", 1)
    with pytest.raises(NotAttached):
        await stand.recall(tokens(2))


async def test_a_request_that_stays_near_does_not_look_into_the_durable_tier(
    stand: Stand,
) -> None:
    await stand.lookup(tokens(2), "cmpl-x-turn-1")
    await stand.lookup(tokens(2), "cmpl-x-near--turn-1")
    assert stand.storage.skipped == [False, True]
