"""The live driver: turns what happens into events, and the core's commands into deeds.

One task's worth of state, no locks: ``feed`` is synchronous, so an event and all that follows
from it inside the core are one step. Every order runs in a task of its own that ends by feeding
exactly one event; what a port raised becomes an event here and nowhere else. The clock is the
event loop's, so that the same driver runs on a virtual loop in tests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from controller.core.commands import (
    Command,
    ExportKV,
    FinishOperation,
    GrantLease,
    RejectRequest,
    ResizeTier,
    SleepEngine,
    StartEngine,
    StopEngine,
    WakeEngine,
)
from controller.core.events import (
    CanaryDisagreed,
    CostsFound,
    EngineFailed,
    EngineFellAsleep,
    EngineFound,
    EngineHung,
    EngineLost,
    EngineStarted,
    EngineStopped,
    EngineWoke,
    Event,
    KVExported,
    KVExportFailed,
    ModelAdded,
    ModelChanged,
    NodeJoined,
    NodeLost,
    RanOutOfMemory,
    TierNotResized,
    TierResized,
    TimePassed,
)
from controller.core.fleet import Fleet
from controller.core.hanging import HangTimes
from controller.core.lifecycle import InvariantBroken
from controller.core.names import (
    NEVER,
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    ModelSpec,
    NodeId,
    OpId,
    RejectReason,
    ReplicaId,
    RequestId,
    model_of,
)
from controller.drivers.following import Following
from controller.drivers.progress import ProgressWatch
from controller.drivers.watching import watch
from controller.ports import EngineDied, EngineSeen, NodeFound, NodeMemory, Pool, Refused
from workers.engine import (
    CanaryMismatch,
    Endpoint,
    EngineError,
    EngineSpec,
    KVExport,
    Memory,
    OutOfMemory,
    Report,
    Rest,
)

log = logging.getLogger("torpor.driver")

REST_OF = {
    Depth.KV_RELEASED: Rest.KV_RELEASED,
    Depth.LEVEL_1: Rest.LEVEL_1,
    Depth.LEVEL_2: Rest.LEVEL_2,
}
DEPTH_OF = {rest: depth for depth, rest in REST_OF.items()}

Order = StartEngine | ExportKV | SleepEngine | WakeEngine | StopEngine

_LOOK_S = 2.0
_RESIZE_S = 20.0
_AFTER_A_MISTAKE_S = 1.0
"""Not sooner is the core told of the time again, if it broke on that: it may break once more."""


class Observer(Protocol):
    """Whoever wants to know what the core did: journal, metrics, event stream."""

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None: ...

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None: ...

    def exported(self, model: str, export: KVExport) -> None: ...


class CostsOnRecord(Protocol):
    """What was measured before this run."""

    def found(self, at: Instant, spec: ModelSpec, engine: EngineSpec) -> CostsFound | None:
        """None: nothing of this model as it is."""
        ...


class LiveDriver:
    """Feeds one Fleet and executes what it orders on one Pool."""

    def __init__(
        self,
        fleet: Fleet,
        pool: Pool,
        models: Sequence[tuple[ModelSpec, EngineSpec]],
        limit: Callable[[NodeFound], NodeFound] = lambda node: node,
        following: Following | None = None,
        hangs: HangTimes | None = None,
        costs: CostsOnRecord | None = None,
    ) -> None:
        """``limit``: of what a node has, what the fleet may use; ``following``: of what others
        leave of it, None: that is not looked at; ``hangs``: when an engine is taken to hang;
        ``costs``: what is known of models from before."""
        self.fleet = fleet
        self.pool = pool
        self.engines: dict[ModelName, EngineSpec] = {spec.name: e for spec, e in models}
        self.endpoints: dict[ReplicaId, Endpoint] = {}
        self.kv_identities: dict[ReplicaId, str] = {}
        """As the engine's start or last wake told."""
        self.max_model_len: dict[ModelName, int] = {}
        self.observers: list[Observer] = []
        self.grants: dict[RequestId, asyncio.Future[GrantLease]] = {}
        self.frozen: tuple[Endpoint, ...] = ()
        """The engines whose requests are."""
        self.froze: list[Callable[[], None]] = []
        """Called whenever these have changed."""
        self.configured = {spec.name: (spec, engine) for spec, engine in models}
        """As it was at the beginning."""
        self._limit = limit
        self._following = following
        self._costs = costs
        self._progress = ProgressWatch(fleet, pool, hangs or HangTimes(), self._hung)
        self._nodes: dict[str, NodeFound] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadline = NEVER
        """When the core wants to be told of the time."""
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = NEVER
        self._closing = False

    def now(self) -> Instant:
        return Instant(asyncio.get_running_loop().time())

    async def open(self) -> None:
        """Join the pool, adopt what runs there, make the models known, begin."""
        await self.pool.open()
        for spec, engine in self.configured.values():
            self.add_model(spec, engine)
        nodes = await self.pool.nodes()
        for seen in await self.pool.discover():
            self._adopt(seen)
        self._spawn(watch("deaths", self.pool.deaths, self._died))
        self._meet(nodes)
        self._spawn(watch("nodes", self.pool.watch_nodes, self._meet))
        self._spawn(self._progress.run())
        if self._following is not None:
            self._spawn(watch("memory", self.pool.watch_memory, self._measured))

    async def close(self) -> None:
        """Stop driving; engines go on running. Who waits is refused."""
        self._closing = True
        self._refuse_all()
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pool.close()

    def add_model(self, spec: ModelSpec, engine: EngineSpec) -> None:
        self.engines[spec.name] = engine
        self.feed(ModelAdded(self.now(), spec))
        self._tell_costs(spec, engine)

    def change_model(self, spec: ModelSpec, engine: EngineSpec, restart: bool) -> None:
        self.engines[spec.name] = engine
        self.feed(ModelChanged(self.now(), spec, restart))
        self._tell_costs(spec, engine)

    def _tell_costs(self, spec: ModelSpec, engine: EngineSpec) -> None:
        found = self._costs.found(self.now(), spec, engine) if self._costs is not None else None
        if found is not None:
            self.feed(found)

    def feed(self, event: Event) -> None:
        """One step: the event, what the core orders on it, and who wants to know."""
        if self._closing:
            self._refuse_all()
            return
        try:
            commands = self.fleet.handle(event)
        except InvariantBroken as broken:
            log.error("invariant broken on %s: %s", type(event).__name__, broken)
            if not isinstance(event, EngineLost):
                self._quarantine(broken)
            self._set_timer(_AFTER_A_MISTAKE_S)
            return
        for observer in self.observers:
            try:
                observer.saw(event, commands, self.fleet)
            except Exception:
                log.exception("%s failed", type(observer).__name__)
        for command in commands:
            self._execute(command)
        self._look_for_frozen()
        self._set_timer()

    def _look_for_frozen(self) -> None:
        names = self.fleet.frozen()
        if names or self.frozen:
            frozen = tuple([self.endpoints[name] for name in names if name in self.endpoints])
            if frozen != self.frozen:
                self.frozen = frozen
                for tell in self.froze:
                    tell()

    def suspect(self, replica: ReplicaId, reason: str) -> None:
        """An engine did not answer: look whether its server still listens."""
        self._spawn(self._look(replica, reason))

    async def _look(self, replica: ReplicaId, reason: str) -> None:
        known, endpoint = self.fleet.replicas.get(replica), self.endpoints.get(replica)
        if known is None or known.incarnation is None or endpoint is None:
            return
        incarnation = known.incarnation
        try:
            async with asyncio.timeout(_LOOK_S):
                _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            writer.close()
        except (ConnectionError, TimeoutError):
            self.feed(EngineLost(self.now(), replica, incarnation, f"out of reach: {reason}"))
        except OSError as error:
            log.warning("cannot look at %s, which says nothing of it: %s", replica, error)

    def _quarantine(self, broken: InvariantBroken) -> None:
        """We erred about this replica: get rid of its engine and serve on."""
        replica = self.fleet.replicas.get(broken.replica) if broken.replica else None
        if replica is not None and replica.incarnation is not None:
            self.feed(EngineLost(self.now(), replica.id, replica.incarnation, "an invariant broke"))

    def _refuse_all(self) -> None:
        for grant in self.grants.values():
            if not grant.done():
                grant.set_exception(Refused(RejectReason.STOPPING, "the fleet is stopping"))
        self.grants.clear()

    def _set_timer(self, pause_s: float = 0.0) -> None:
        deadline = self.fleet.next_deadline()
        self._deadline = max(deadline, Instant(self.now() + pause_s)) if pause_s else deadline
        if self._deadline < self._rings_at:
            self._wind()

    def _wind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = self._deadline
        self._timer = asyncio.get_running_loop().call_at(self._rings_at, self._ring)

    def _ring(self) -> None:
        """A deadline that moved away leaves its timer standing: it is wound up again here, so
        that a busy fleet, whose deadlines move with every request, seldom touches it."""
        self._timer, self._rings_at = None, NEVER
        if self._deadline <= self.now():
            self.feed(TimePassed(self.now()))
        elif self._deadline < NEVER:
            self._wind()

    def _execute(self, command: Command) -> None:
        match command:
            case GrantLease(request=request):
                grant = self.grants.pop(request, None)
                if grant is not None and not grant.done():
                    grant.set_result(command)
            case RejectRequest(request=request):
                grant = self.grants.pop(request, None)
                if grant is not None and not grant.done():
                    grant.set_exception(
                        Refused(command.reason, command.detail, command.retry_after_s)
                    )
            case StartEngine() | ExportKV() | SleepEngine() | WakeEngine() | StopEngine():
                self._order(command)
            case ResizeTier():
                self._spawn(self._resize(command))
            case FinishOperation():
                pass
            case _:
                raise AssertionError(f"a command without a deed: {command}")

    def _order(self, command: Order) -> None:
        task = self._spawn(self._carry_out(command))

        def ended(task: asyncio.Task[None]) -> None:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None and not self._closing:
                log.error("%s: %r", command, error)
                reason = f"{type(error).__name__}: {error}"
                self.feed(_failure(command, self.now(), reason))

        task.add_done_callback(ended)

    async def _carry_out(self, command: Order) -> None:
        op, replica = command.op, command.replica
        began = self.now()
        log.info("%s op=%d replica=%s", type(command).__name__, op, replica)
        event: Event
        try:
            event = await self._answer(command)
        except CanaryMismatch as mismatch:
            event = CanaryDisagreed(self.now(), op, replica, str(mismatch))
        except OutOfMemory as error:
            event = _starvation(command, self.now(), str(error))
        except EngineError as error:
            event = _failure(command, self.now(), f"{type(error).__name__}: {error}")
        seconds = event.at - began
        log.info("%s op=%d replica=%s in %.3f s", type(event).__name__, op, replica, seconds)
        self.feed(event)

    async def _resize(self, command: ResizeTier) -> None:
        op, node = command.op, command.node
        log.info("%s", command)
        event: Event
        try:
            held = await self.pool.resize_kv(node, command.to_bytes, _RESIZE_S)
            event = TierResized(self.now(), op, node, held)
        except EngineError as error:
            event = TierNotResized(self.now(), op, node, str(error))
        log.info("%s", event)
        self.feed(event)

    async def _answer(self, command: Order) -> Event:
        op, replica = command.op, command.replica
        match command:
            case StartEngine(model=model, node=node, devices=devices):
                started = await self.pool.start(
                    replica, int(op), self.engines[model], node, tuple(devices)
                )
                if self._is_open(op, replica):
                    self.endpoints[replica] = started.endpoint
                    self.kv_identities[replica] = started.kv_identity
                self.max_model_len[model] = started.max_model_len
                self._report(replica, "start", Depth.STOPPED, started)
                return EngineStarted(self.now(), op, replica, _held(started.memory))
            case ExportKV():
                export = await self.pool.export(replica)
                self._tell(lambda observer: observer.exported(model_of(replica), export))
                return KVExported(self.now(), op, replica)
            case SleepEngine(depth=depth, keep=keep):
                slept = await self.pool.sleep(replica, REST_OF[depth], keep)
                self._report(replica, "sleep", depth, slept)
                return EngineFellAsleep(self.now(), op, replica, _held(slept.memory))
            case WakeEngine(depth=depth):
                woke = await self.pool.wake(replica)
                if self._is_open(op, replica):
                    self.kv_identities[replica] = woke.kv_identity
                self._report(replica, "wake", depth, woke)
                return EngineWoke(self.now(), op, replica, _held(woke.memory))
            case StopEngine(incarnation=incarnation):
                await self.pool.stop(replica, int(incarnation))
                if self._is_open(op, replica):
                    self.endpoints.pop(replica, None)
                return EngineStopped(self.now(), op, replica)

    def _is_open(self, op: OpId, replica: ReplicaId) -> bool:
        """Not so once its node was lost: the replica may have another engine elsewhere."""
        known = self.fleet.replicas.get(replica)
        return known is not None and known.order is not None and known.order.op == op

    def _report(self, replica: ReplicaId, order: str, depth: Depth, report: Report) -> None:
        self._tell(lambda observer: observer.reported(model_of(replica), order, depth, report))

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        """Observers look on: one that fails (a full disk) stops nothing."""
        for observer in self.observers:
            try:
                tell(observer)
            except Exception:
                log.exception("%s failed", type(observer).__name__)

    def _adopt(self, seen: EngineSeen) -> None:
        replica, model = ReplicaId(seen.replica), ModelName(seen.model)
        self.endpoints[replica] = seen.endpoint
        self.kv_identities[replica] = seen.kv_identity
        self.max_model_len[model] = seen.max_model_len
        self.feed(
            EngineFound(
                at=self.now(),
                replica=replica,
                model=model,
                incarnation=OpId(seen.incarnation),
                depth=Depth.AWAKE if seen.rest is None else DEPTH_OF[seen.rest],
                node=NodeId(seen.node),
                devices=tuple(DeviceId(device) for device in seen.devices),
                held=_held(seen.memory),
            )
        )

    def _died(self, died: EngineDied) -> None:
        log.warning("engine of %s died: %s", died.replica, died.reason)
        replica, incarnation = ReplicaId(died.replica), OpId(died.incarnation)
        self.feed(EngineLost(self.now(), replica, incarnation, died.reason))

    def _hung(self, replica: ReplicaId, incarnation: OpId, reason: str) -> None:
        """It is killed while it is stopped: it may not hear that it shall stop."""
        log.warning("engine of %s hangs: %s", replica, reason)
        self.feed(EngineHung(self.now(), replica, incarnation, reason))
        self._spawn(self._kill(replica, incarnation))

    async def _kill(self, replica: ReplicaId, incarnation: OpId) -> None:
        try:
            await self.pool.kill(replica, int(incarnation))
        except EngineError as error:
            log.warning("engine of %s could not be killed: %s", replica, error)

    def _meet(self, nodes: Sequence[NodeFound]) -> None:
        """These are there, and no others."""
        here = {node.node: self._limit(node) for node in nodes}
        for name in [name for name in self._nodes if name not in here]:
            log.warning("node %s is lost", name)
            del self._nodes[name]
            self.feed(NodeLost(self.now(), NodeId(name)))
        for name, node in here.items():
            if self._nodes.get(name) != node:
                log.info("node %s is there", name)
                self._nodes[name] = node
                devices = tuple((DeviceId(device), size) for device, size in node.devices)
                self.feed(NodeJoined(self.now(), NodeId(name), devices, node.host_bytes))

    def _measured(self, nodes: Sequence[NodeMemory]) -> None:
        """Only what changes a budget by so much that it matters is told."""
        assert self._following is not None
        for memory in nodes:
            node = NodeId(memory.node)
            if news := self._following.tier(self.now(), memory, self.fleet.tiers.get(node)):
                self.feed(news)
            booked = self.fleet.ledger.booked(node)
            event = self._following.look(self.now(), memory, booked)
            if event is not None:
                log.info("to be had on node %s: %s", memory.node, event)
                self.feed(event)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _starvation(command: Order, at: Instant, reason: str) -> Event:
    if isinstance(command, StartEngine | SleepEngine | WakeEngine):
        return RanOutOfMemory(at, command.op, command.replica, reason)
    return _failure(command, at, reason)


def _failure(command: Order, at: Instant, reason: str) -> Event:
    """An export that went wrong says nothing of the engine."""
    if isinstance(command, ExportKV):
        return KVExportFailed(at, command.op, command.replica, reason)
    return EngineFailed(at, command.op, command.replica, reason)


def _held(memory: Memory) -> Footprint:
    return Footprint(memory.device_bytes, memory.host_bytes)
