"""Nodes of a real Ray cluster that come and go under a live driver."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import psutil
import pytest

from controller.api.app import ApiSettings, create_app
from controller.api.client_connection import ClientConnection
from controller.core.commands import Command
from controller.core.events import Event
from controller.core.fleet import Fleet
from controller.core.invariants import check
from controller.core.lifecycle import IN_FLIGHT, InvariantBroken, Phase, Place
from controller.core.names import (
    NO_AFFINITY,
    Affinity,
    Depth,
    DeviceId,
    FleetPolicy,
    Footprint,
    ModelName,
    ModelSpec,
    NodeId,
    ReplicaId,
)
from controller.drivers.control import LiveControl
from controller.drivers.leases import LiveLeases
from controller.drivers.live import LiveDriver
from controller.metrics import Metrics
from controller.ports import InvalidModel, Lease, NodeFound
from tests.api.engine import running
from tests.workers.stand import DECLARED, QUICK, places_in_ray
from tests.workers.stand import ask as answer
from workers.capacity import MemoryPolicy
from workers.engine import Endpoint, EngineSpec, KVExport, Report
from workers.ray_head import RayHead
from workers.ray_nodes import Node, RayNodes
from workers.ray_pool import RayPool

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

MIB = 1 << 20
PAIR = ModelName("pair")
RAY = "from ray.scripts import scripts; scripts.main()"


@dataclass
class Seen:
    """An observer that can be waited for, and checks the books after every event."""

    kinds: list[str] = field(default_factory=list)
    broken: list[InvariantBroken] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        try:
            check(fleet)
        except InvariantBroken as broken:
            self.broken.append(broken)
        self.kinds.append(type(event).__name__)
        self.news.set()

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None: ...

    def exported(self, model: str, export: KVExport) -> None: ...

    async def until(self, kind: str, times: int = 1) -> None:
        await self.until_it_holds(lambda: self.kinds.count(kind) >= times)

    async def until_it_holds(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)


@contextmanager
def another_node(
    head: RayHead, directory: Path, name: str = "second", *declaring: str
) -> Iterator[psutil.Process]:
    """Another node of the same cluster, on this machine; yields the process above its own."""
    start = [sys.executable, "-c", RAY, "start", "--block", f"--address={head.address}"]
    options = [f"--node-name={name}", "--num-cpus=1", f"--object-store-memory={80 * MIB}"]
    with directory.with_suffix(".log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "workers.keeper", str(directory), *start, *options, *declaring],
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


def model(
    name: str,
    least: int = 1,
    most: int | None = None,
    *,
    token_delay_s: float = 0.0,
    devices: int = 1,
) -> tuple[ModelSpec, EngineSpec]:
    spec = ModelSpec(
        ModelName(name),
        {Depth.AWAKE: Footprint(100 * MIB)},
        replicas=most or least,
        least_replicas=least,
        devices_per_replica=devices,
    )
    arguments = {
        "device_bytes": 100 * MIB,
        "kv_bytes": 40 * MIB,
        "token_delay_s": token_delay_s,
    }
    return spec, EngineSpec(name, "nowhere", kind="fake", engine_args=arguments)


def room_for_one(found: NodeFound) -> NodeFound:
    """On a device; the second node has four."""
    names = DECLARED if found.node == "second" else ("cpu",)
    return replace(found, devices=tuple((name, 150 * MIB) for name in names), host_bytes=0)


def room_for_three_on_others(found: NodeFound) -> NodeFound:
    """The first node is the smallest: it has room for one engine."""
    size = 350 * MIB if found.node in ("larger", "later") else 150 * MIB
    return replace(found, devices=(("cpu", size),), host_bytes=0)


def free_of(driver: LiveDriver, name: str) -> tuple[DeviceId, ...]:
    """The second node's devices that the model is not on."""
    [replica] = driver.fleet.models[ModelName(name)].replicas
    taken = replica.place.devices if replica.place else ()
    return tuple(DeviceId(device) for device in DECLARED if device not in taken)


def nodes_of(driver: LiveDriver, name: str) -> set[str]:
    places = [replica.place for replica in driver.fleet.models[ModelName(name)].replicas]
    return {place.node for place in places if place is not None}


def hosts_of(driver: LiveDriver, name: str) -> set[str]:
    replicas = driver.fleet.models[ModelName(name)].replicas
    return {driver.endpoints[replica.id].host for replica in replicas}


def awake(driver: LiveDriver, name: str) -> int:
    replicas = driver.fleet.models[ModelName(name)].replicas
    return sum(replica.phase is Phase.AWAKE for replica in replicas)


def assert_the_ledger_is_right(driver: LiveDriver, *nodes: str) -> None:
    """What is booked on each node is what the replicas that are there hold, and what orders in
    flight will take, within its budget."""
    ledger = driver.fleet.ledger
    assert set(ledger.budgets) == set(nodes)
    for node in ledger.budgets:
        here = [r for r in driver.fleet.replicas.values() if r.place and r.place.node == node]
        booked = ledger.booked(node).get(DeviceId("cpu"), 0)
        held = sum(replica.held.device_bytes for replica in here)
        assert held <= booked <= ledger.budgets[node][DeviceId("cpu")]
        assert held == booked or any(replica.phase in IN_FLIGHT for replica in here)


