"""What only real processes can do: be killed, leave things behind, outlive their driver."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kv_store.settings import MIB, TierSettings
from tests.workers.stand import (
    DECLARED,
    QUICK,
    Stand,
    eventually,
    is_there,
    places_in_ray,
    processes_in,
)
from workers import processes
from workers.engine import EngineGone, Rest, Started
from workers.ray_head import RayHead
from workers.ray_pool import RayPool

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


def segments() -> set[str]:
    """Of fake engines."""
    return {name for name in os.listdir("/dev/shm") if "torch" in name}


@pytest.fixture
def no_segment_stays() -> Iterator[None]:
    before = segments()
    yield
    assert not segments() - before


def alive(*pids: int) -> list[int]:
    """Those that run; a zombie has no environment any more."""
    return [pid for pid in pids if processes.mark_of(pid)]


def engines(stand: Stand) -> dict[str, list[int]]:
    return processes.marks(stand.pool._nodes.mark("", 0)[: -len("/0")])


async def pids_of(stand: Stand, children: int = 0) -> list[int]:
    """The processes of the one engine that runs, its actor's first."""
    await eventually(lambda: [p for p in engines(stand).values() if len(p) > children])
    [pids] = engines(stand).values()
    return sorted(pids)


@pytest.mark.usefixtures("no_segment_stays")
@pytest.mark.parametrize("process", [0, 1, 2])
async def test_whichever_process_is_killed_all_are_gone(on_ray: Stand, process: int) -> None:
    started: Started = await on_ray.start(children=2, shm_bytes=100)
    assert alive(*started.pids) == list(started.pids)
    on_ray.kill(process=process)
    assert (await on_ray.next_death()).incarnation == 1
    await on_ray.pool.stop("m#0", 1)
    assert alive(*started.pids) == []


@pytest.mark.parametrize("order", ["start", "sleep", "wake"])
async def test_a_kill_ends_the_order_under_way(on_ray: Stand, order: str) -> None:
    async def a_life() -> None:
        await on_ray.start(children=1, faults={order: ["hang"]})
        await on_ray.pool.sleep("m#0", Rest.LEVEL_1)
        await on_ray.pool.wake("m#0")

    living = asyncio.create_task(a_life())
    pids = await pids_of(on_ray, children=1)
    if order != "start":
        await eventually(lambda: "m#0" in on_ray.started)
    os.kill(pids[-1 if order == "wake" else 0], signal.SIGKILL)
    with pytest.raises(EngineGone):
        await asyncio.wait_for(living, 60)
    await on_ray.pool.stop("m#0", 1)
    assert alive(*pids) == []


async def test_a_stop_calls_a_start_off(on_ray: Stand) -> None:
    starting = asyncio.create_task(on_ray.start(start_s=600.0, children=1))
    pids = await pids_of(on_ray, children=1)
    await on_ray.pool.stop("m#0", 1)
    with pytest.raises(EngineGone):
        await starting
    assert alive(*pids) == []


@pytest.mark.usefixtures("no_segment_stays")
async def test_what_a_start_shared_goes_with_it(on_ray: Stand) -> None:
    """Ray, which would kill it with its children, comes after whoever looks what they share."""
    faults = {"start": ["hang"], "stop": ["hang"]}
    before = segments()
    starting = asyncio.create_task(on_ray.start(children=1, shm_bytes=100, faults=faults))
    await eventually(lambda: segments() - before)
    await on_ray.pool.stop("m#0", 1)
    with pytest.raises(EngineGone):
        await starting


