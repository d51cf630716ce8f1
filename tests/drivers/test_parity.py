"""The live driver on a virtual loop orders what the simulator orders, command for command."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from controller.core.commands import (
    Command,
    FinishOperation,
    GrantLease,
    RejectRequest,
    SleepEngine,
)
from controller.core.events import (
    DemotionOrdered,
    Event,
    NodeJoined,
    NodeLost,
    PinOrdered,
    RequestCancelled,
    SwitchOrdered,
    WakeOrdered,
)
from controller.core.fleet import Fleet
from controller.core.names import (
    Depth,
    DeviceId,
    Instant,
    ModelName,
    ModelSpec,
    NodeId,
    OperationId,
    RequestId,
)
from controller.drivers.leases import LiveLeases
from controller.drivers.live import LiveDriver
from controller.drivers.world import NO_FAULTS, Faults, World
from controller.ports import NodeFound, Refused
from tests.core.fleets import GUESS, ladder, policy, simulator, spec
from tests.drivers.virtual_loop import run
from tests.drivers.world_pool import WorldPool
from workers.engine import EngineSpec, KVExport, Report

NAMES = ("a", "b", "c", "d", "e")
FAULTS = Faults(order_fails=0.08, answers_late=0.05, canary_disagrees=0.08, dies_later=0.1)
"""No answer comes twice: an order of a pool returns once."""
NODES = (
    NodeFound("n", (("0", 17), ("1", 17)), 24),
    NodeFound("m", (("0", 12), ("1", 12)), 8),
)
LOST_AT, BACK_AT, AGAIN_AT = 90.0, 180.0, 240.0
"""When a node goes, comes back, and goes for ever, where nodes move."""
END_S = 2000.0
POLICY: dict[str, Any] = {"busy_leases": 3, "maximum_wait_behind_s": 6.0}

Trace = list[tuple[float, list[Command]]]


@dataclass(frozen=True)
class Ask:
    at: float
    request: str
    model: str
    serve_s: float
    max_wait_s: float | None
    cancelled_at: float | None
    can_freeze: bool


@dataclass(frozen=True)
class Script:
    """What people do, whoever drives the fleet."""

    specs: tuple[ModelSpec, ...]
    asks: tuple[Ask, ...]
    orders: tuple[Event, ...]


def script(seed: int) -> Script:
    """Five models, of which two or so fit, and people who use them."""
    dice = Random(seed)
    short = ladder(10.0, 20.0, 60.0, 200.0)
    sizes = [dice.randint(5, 16) for _ in range(3)]
    specs = [
        spec(name, size, ladder=short, max_restarts=5, keeps_kv=name != "b")
        for name, size in zip(NAMES, sizes, strict=False)
    ]
    specs.append(spec("d", 8, devices_per_replica=2, deepest=Depth.LEVEL_2, max_restarts=5))
    specs.append(spec("e", 6, replicas=2, ladder=short, max_restarts=5))
    asks = tuple(_ask(dice, number) for number in range(40))
    return Script(tuple(specs), asks, tuple(_orders(dice)))


def _ask(dice: Random, number: int) -> Ask:
    at, serve_s = dice.uniform(1, 300), dice.uniform(0.1, 8.0)
    if is_long := dice.random() < 0.15:
        serve_s *= 10
    cancelled_at = at + dice.uniform(0, 9.0) if dice.random() < 0.15 else None
    limit_s = dice.choice([None, None, 60.0, 5.0])
    can_freeze = is_long or dice.random() < 0.8
    return Ask(at, f"r{number}", dice.choice(NAMES), serve_s, limit_s, cancelled_at, can_freeze)


def _orders(dice: Random) -> list[Event]:
    orders: list[Event] = []
    for number in range(6):
        at, order = Instant(dice.uniform(1, 300)), OperationId(f"o{number}")
        model, other = (ModelName(name) for name in dice.sample(NAMES, 2))
        choice: list[Event] = [
            WakeOrdered(at, order, model),
            DemotionOrdered(at, order, model, Depth.LEVEL_1),
            SwitchOrdered(at, order, model, other, Depth.LEVEL_2),
            PinOrdered(at, model, True),
        ]
        orders.append(dice.choice(choice))
        if isinstance(orders[-1], PinOrdered):
            orders.append(PinOrdered(Instant(at + 40.0), model, False))
    return orders


def simulated(told: Script, seed: int, faults: Faults, nodes_move: bool) -> Trace:
    joins = tuple(_joined(node) for node in NODES)
    sim = simulator(*told.specs, seed=seed, faults=faults, nodes=joins, **POLICY)
    for ask in told.asks:
        sim.request(
            ask.at,
            ask.request,
            ask.model,
            ask.serve_s,
            ask.max_wait_s,
            can_freeze=ask.can_freeze,
        )
        if ask.cancelled_at is not None:
            sim.schedule(RequestCancelled(Instant(ask.cancelled_at), RequestId(ask.request)))
    for order in told.orders:
        sim.schedule(order)
    if nodes_move:
        sim.schedule(NodeLost(Instant(LOST_AT), NodeId("n")))
        sim.schedule(replace(joins[0], at=Instant(BACK_AT)))
        sim.schedule(NodeLost(Instant(AGAIN_AT), NodeId("n")))
    sim.run(until=END_S)
    return [(event.at, commands) for event, commands in sim.journal]


def _joined(node: NodeFound) -> Event:
    devices = tuple((DeviceId(device), size) for device, size in node.devices)
    return NodeJoined(Instant(0.0), NodeId(node.node), devices, node.host_bytes)


@dataclass
class Recorder:
    trace: Trace = field(default_factory=list)

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        self.trace.append((event.at, list(commands)))

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None: ...

    def exported(self, model: str, export: KVExport) -> None: ...


async def lived(told: Script, seed: int, faults: Faults, nodes_move: bool) -> Trace:
    world = World({one.name: one.footprints for one in told.specs}, GUESS, faults, seed)
    pool = WorldPool(world, NODES)
    models = [(one, EngineSpec(one.name, "nowhere", kind="fake")) for one in told.specs]
    driver = LiveDriver(Fleet(policy(**POLICY)), pool, models)
    recorder = Recorder()
    driver.observers.append(recorder)
    leases = LiveLeases(driver)
    loop = asyncio.get_running_loop()
    await driver.open()
    for order in told.orders:
        loop.call_at(order.at, driver.feed, order)
    if nodes_move:
        loop.call_at(LOST_AT, pool.lose, "n")
        loop.call_at(BACK_AT, pool.join, NODES[0])
        loop.call_at(AGAIN_AT, pool.lose, "n")
    async with asyncio.TaskGroup() as clients:
        for ask in told.asks:
            client = clients.create_task(_client(ask, leases, pool))
            if ask.cancelled_at is not None:
                loop.call_at(ask.cancelled_at, client.cancel)
        clients.create_task(asyncio.sleep(END_S))
    await driver.close()
    return recorder.trace


async def _client(ask: Ask, leases: LiveLeases, pool: WorldPool) -> None:
    """Asks, and once again if the engine dies under it."""
    loop = asyncio.get_running_loop()
    arrives: asyncio.Future[None] = loop.create_future()
    loop.call_at(ask.at, arrives.set_result, None)
    await arrives
    name = RequestId(ask.request)
    try:
        for _ in range(2):
            async with leases.acquire(
                ask.model,
                request_id=name,
                max_wait_s=ask.max_wait_s,
                can_freeze=ask.can_freeze,
            ) as lease:
                if await pool.serve(name, lease.replica, ask.serve_s):
                    return
    except Refused:
        return


def comparable(trace: Trace) -> list[tuple[float, list[Command]]]:
    """Without events that led to nothing, and as a microsecond sees it."""
    return [(round(at, 6), [_plain(c) for c in commands]) for at, commands in trace if commands]


def _plain(command: Command) -> Command:
    """The live driver numbers requests and names the class of an error."""
    match command:
        case GrantLease(request=request, queued_s=queued_s, wake_s=wake_s):
            name = RequestId(request.rpartition(":")[2])
            return replace(
                command, request=name, queued_s=round(queued_s, 6), wake_s=round(wake_s, 6)
            )
        case RejectRequest(request=request, detail=detail, retry_after_s=retry_s):
            return replace(
                command,
                request=RequestId(request.rpartition(":")[2]),
                detail=_unclassed(detail),
                retry_after_s=None if retry_s is None else round(retry_s, 6),
            )
        case FinishOperation(error=error):
            return replace(command, error=_unclassed(error))
        case _:
            return command


def _unclassed(reason: str) -> str:
    return reason.replace("EngineError: ", "")


@pytest.mark.parametrize("nodes_move", [False, True], ids=["here", "moving"])
@pytest.mark.parametrize("faults", [NO_FAULTS, FAULTS], ids=["whole", "faulty"])
@pytest.mark.parametrize("seed", range(12))
def test_the_same_commands_at_the_same_times(seed: int, faults: Faults, nodes_move: bool) -> None:
    told = script(seed)
    expected = comparable(simulated(told, seed, faults, nodes_move))
    assert comparable(run(lived(told, seed, faults, nodes_move))) == expected
    assert sum(len(commands) for _, commands in expected) > 60


def test_some_of_these_are_frozen() -> None:
    traces = [simulated(script(seed), seed, FAULTS, nodes_move=True) for seed in range(12)]
    orders = [command for trace in traces for _, commands in trace for command in commands]
    kept = [order for order in orders if isinstance(order, SleepEngine) and order.keep]
    assert len(kept) > 10
