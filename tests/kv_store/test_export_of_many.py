"""An export of many chunks, with LMCache's books and a durable tier that are only as deep as it
looks into them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import ObjectKey

from kv_store.server_chunks import Chunks


class Books:
    """The host tier holds everything; the durable tier what it is given and nothing more, so what
    is ordered stays under way."""

    def __init__(self, keys: list[ObjectKey], durable: int) -> None:
        self.objects = dict.fromkeys(keys)
        self.durable = set(keys[:durable])
        self.pending: list[ObjectKey] = []
        self.asked: list[int] = []
        self._answers: dict[int, Bitmap] = {}

    def get_object_state(self, key: ObjectKey) -> Any:
        return SimpleNamespace(memory_obj=SimpleNamespace(get_size=lambda: 1))

    def on_l1_keys_write_finished(self, keys: list[ObjectKey]) -> None:
        self.pending += keys

    def submit_lookup_and_lock_task(self, keys: list[ObjectKey], layouts: object) -> int:
        self.asked.append(len(keys))
        found = self._answers[len(self.asked)] = Bitmap(len(keys))
        for index, key in enumerate(keys):
            if key in self.durable:
                found.set(index)
        return len(self.asked)

    def query_lookup_and_lock_result(self, task: int) -> Bitmap:
        return self._answers.pop(task)

    def submit_unlock(self, keys: list[ObjectKey]) -> None: ...

    def register_listener(self, listener: object) -> None: ...

    def chunks(self) -> Chunks:
        manager = SimpleNamespace(_objects=self.objects, get_object_state=self.get_object_state)
        listener = SimpleNamespace(
            _pending_keys=self.pending, on_l1_keys_write_finished=self.on_l1_keys_write_finished
        )
        storage = SimpleNamespace(
            _l1_manager=manager,
            _store_controller=SimpleNamespace(_in_flight_tasks={}, _listener=listener),
            l2_adapters=lambda: [(0, self)],
        )
        context: Any = SimpleNamespace(storage_manager=storage)
        return Chunks(context)


def keys(count: int) -> list[ObjectKey]:
    return [ObjectKey(number.to_bytes(32), "m", 1, 0, "s") for number in range(count)]


async def test_only_what_is_missing_is_asked_for_again() -> None:
    books = Books(keys(100), durable=90)

    done = await books.chunks().settle("m", 0.1)

    assert (done.already, done.written, done.failed, done.absent) == (90, 0, 10, 0)
    assert books.asked[0] == 100
    assert set(books.asked[1:]) == {10}
    assert len(books.pending) == 10, "ordered once"


@pytest.mark.timeout(10)
async def test_many_chunks_are_given_up_within_the_limit() -> None:
    """Looking through what was ordered once a chunk would take minutes."""
    books = Books(keys(60_000), durable=0)

    assert (await books.chunks().settle("m", 1.0)).failed == 60_000
