"""LMCache's own copying from the host tier to the durable one: what is under way, what has come.

The results of stores go to LMCache's store loop and to nobody else. Who waits for chunks is told
of those that come as the adapter tells it, and finds out about the others from LMCache's books.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.internal_api import L2AdapterListener

_POLL_S = 0.005
_LONGEST_POLL_S = 0.25
_SLOWER = 1.25
_STILL_LOOKS = 4


class Watch:
    """Of chunks that somebody waits for, from now on."""

    def __init__(self, keys: Collection[ObjectKey]) -> None:
        self.came: set[ObjectKey] = set()
        self._watched = frozenset(keys)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def told(self, keys: Collection[ObjectKey]) -> None:
        """From any thread."""
        ours = self._watched.intersection(keys)
        if ours:
            self._loop.call_soon_threadsafe(self._tell, ours)

    async def wait(self, limit_s: float) -> None:
        """For news."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), limit_s)
        self._news.clear()

    def _tell(self, keys: frozenset[ObjectKey]) -> None:
        self.came |= keys
        self._news.set()


class _Listener(L2AdapterListener):  # type: ignore[misc]
    def __init__(self, watches: list[Watch]) -> None:
        self._watches = watches

    def on_l2_keys_stored(self, keys: list[ObjectKey], sizes: list[int]) -> None:
        for watch in self._watches.copy():
            watch.told(keys)

    def on_l2_keys_accessed(self, keys: list[ObjectKey]) -> None:
        """Nobody waits for that."""

    def on_l2_keys_deleted(self, keys: list[ObjectKey]) -> None:
        """Nobody waits for that."""


class Stores:
    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._watches: list[Watch] = []
        listener = _Listener(self._watches)
        for _, adapter in storage.l2_adapters():
            adapter.register_listener(listener)

    @contextmanager
    def watched(self, keys: Collection[ObjectKey]) -> Iterator[Watch]:
        watch = Watch(keys)
        self._watches.append(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    def order(self, keys: list[ObjectKey]) -> None:
        """As if they had just been written to the host tier."""
        self._storage._store_controller._listener.on_l1_keys_write_finished(keys)

    def under_way(self) -> set[ObjectKey]:
        """Waiting for LMCache's store loop, or handed to an adapter by it."""
        controller = self._storage._store_controller
        tasks = controller._in_flight_tasks.copy().values()
        waiting = set(controller._listener._pending_keys)
        return waiting.union(*(task.keys for task in tasks))

    async def come(self, keys: Collection[ObjectKey], watch: Watch, until: float) -> None:
        """As far as they do."""
        for pause_s in self._looks(keys, until):
            if watch.came.issuperset(keys):
                return
            await watch.wait(pause_s)

    async def ended(self, keys: Collection[ObjectKey], until: float) -> None:
        """Also of those that are stored twice."""
        for pause_s in self._looks(keys, until):
            await asyncio.sleep(pause_s)

    def _looks(self, keys: Collection[ObjectKey], until: float) -> Iterator[float]:
        """Into LMCache's books: to look into the durable tier would slow down what is awaited.
        Between waiting and handed over a key is for a moment in neither book, so only several
        looks in a row are believed. Seconds until the next."""
        pause_s, still = _POLL_S, 0
        while (left_s := until - time.monotonic()) > 0:
            still = still + 1 if self.under_way().isdisjoint(keys) else 0
            if still == _STILL_LOOKS:
                return
            yield min(_POLL_S if still else pause_s, left_s)
            pause_s = min(pause_s * _SLOWER, _LONGEST_POLL_S)