def test_an_engine_on_the_loopback_of_another_host_is_out_of_reach() -> None:
    nodes = RayNodes("torpor", MemoryPolicy())
    nodes._nodes = {"here": Node("here", "1", None), "there": Node("there", "2", None, "10.0.0.2")}
    loopback, address = (Endpoint(host, 1, "key") for host in ("127.0.0.1", "10.0.0.2"))
    assert nodes.reaches("here", loopback)
    assert nodes.reaches("there", address)
    assert not nodes.reaches("there", loopback)
    assert not nodes.reaches("gone", address)


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
    models = [model("first"), model("other"), model("wide", devices=3)]
    driver, seen = LiveDriver(Fleet(policy), pool, models, room_for_one), Seen()
    driver.observers.append(seen)
    leases = LiveLeases(driver)
    await driver.open()
    second = another_node(ray_head, short_dir / "second", "second", "--num-gpus=4")
    async with leases.acquire("first", request_id="1"):
        with second as node:
            await seen.until("NodeJoined", 2)
            async with (
                leases.acquire("other", request_id="2"),
                leases.acquire("wide", request_id="3"),
            ):
                assert node_of(driver, "other") == "second"
                [wide] = driver.fleet.models[ModelName("wide")].replicas
                assert wide.place == Place(NodeId("second"), free_of(driver, "other"))
                assert list(places_in_ray().values()) == [("GPU",) * 3]
                kill_raylet(node)
                await seen.until("NodeLost")
                assert driver.fleet.state(ModelName("other")) == "stopped"
                assert driver.fleet.state(ModelName("wide")) == "stopped"
                assert places_in_ray() == {}
                assert list(driver.fleet.ledger.budgets) == [node_of(driver, "first")]
    async with leases.acquire("other", request_id="4", max_wait_s=60):
        assert node_of(driver, "other") == next(iter(driver.fleet.ledger.budgets))
    await pool.stop_engines()
    await driver.close()
    assert seen.broken == []


async def is_spread_and_grows(driver: LiveDriver, leases: LiveLeases, seen: Seen) -> None:
    """From a replica on each node: by load, by conversation, and to a third where both are busy."""
    async with AsyncExitStack() as held:

        async def take(affinity: Affinity = NO_AFFINITY) -> Lease:
            request_id = f"pair {driver.fleet.running(PAIR)}"
            taking = leases.acquire(PAIR, request_id=request_id, affinity=affinity)
            return await held.enter_async_context(taking)

        one, other = await take(), await take()
        assert {one.endpoint.host, other.endpoint.host} == {"127.0.0.1", "127.0.0.2"}
        assert await answer(one.endpoint) == await answer(other.endpoint)
        assert (await take(Affinity(ReplicaId(other.replica)))).replica == other.replica
        assert awake(driver, PAIR) == 2
        assert (await take()).replica == one.replica
        await seen.until_it_holds(lambda: awake(driver, PAIR) == 3)
        assert (await take()).replica not in (one.replica, other.replica)


async def test_what_ran_on_a_lost_node_goes_on_on_the_others(
    ray_head: RayHead, short_dir: Path, tmp_path: Path
) -> None:
    """Engines on two nodes of different size; the larger one is killed, another one joins."""
    pool = RayPool(
        ray_head.address,
        state_dir=tmp_path,
        environment=ray_head.environment,
        limits=QUICK,
        look_s=0.2,
    )
    policy = FleetPolicy(prefetch_start=False, restart_backoff_s=0.1, busy_leases=2)
    models = [model("pair", 2, 3), model("slow", token_delay_s=0.05), model("other")]
    driver, seen = LiveDriver(Fleet(policy), pool, models, room_for_three_on_others), Seen()
    driver.observers.append(seen)
    control = LiveControl(driver, no_models)
    await driver.open()
    leases = LiveLeases(driver)
    app = create_app(ApiSettings(), leases, control, Metrics())
    [first] = driver.fleet.ledger.budgets
    async with (
        running(app, http=ClientConnection) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):

        async def ask(name: str, tokens: int = 1) -> int:
            body = {"model": name, "prompt": "one two", "max_tokens": tokens}
            return (await client.post("/v1/completions", json=body)).status_code

        elsewhere = "--node-ip-address=127.0.0.2"
        with another_node(ray_head, short_dir / "2", "larger", elsewhere) as node:
            await seen.until("NodeJoined", 2)
            assert await ask("pair") == 200
            await seen.until_it_holds(lambda: awake(driver, "pair") == 2)
            assert nodes_of(driver, "pair") == {first, "larger"}
            await is_spread_and_grows(driver, leases, seen)
            asked = [asyncio.create_task(ask("slow", 60)) for _ in range(3)]
            await seen.until_it_holds(lambda: driver.fleet.running(ModelName("slow")) == 3)
            assert nodes_of(driver, "slow") == {"larger"}
            assert hosts_of(driver, "slow") == {"127.0.0.2"}
            assert_the_ledger_is_right(driver, first, "larger")
            kill_raylet(node)
            await seen.until("NodeLost")
            assert_the_ledger_is_right(driver, first)
            assert await asyncio.gather(*asked) == [200] * 3
            assert nodes_of(driver, "slow") == {first}
            assert await ask("pair") == 200
            assert nodes_of(driver, "pair") == {first}
            assert_the_ledger_is_right(driver, first)
        with another_node(ray_head, short_dir / "3", "later"):
            await seen.until("NodeJoined", 3)
            assert await ask("other") == 200
            assert nodes_of(driver, "other") == {"later"}
            assert_the_ledger_is_right(driver, first, "later")
            await pool.stop_engines()
    await driver.close()
    assert seen.broken == []


def no_models(entry: dict[str, object]) -> tuple[ModelSpec, EngineSpec]:
    raise InvalidModel("none is added here")
