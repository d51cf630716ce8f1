"""Nodes of a real Ray cluster that come and go under a live driver."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from controller.core.commands import Command
from controller.core.events import Event
from controller.core.fleet import Fleet
from controller.core.names import Depth, FleetPolicy, Footprint, ModelName, ModelSpec
from controller.drivers.leases import LiveLeases
from controller.drivers.live import LiveDriver
from controller.ports import NodeFound
from tests.workers.stand import QUICK
from workers.engine import EngineSpec, KVExport, Report
from workers.ray_head import RayHead
from workers.ray_pool import RayPool

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

MIB = 1 << 20
RAY = "from ray.scripts import scripts; scripts.main()"


@dataclass
class Seen:
    """An observer that can be waited for."""

    kinds: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        self.kinds.append(type(event).__name__)
        self.news.set()

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None: ...

    def exported(self, model: str, export: KVExport) -> None: ...

    async def until(self, kind: str, times: int = 1) -> None:
        while self.kinds.count(kind) < times:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)


@contextmanager
def another_node(head: RayHead, directory: Path) -> Iterator[psutil.Process]:
    """A second node of the same cluster, on this machine; yields the process above its own."""
    start = [sys.executable, "-c", RAY, "start", "--block", f"--address={head.address}"]
    options = ["--node-name=second", "--num-cpus=1", f"--object-store-memory={80 * MIB}"]
    with directory.with_suffix(".log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "workers.keeper", str(directory), *start, *options],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**head._head_environment(), "TMPDIR": str(directory.parent)},
        )
        try:
            yield psutil.Process(keeper.pid)
        finally:
            keeper.communicate(timeout=30)


def kill_raylet(node: psutil.Process) -> None:
    (raylet,) = [p for p in node.children(recursive=True) if p.name() == "raylet"]
    raylet.kill()


def node_of(driver: LiveDriver, name: str) -> str | None:
    place = driver.fleet.models[ModelName(name)].replicas[0].place
    return place.node if place else None


def model(name: str) -> tuple[ModelSpec, EngineSpec]:
    awake = Footprint(100 * MIB)
    spec = ModelSpec(ModelName(name), {Depth.AWAKE: awake}, pinned=name == "pinned")
    arguments = {"device_bytes": 100 * MIB, "kv_bytes": 40 * MIB}
    return spec, EngineSpec(name, "nowhere", kind="fake", engine_args=arguments)


def room_for_one(found: NodeFound) -> NodeFound:
    return replace(found, devices=(("cpu", 150 * MIB),), host_bytes=0)


async def test_a_node_joins_serves_and_is_lost(
    ray_head: RayHead, short_dir: Path, tmp_path: Path
) -> None:
    pool = RayPool(
        ray_head.address,
        state_dir=tmp_path,
        environment=ray_head.environment,
        limits=QUICK,
        look_s=0.2,
    )
    policy = FleetPolicy(prefetch_start=False)
    models = [model("first"), model("other")]
    driver, seen = LiveDriver(Fleet(policy), pool, models, room_for_one), Seen()
    driver.observers.append(seen)
    leases = LiveLeases(driver)
    await driver.open()
    second = another_node(ray_head, short_dir / "second")
    async with leases.acquire("first", request_id="1"):
        with second as node:
            await seen.until("NodeJoined", 2)
            async with leases.acquire("other", request_id="2"):
                assert node_of(driver, "other") == "second"
                kill_raylet(node)
                await seen.until("NodeLost")
                assert driver.fleet.state(ModelName("other")) == "stopped"
                assert list(driver.fleet.ledger.budgets) == [node_of(driver, "first")]
    async with leases.acquire("other", request_id="3", max_wait_s=60):
        assert node_of(driver, "other") == next(iter(driver.fleet.ledger.budgets))
    await pool.stop_engines()
    await driver.close()
