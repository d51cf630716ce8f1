"""A host tier that shrinks and grows: LMCache's books of addresses, a real segment, no server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lmcache.v1.memory_management import AddressManager

from kv_store.server_room import HostRoom, NotShared
from workers.host_memory import file_bytes

PAGE = 4096
CHUNK = 4 * PAGE
CHUNKS = 20
LIMIT_S = 60.0


class Tier:
    """Full of chunks, which are numbers, the one used longest ago first."""

    def __init__(self, name: str) -> None:
        self.books = AddressManager(CHUNKS * CHUNK)
        self.at = {number: self.books.allocate(CHUNK) for number in range(CHUNKS)}
        self.in_use: set[int] = set()
        self.handed_over: list[int] = []
        allocator = SimpleNamespace(pin_allocator=SimpleNamespace(address_manager=self.books))
        policy = SimpleNamespace(get_eviction_actions=self._oldest)
        storage = SimpleNamespace(
            _l1_manager=SimpleNamespace(
                get_object_state=self._state, _memory_manager=SimpleNamespace(_allocator=allocator)
            ),
            _eviction_controller=SimpleNamespace(_eviction_policy=policy),
            delete_l1_keys=self._delete,
        )
        context: Any = SimpleNamespace(storage_manager=storage, shm_pool_info={"shm_name": name})
        chunks: Any = SimpleNamespace(hand_over=self._hand_over)
        self.room = HostRoom(context, chunks)

    def _oldest(self, ratio: float) -> list[Any]:
        assert ratio == 1.0
        return [SimpleNamespace(keys=list(self.at))]

    def _state(self, key: int) -> Any:
        size = SimpleNamespace(get_physical_size=lambda: CHUNK)
        return SimpleNamespace(memory_obj=size) if key in self.at else None

    async def _hand_over(self, keys: list[int], limit_s: float) -> None:
        assert set(keys) <= self.at.keys(), "before they go"
        self.handed_over += keys

    def _delete(self, keys: list[int]) -> tuple[int, int]:
        going = [key for key in keys if key not in self.in_use]
        for key in going:
            self.books.free(*self.at.pop(key))
        return len(going), len(keys) - len(going)


@pytest.fixture
def segment() -> Iterator[Path]:
    path = Path("/dev/shm", f"lmcache_l1_pool_{uuid.uuid4().hex}")
    path.write_bytes(b"x" * CHUNKS * CHUNK)
    yield path
    path.unlink()


def untouched(segment: Path, start: int, size: int) -> bool:
    return segment.read_bytes()[start : start + size] == b"x" * size


async def test_the_oldest_are_exported_and_go_and_their_pages_are_the_systems(
    segment: Path,
) -> None:
    tier = Tier(segment.name)
    shrunk = await tier.room.resize(10 * CHUNK, LIMIT_S)
    assert (shrunk.bytes, shrunk.evicted) == (10 * CHUNK, 12)
    assert tier.handed_over == list(range(12)), "to where LMCache would go on evicting"
    assert file_bytes([segment]) == 10 * CHUNK
    assert all(untouched(segment, *place) for place in tier.at.values())
    assert tier.books.check_consistency()


async def test_nobody_is_given_what_was_withdrawn_until_it_is_put_back(segment: Path) -> None:
    tier = Tier(segment.name)
    await tier.room.resize(10 * CHUNK, LIMIT_S)
    more = [tier.books.allocate(CHUNK) for _ in range(2)]
    with pytest.raises(RuntimeError):
        tier.books.allocate(CHUNK)
    grown = await tier.room.resize(15 * CHUNK, LIMIT_S)
    assert (grown.bytes, grown.evicted) == (15 * CHUNK, 0)
    more += [tier.books.allocate(CHUNK) for _ in range(5)]
    await tier.room.resize(CHUNKS * CHUNK, LIMIT_S)
    more += [tier.books.allocate(CHUNK) for _ in range(5)]
    taken = sorted([*tier.at.values(), *more])
    assert taken == [(number * CHUNK, CHUNK) for number in range(CHUNKS)], "each once"
    assert tier.books.check_consistency()


async def test_what_is_in_use_stays_and_is_told(segment: Path) -> None:
    tier = Tier(segment.name)
    tier.in_use = set(range(15))
    shrunk = await tier.room.resize(10 * CHUNK, 0.1)
    assert shrunk.bytes == CHUNKS * CHUNK
    assert len(tier.at) == CHUNKS
    tier.in_use = set(range(2))
    shrunk = await tier.room.resize(10 * CHUNK, LIMIT_S)
    assert shrunk.bytes == 10 * CHUNK
    assert {0, 1} <= tier.at.keys()


async def test_a_tier_outside_shared_memory_cannot_shrink() -> None:
    with pytest.raises(NotShared):
        await Tier("").room.resize(CHUNK, LIMIT_S)
