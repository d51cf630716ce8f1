"""The directory's keeper alone: what it counts, what it removes, what it leaves alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kv_store.directory_bound import DirectoryBound
from tests.workers.stand import eventually

LIMIT_BYTES = 100
Opened = Callable[..., DirectoryBound]


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[Opened]:
    bounds: list[DirectoryBound] = []

    def opening(**options: float) -> DirectoryBound:
        bounds.append(DirectoryBound(tmp_path, LIMIT_BYTES, **options))
        return bounds[-1]

    yield opening
    for bound in bounds:
        bound.close()


def fill(directory: Path, files: int) -> None:
    (directory / "folder").mkdir(exist_ok=True)
    for number in range(files):
        (directory / "folder" / f"{number}.kv").write_bytes(bytes(10))


def used_bytes(directory: Path) -> int:
    return 10 * len(list(directory.glob("folder/*.kv")))


async def test_what_is_not_lmcaches_is_left_alone(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, bounded: Opened
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "big"
    elsewhere.write_bytes(bytes(1000))
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "link").symlink_to(elsewhere.parent)
    (tmp_path / "lost+found" / "photo").write_bytes(bytes(1000))
    (tmp_path / "big").write_bytes(bytes(1000))
    bound = bounded()
    assert bound.report()["used_bytes"] == 0

    fill(tmp_path, 30)
    bound.grown(300)

    await eventually(lambda: 0 < used_bytes(tmp_path) <= LIMIT_BYTES)
    assert (tmp_path / "lost+found" / "photo").exists()
    assert (tmp_path / "big").exists()
    assert (tmp_path / "link").is_symlink()
    assert elsewhere.exists()


async def test_the_keeper_goes_on_after_trouble(
    tmp_path: Path, bounded: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    bound = bounded()
    away = tmp_path.with_name("away")
    os.rename(tmp_path, away)
    bound.grown(300)
    await eventually(lambda: "cannot be kept" in caplog.text)

    os.rename(away, tmp_path)
    fill(tmp_path, 30)
    bound.grown(300)

    await eventually(lambda: 0 < used_bytes(tmp_path) <= LIMIT_BYTES)


async def test_a_live_servers_draft_stays_and_a_dead_ones_goes(
    tmp_path: Path, bounded: Opened
) -> None:
    live, dead = tmp_path / "folder" / "live.tmp", tmp_path / "other" / "dead.tmp"
    for draft in (live, dead):
        draft.parent.mkdir()
        draft.write_bytes(bytes(10))
    two_hours_ago = time.time() - 7200
    os.utime(dead, (two_hours_ago, two_hours_ago))

    fill(tmp_path, 30)
    bounded()

    await eventually(lambda: not dead.exists() and used_bytes(tmp_path) <= LIMIT_BYTES)
    assert live.exists()
    assert not dead.parent.exists(), "nothing was left in it"


async def test_what_another_server_writes_is_noticed(tmp_path: Path, bounded: Opened) -> None:
    bound = bounded(recount_s=0.02)
    fill(tmp_path, 30)

    await eventually(lambda: 0 < used_bytes(tmp_path) <= LIMIT_BYTES)
    await eventually(lambda: 0 < bound.report()["used_bytes"] <= LIMIT_BYTES)
