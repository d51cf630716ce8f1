"""The Pool port over a simulated world: the engines of the simulator, for the live driver.

A World says at once what will come of an order and when; here the order waits until then on the
loop's clock, and returns or raises. It needs a virtual loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from controller.core.commands import (
    ExportKV,
    ResizeTier,
    SleepEngine,
    StartEngine,
    StopEngine,
    WakeEngine,
)
from controller.core.events import (
    CanaryDisagreed,
    EngineFailed,
    EngineFellAsleep,
    EngineLost,
    EngineStarted,
    EngineStopped,
    EngineWoke,
    Event,
    KVExported,
    KVExportFailed,
    RanOutOfMemory,
    TierNotResized,
    TierResized,
)
from controller.core.names import (
    Cause,
    Depth,
    DeviceId,
    Instant,
    ModelName,
    NodeId,
    OpId,
    ReplicaId,
    RequestId,
)
from controller.drivers.live import DEPTH_OF
from controller.drivers.world import Order, World
from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from workers.engine import (
    CanaryMismatch,
    Endpoint,
    EngineError,
    EngineSpec,
    KVExport,
    Memory,
    OutOfMemory,
    Progress,
    Report,
    Rest,
    Started,
)
from workers.pool_values import EngineDied, EngineSeen, NodeFound, NodeMemory

NOBODY = Endpoint("127.0.0.1", 1, "key")
UNNUMBERED = OpId(-1)
"""A pool is not told the op of an order; the answer is its return."""


class _Served:
    """One response: so long it takes, but for when its engine is frozen."""

    def __init__(self, serve_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.is_whole: asyncio.Future[bool] = self._loop.create_future()
        self._missing_s = serve_s
        self._timer: asyncio.TimerHandle | None = None
        self.go_on()

    def go_on(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._missing_s, self.ends, True)

    def freeze(self) -> None:
        if self._timer is not None:
            self._missing_s = self._timer.when() - self._loop.time()
            self._timer.cancel()
            self._timer = None

    def ends(self, is_whole: bool) -> None:
        if not self.is_whole.done():
            self.is_whole.set_result(is_whole)


class WorldPool:
    def __init__(
        self, world: World, nodes: Sequence[NodeFound], running: Sequence[EngineSeen] = ()
    ) -> None:
        """``running``: what ``discover`` finds; the world knows of it already."""
        self.world = world
        self.orders: list[tuple[str, str]] = []
        """(order, replica), as they came."""
        self.mishaps: dict[str, list[BaseException | None]] = {}
        """By order (start, sleep, wake, stop): what it raises, one after another; None: nothing."""
        self.cut: list[BaseException] = []
        """What telling of deaths and of nodes ends with, one after another, at the next news."""
        self.measured: asyncio.Queue[list[NodeMemory]] = asyncio.Queue()
        """What is put in is what the memory of its nodes is said to be."""
        self.stalled: dict[str, str] = {}
        """By replica: ``still`` takes no step, ``silent`` does not even answer."""
        self._steps = 0
        self._nodes = list(nodes)
        self._moved: asyncio.Queue[None] = asyncio.Queue()
        self._broken: list[RequestId] = []
        self._running = list(running)
        self._deaths: asyncio.Queue[EngineDied] = asyncio.Queue()
        self._served: dict[RequestId, _Served] = {}

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def nodes(self) -> list[NodeFound]:
        return self._nodes

    async def watch_nodes(self) -> AsyncIterator[list[NodeFound]]:
        """Whoever hears of a loss has dealt with it before the requests there break off."""
        while True:
            yield list(self._nodes)
            broken, self._broken = self._broken, []
            self._break_off(broken)
            await self._moved.get()
            self._cut_off()

    def join(self, node: NodeFound) -> None:
        self._nodes.append(node)
        self._moved.put_nowait(None)

    def lose(self, name: str) -> None:
        """A node goes with all that runs on it."""
        self._nodes = [node for node in self._nodes if node.node != name]
        self._broken += self.world.lose_node(NodeId(name))
        self._moved.put_nowait(None)

    def _break_off(self, requests: Sequence[RequestId]) -> None:
        for request in requests:
            self._served[request].ends(False)

    def _cut_off(self) -> None:
        if self.cut:
            raise self.cut.pop(0)

    async def watch_memory(self) -> AsyncIterator[list[NodeMemory]]:
        while True:
            yield await self.measured.get()

    async def discover(self) -> list[EngineSeen]:
        return self._running

    async def start(
        self, replica: str, incarnation: int, spec: EngineSpec, node: str, devices: tuple[str, ...]
    ) -> Started:
        device_ids = tuple(DeviceId(device) for device in devices)
        model, name = ModelName(spec.model), ReplicaId(replica)
        order = StartEngine(OpId(incarnation), name, model, NodeId(node), device_ids)
        memory = await self._carried_out(order)
        return Started(memory, {"load": 1.0}, endpoint=NOBODY, max_model_len=64, pids=(1,))

    async def sleep(self, replica: str, rest: Rest, keep: bool = False) -> Report:
        order = SleepEngine(UNNUMBERED, ReplicaId(replica), DEPTH_OF[rest], keep=keep)
        if keep:
            for request in self.world.engines[ReplicaId(replica)].requests:
                self._served[request].freeze()
        return Report(await self._carried_out(order), {rest.value: 1.0})

    async def export(self, replica: str) -> KVExport:
        await self._carried_out(ExportKV(UNNUMBERED, ReplicaId(replica)))
        return KVExport(1, 1, 0, 1, 1.0)

    async def kv(self, node: str, order: KVOrder, prefix: Prefix, limit_s: float) -> Placed:
        raise EngineError("these engines keep no KV")

    async def resize_kv(self, node: str, to_bytes: int, limit_s: float) -> int:
        self.orders.append(("resize", node))
        order = ResizeTier(UNNUMBERED, NodeId(node), to_bytes)
        foreseen = self.world.resize(order, _now())
        if not foreseen:
            await asyncio.get_running_loop().create_future()
        answer = foreseen[0]
        await _until(answer.at)
        if isinstance(answer, TierNotResized):
            raise EngineError(answer.reason)
        assert isinstance(answer, TierResized)
        return answer.held_bytes

    async def wake(self, replica: str) -> Report:
        depth = self.world.engines[ReplicaId(replica)].depth or Depth.AWAKE
        order = WakeEngine(UNNUMBERED, ReplicaId(replica), depth)
        memory = await self._carried_out(order)
        for request in self.world.engines[ReplicaId(replica)].requests:
            self._served[request].go_on()
        return Report(memory, {"weights": 1.0})

    async def progress(self, replica: str) -> Progress:
        """A step since it was asked last; none, and no answer either, as ``stalled`` says."""
        match self.stalled.get(replica):
            case "silent":
                await asyncio.get_running_loop().create_future()
            case "still":
                return Progress(0, 1, 2.0)
        self._steps += 1
        return Progress(self._steps, 1, 2.0)

    async def kill(self, replica: str, incarnation: int) -> None:
        self.orders.append(("kill", replica))

    async def stop(self, replica: str, incarnation: int) -> None:
        """Whoever ordered it has heard of its end before the requests there break off."""
        name, order = ReplicaId(replica), OpId(incarnation)
        await self._carried_out(StopEngine(order, name, order, Cause.FAILED))
        broken = self.world.came_true(EngineStopped(_now(), order, name))
        asyncio.get_running_loop().call_soon(self._break_off, broken)

    async def deaths(self) -> AsyncIterator[EngineDied]:
        """Whoever hears of a death has dealt with it before the requests on it break off."""
        while True:
            died = await self._deaths.get()
            self._cut_off()
            lost = EngineLost(_now(), ReplicaId(died.replica), OpId(died.incarnation), died.reason)
            broken = self.world.came_true(lost)
            yield died
            self._break_off(broken)

    async def serve(self, request: RequestId, replica: str, serve_s: float) -> bool:
        """Answer a request for so long; whether it came to its end."""
        self.world.serve(request, ReplicaId(replica))
        served = self._served[request] = _Served(serve_s)
        try:
            return await served.is_whole
        finally:
            served.freeze()
            self.world.end(request, ReplicaId(replica))

    async def _carried_out(self, order: Order) -> Memory:
        kind = type(order).__name__.removesuffix("Engine").removesuffix("KV").lower()
        self.orders.append((kind, order.replica))
        await self._mishap(kind, order.replica)
        foreseen = self.world.carry_out(order, _now())
        if not foreseen:
            await asyncio.get_running_loop().create_future()
        answer, *deaths = foreseen
        for death in deaths:
            assert isinstance(death, EngineLost), "a pool answers once"
            news = EngineDied(death.replica, death.incarnation, death.reason)
            asyncio.get_running_loop().call_at(death.at, self._deaths.put_nowait, news)
        await _until(answer.at)
        return _told(answer)

    def die(self, replica: str) -> None:
        """An engine dies by itself."""
        engine = self.world.engines[ReplicaId(replica)]
        self._deaths.put_nowait(EngineDied(replica, engine.incarnation, "killed"))

    async def _mishap(self, kind: str, replica: ReplicaId) -> None:
        todo = self.mishaps.get(kind)
        mishap = todo.pop(0) if todo else None
        if mishap is None:
            return
        await _until(Instant(_now() + 0.5))
        if engine := self.world.engines.get(replica):
            engine.is_broken = True
        raise mishap


def _told(answer: Event) -> Memory:
    match answer:
        case EngineStarted(held=held) | EngineFellAsleep(held=held) | EngineWoke(held=held):
            return Memory(held.device_bytes, held.host_bytes)
        case EngineStopped() | KVExported():
            return Memory(0, 0)
        case KVExportFailed(reason=reason):
            raise EngineError(reason)
        case CanaryDisagreed(reason=reason):
            raise CanaryMismatch(reason)
        case RanOutOfMemory(reason=reason):
            raise OutOfMemory(reason)
        case EngineFailed(reason=reason):
            raise EngineError(reason)
        case _:
            raise AssertionError(f"no answer to an order: {answer}")


async def _until(at: Instant) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = loop.call_at(at, over.set_result, None)
    try:
        await over
    finally:
        timer.cancel()


def _now() -> Instant:
    return Instant(asyncio.get_running_loop().time())