async def test_one_that_is_frozen_does_not_answer_and_can_be_killed(on_ray: Stand) -> None:
    started = await on_ray.start(children=1)
    os.kill(started.pids[0], signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(on_ray.pool.progress("m#0"), 0.5)
    await on_ray.pool.kill("m#0", 1)
    assert (await on_ray.next_death()).incarnation == 1
    await on_ray.pool.stop("m#0", 1)
    assert alive(*started.pids) == []


async def test_the_nodes_tell_what_their_memory_is_used_for(on_ray: Stand) -> None:
    await on_ray.start()
    [memory] = await on_ray.pool._nodes.memory(10.0)
    assert memory.node == on_ray.node
    held = [part.own_bytes for part in memory.devices if part.own_bytes is not None]
    assert all(0 < own < part.total_bytes for own, part in zip(held, memory.devices, strict=True))


async def test_a_killed_agent_is_replaced_and_watches_on(on_ray: Stand) -> None:
    await on_ray.start()
    [node] = on_ray.pool._nodes._nodes.values()
    before = node.agent
    os.kill(await before.ping.remote(), signal.SIGKILL)
    await eventually(lambda: node.agent is not before)
    on_ray.kill()
    assert (await on_ray.next_death()).replica == "m#0"


async def test_a_node_where_no_kv_can_be_kept_serves_and_is_watched(
    ray_head: RayHead, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = TierSettings("of-the-pool", MIB, None, host="an address that is none")
    pool = RayPool(
        ray_head.address,
        state_dir=tmp_path,
        environment=ray_head.environment,
        limits=QUICK,
        kv=nowhere,
    )
    await pool.open()
    [found] = await pool.nodes()
    stand = Stand(pool, "ray", found.node)
    await stand.start(children=1)
    [node] = pool._nodes._nodes.values()
    before = node.agent
    os.kill(await before.ping.remote(), signal.SIGKILL)
    await eventually(lambda: caplog.text.count("keeps no KV") == 2)
    assert node.agent is not before

    stand.kill(process=1)

    assert (await stand.next_death()).replica == "m#0"
    await pool.stop_engines()
    await pool.close()


@asynccontextmanager
async def lone_driver(
    head: RayHead, state_dir: Path, devices: tuple[str, ...] = ("cpu",), **args: Any
) -> AsyncIterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """The driver, which has started an engine, and that engine's pids."""
    arguments = [head.address, str(state_dir), json.dumps(args), *devices]
    driver = script("lone_driver.py", *arguments, **head.environment)
    try:
        assert driver.stdout is not None
        yield driver, json.loads(await asyncio.to_thread(driver.stdout.readline))
    finally:
        driver.kill()
        driver.communicate()


async def test_an_engine_survives_its_killed_driver_in_its_place(
    on_ray: Stand, ray_head: RayHead, tmp_path: Path
) -> None:
    pair = DECLARED[1:3]
    async with lone_driver(ray_head, tmp_path, pair, children=1) as (driver, pids):
        driver.kill()
        driver.wait()
        [seen] = await on_ray.pool.discover()
        assert (seen.replica, seen.incarnation, seen.rest) == ("m#0", 5, None)
        assert seen.devices == pair
        assert places_in_ray() == {"engine:m#0:5": pair}
        await on_ray.pool.sleep("m#0", Rest.LEVEL_1)
        os.kill(pids[1], signal.SIGKILL)
        assert (await on_ray.next_death()).incarnation == 5


async def test_what_died_between_two_drivers_is_buried(
    on_ray: Stand, ray_head: RayHead, tmp_path: Path
) -> None:
    async with lone_driver(ray_head, tmp_path, children=1) as (driver, pids):
        driver.kill()
        driver.wait()
        os.kill(pids[0], signal.SIGKILL)
        assert await on_ray.pool.discover() == []
        assert alive(*pids) == []


async def test_an_engine_that_was_starting_is_not_adopted(on_ray: Stand) -> None:
    starting = asyncio.create_task(on_ray.start(start_s=600.0))
    pids = await pids_of(on_ray)
    starting.cancel()
    assert await on_ray.pool.discover() == []
    assert alive(*pids) == []


async def test_its_log_lies_with_the_fleet_and_knows_no_key(on_ray: Stand, tmp_path: Path) -> None:
    started = await on_ray.start()
    logs = list_files(tmp_path / "logs")
    assert [name.startswith("m_0") for name in logs] == [True]
    assert started.endpoint.key not in logs.popitem()[1]


def script(name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name(name), *arguments],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def list_files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.mark.parametrize("is_killed", [False, True])
async def test_nothing_outlives_a_head(short_dir: Path, is_killed: bool) -> None:
    directory = short_dir / f"h{is_killed:d}"
    owner = script("lone_head.py", str(directory))
    assert owner.stdout is not None
    assert b":" in await asyncio.to_thread(owner.stdout.readline)
    assert processes_in(directory)
    if is_killed:
        owner.kill()
    await asyncio.to_thread(owner.communicate)
    await eventually(lambda: not processes_in(directory))
    assert not is_there(directory)
