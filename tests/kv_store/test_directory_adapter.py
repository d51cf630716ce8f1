"""What is particular to a directory: files that are cut short, its bound, who goes first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kv_store.directory_adapter import DirectoryAdapter, DirectoryConfig
from kv_store.forms import Form
from kv_store.packing import Lossless
from kv_store.seals import DigestSeal
from tests.kv_store.adapters import CHUNKS, KEYS, loaded, looked, stored
from tests.workers.stand import eventually

FILE_BYTES = 1000 + DigestSeal.head_bytes
Opened = Callable[..., DirectoryAdapter]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    adapters: list[DirectoryAdapter] = []

    def opening(limit_bytes: int | None = None) -> DirectoryAdapter:
        config = DirectoryConfig(tmp_path / "kv", limit_bytes)
        adapters.append(DirectoryAdapter(config, Form(DigestSeal(), Lossless(compresses=False))))
        return adapters[-1]

    yield opening
    for adapter in adapters:
        adapter.close()


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("kv/*/*.kv"))


@pytest.mark.parametrize("left_bytes", [0, 10, 500, FILE_BYTES - 1])
async def test_a_file_cut_short_is_a_miss_and_goes(
    tmp_path: Path, opened: Opened, left_bytes: int
) -> None:
    adapter = opened()
    await stored(adapter, KEYS[:2], CHUNKS[:2])
    os.truncate(files(tmp_path)[0], left_bytes)

    assert await loaded(adapter, KEYS[:2]) == {1: CHUNKS[1]}
    assert await looked(adapter, KEYS[:2]) == [1]


async def test_a_file_cut_short_is_written_again(tmp_path: Path, opened: Opened) -> None:
    adapter = opened()
    await stored(adapter, KEYS[:1], CHUNKS[:1])
    os.truncate(files(tmp_path)[0], 10)

    assert await stored(adapter, KEYS[:1], CHUNKS[:1])
    assert await loaded(adapter, KEYS[:1]) == {0: CHUNKS[0]}


async def test_the_longest_unused_goes_first_also_after_a_restart(
    tmp_path: Path, opened: Opened
) -> None:
    before = opened()
    await stored(before, KEYS[:10], CHUNKS[:10])
    for age, file in enumerate(reversed(files(tmp_path))):
        os.utime(file, (1000 - age, 1000 - age))
    await loaded(before, KEYS[:1])

    after = opened(limit_bytes=5 * FILE_BYTES)

    await eventually(lambda: after.report_status()["used_bytes"] == 4 * FILE_BYTES)
    assert await looked(after, KEYS[:10]) == [0, 7, 8, 9]


async def test_it_stays_within_its_bound(tmp_path: Path, opened: Opened) -> None:
    adapter = opened(limit_bytes=5 * FILE_BYTES)

    assert await stored(adapter, KEYS, CHUNKS)

    await eventually(lambda: len(files(tmp_path)) <= 5)
    adapter.delete(KEYS)
    assert list((tmp_path / "kv").iterdir()) == [], "nor is an empty folder left"


async def test_a_directory_that_goes_comes_back(tmp_path: Path, opened: Opened) -> None:
    adapter = opened()
    await stored(adapter, KEYS[:1], CHUNKS[:1])
    os.rename(tmp_path / "kv", tmp_path / "away")

    assert await loaded(adapter, KEYS[:1]) == {}
    assert await stored(adapter, KEYS[:1], CHUNKS[:1])
    assert await loaded(adapter, KEYS[:1]) == {0: CHUNKS[0]}


async def test_what_cannot_be_read_is_a_miss_and_stays(tmp_path: Path, opened: Opened) -> None:
    adapter = opened()
    await stored(adapter, KEYS[:2], CHUNKS[:2])
    there = files(tmp_path)[0]
    there.unlink()
    there.mkdir()

    assert await loaded(adapter, KEYS[:2]) == {1: CHUNKS[1]}
    assert there.is_dir()
    assert not await stored(adapter, KEYS[:1], CHUNKS[:1])


async def test_nobody_else_reads_it(tmp_path: Path, opened: Opened) -> None:
    await stored(opened(), KEYS[:1], CHUNKS[:1])

    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
