"""Pools to test: one in this process, one on a Ray of the session's own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.workers.stand import DECLARED, QUICK, Stand, processes_in
from workers.local_pool import LocalPool
from workers.ray_head import RayHead


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """Ray's sockets lie below it: pytest's own directories are too long for them."""
    directory = Path(tempfile.mkdtemp(prefix="tp-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def ray_head(short_dir: Path) -> Iterator[RayHead]:
    head = RayHead(short_dir / "ray", num_cpus=2, devices=DECLARED)
    head.start()
    yield head
    head.stop()
    assert not (short_dir / "ray").exists()
    assert processes_in(short_dir / "ray") == []


@pytest.fixture
async def on_ray(ray_head: RayHead, tmp_path: Path) -> AsyncIterator[Stand]:
    from workers.ray_pool import RayPool

    environment = ray_head.environment
    pool = RayPool(ray_head.address, state_dir=tmp_path, environment=environment, limits=QUICK)
    await pool.open()
    [node] = await pool.nodes()
    yield Stand(pool, "ray", node.node)
    await pool.stop_engines()
    await pool.close()


@pytest.fixture
async def in_process() -> AsyncIterator[Stand]:
    pool = LocalPool(limits=QUICK)
    await pool.open()
    yield Stand(pool, "local", "local")
    await pool.shut_down()
    await pool.close()


@pytest.fixture(params=["in_process", pytest.param("on_ray", marks=pytest.mark.ray)])
def stand(request: pytest.FixtureRequest) -> Stand:
    chosen: Stand = request.getfixturevalue(request.param)
    return chosen
