"""Simulated engines: they take the time they are given, and break as a seeded die says.

A World carries out commands and says what will happen and when. It also keeps its own record of
every engine, so that an order which no engine could follow (a sleeper told to sleep, an engine
stopped under its requests) is our mistake and raised as ``Misordered``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

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
    TierMeasured,
    TierNotResized,
    TierResized,
)
from controller.core.names import (
    NOTHING,
    Cause,
    CostGuess,
    Depth,
    Footprint,
    Instant,
    ModelName,
    NodeId,
    OpId,
    ReplicaId,
    RequestId,
)

Order = StartEngine | ExportKV | SleepEngine | WakeEngine | StopEngine


class Misordered(Exception):
    """An order that makes no sense to the engine it is for."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely each is, for each order."""

    order_fails: float = 0.0
    answers_late: float = 0.0
    answers_twice: float = 0.0
    canary_disagrees: float = 0.0
    runs_out: float = 0.0
    """A start or a wake finds too little memory."""
    leaks: float = 0.0
    """A sleep leaves a byte more than the one before."""
    hangs: float = 0.0
    """The order is never answered."""
    tier_stays: float = 0.0
    """A KV tier shrinks by half of what it was told to."""
    dies_later: float = 0.0
    """The engine dies by itself, some time after the order was given."""
    death_within_s: float = 60.0


NO_FAULTS = Faults()
LATE_FACTOR = 10.0
RESIZE_S = 1.0


@dataclass(slots=True)
class SimulatedEngine:
    incarnation: OpId
    model: ModelName
    node: NodeId
    depth: Depth | None = None
    """None until it has started."""
    is_broken: bool = False
    leaked_bytes: int = 0
    requests: dict[RequestId, None] = field(default_factory=dict)
    """Asleep, they are frozen."""


@dataclass(slots=True)
class World:
    """``sizes`` are what engines really hold, whatever their specification estimates."""

    sizes: Mapping[ModelName, Mapping[Depth, Footprint]]
    seconds: CostGuess = field(default_factory=CostGuess)
    faults: Faults = NO_FAULTS
    seed: int = 0
    seconds_of: Callable[[Order, ModelName], float] | None = None
    """By model, where engines differ; None: ``seconds`` holds for all."""
    engines: dict[ReplicaId, SimulatedEngine] = field(default_factory=dict)
    tiers: dict[NodeId, int] = field(default_factory=dict)
    """Bytes that each node's KV tier may grow to; of those that were resized."""
    dice: Random = field(init=False)
    _cut_off: dict[OpId, list[RequestId]] = field(default_factory=dict)
    """The requests that end with an engine, by the order to stop it."""

    def __post_init__(self) -> None:
        self.dice = Random(self.seed)

    def carry_out(self, order: Order, now: Instant) -> list[Event]:
        """What will come of it, each event with its time."""
        engine = self._follow(order)
        takes_s = self._seconds(order, engine.model) * self.dice.uniform(0.8, 1.2)
        if self._happens(self.faults.answers_late):
            takes_s *= LATE_FACTOR
        at = Instant(now + takes_s)
        if self._happens(self.faults.hangs):
            engine.is_broken = True
            return []
        answers = [self._answer(order, engine, at)]
        if self._happens(self.faults.answers_twice):
            answers.append(answers[0])
        if self._happens(self.faults.dies_later):
            dies_at = Instant(now + self.dice.uniform(0.0, self.faults.death_within_s))
            answers.append(EngineLost(dies_at, order.replica, engine.incarnation, "killed"))
        return answers

    def resize(self, order: ResizeTier, now: Instant) -> list[Event]:
        """Likewise. What is told late, or never, has come true all the same."""
        takes_s = RESIZE_S * self.dice.uniform(0.8, 1.2)
        if self._happens(self.faults.answers_late):
            takes_s *= 10 * LATE_FACTOR
        at = Instant(now + takes_s)
        if self._happens(self.faults.order_fails):
            return [TierNotResized(at, order.op, order.node, "the server is away")]
        before, to_bytes = self.tiers.get(order.node, order.to_bytes), order.to_bytes
        if to_bytes < before and self._happens(self.faults.tier_stays):
            to_bytes = (to_bytes + before) // 2
        self.tiers[order.node] = to_bytes
        if self._happens(self.faults.hangs):
            return []
        answers: list[Event] = [TierResized(at, order.op, order.node, to_bytes)]
        return answers * 2 if self._happens(self.faults.answers_twice) else answers

    def came_true(self, event: Event) -> list[RequestId]:
        """The event is now; the requests that it breaks off."""
        if isinstance(event, EngineLost):
            engine = self.engines.get(event.replica)
            if engine is not None and engine.incarnation == event.incarnation:
                engine.is_broken = True
                return _break_off(engine)
        if isinstance(event, TierMeasured):
            self.tiers[event.node] = event.held_bytes
        if isinstance(event, EngineStopped):
            return self._cut_off.pop(event.op, [])
        return []

    def lose_node(self, node: NodeId) -> list[RequestId]:
        broken: list[RequestId] = []
        for replica in [r for r, engine in self.engines.items() if engine.node == node]:
            broken += _break_off(self.engines.pop(replica))
        return broken

    def serve(self, request: RequestId, replica: ReplicaId) -> None:
        engine = self.engines.get(replica)
        if engine is None or engine.depth is not Depth.AWAKE:
            raise Misordered(f"{request} granted on {replica}, which is {engine}")
        engine.requests[request] = None

    def end(self, request: RequestId, replica: ReplicaId) -> None:
        if engine := self.engines.get(replica):
            engine.requests.pop(request, None)

    def _follow(self, order: Order) -> SimulatedEngine:
        if isinstance(order, StartEngine):
            if order.replica in self.engines:
                raise Misordered(f"{order}: it runs already")
            engine = SimulatedEngine(order.op, order.model, order.node)
            self.engines[order.replica] = engine
            return engine
        engine_ = self.engines.get(order.replica)
        if engine_ is None:
            if isinstance(order, StopEngine):
                return SimulatedEngine(order.incarnation, ModelName(""), NodeId(""))
            raise Misordered(f"{order}: there is no such engine")
        self._demand_sense(order, engine_)
        return engine_

    def _demand_sense(self, order: Order, engine: SimulatedEngine) -> None:
        depth = engine.depth
        makes_sense = not engine.requests or engine.is_broken
        match order:
            case WakeEngine() | SleepEngine(keep=True) | StopEngine(cause=Cause.FAILED):
                makes_sense = True
            case _:
                pass
        if not engine.is_broken:
            match order:
                case SleepEngine():
                    makes_sense &= depth is not None and depth < order.depth
                case WakeEngine():
                    makes_sense &= depth == order.depth
                case ExportKV():
                    makes_sense &= depth is Depth.AWAKE
                case _:
                    pass
        if not makes_sense:
            raise Misordered(f"{order} for {engine}")

    def _answer(self, order: Order, engine: SimulatedEngine, at: Instant) -> Event:
        if self._happens(self.faults.order_fails) or (
            engine.is_broken and not isinstance(order, StopEngine)
        ):
            if isinstance(order, ExportKV):
                return KVExportFailed(at, order.op, order.replica, "the tier is away")
            engine.is_broken = True
            return EngineFailed(at, order.op, order.replica, "it broke")
        rises = isinstance(order, StartEngine | WakeEngine)
        if rises and self._happens(self.faults.runs_out):
            engine.is_broken = True
            return RanOutOfMemory(at, order.op, order.replica, "too little is there")
        match order:
            case StartEngine():
                engine.depth = Depth.AWAKE
                return EngineStarted(at, order.op, order.replica, self._held(engine))
            case ExportKV():
                return KVExported(at, order.op, order.replica)
            case SleepEngine(depth=depth):
                engine.depth = depth
                engine.leaked_bytes += self._happens(self.faults.leaks)
                return EngineFellAsleep(at, order.op, order.replica, self._held(engine))
            case WakeEngine() if self._happens(self.faults.canary_disagrees):
                engine.is_broken = True
                return CanaryDisagreed(at, order.op, order.replica, "other tokens")
            case WakeEngine():
                engine.depth = Depth.AWAKE
                return EngineWoke(at, order.op, order.replica, self._held(engine))
            case StopEngine():
                if self.engines.get(order.replica) is engine:
                    del self.engines[order.replica]
                    self._cut_off[order.op] = _break_off(engine)
                return EngineStopped(at, order.op, order.replica)

    def _held(self, engine: SimulatedEngine) -> Footprint:
        depth = engine.depth
        if depth is None:
            return NOTHING
        held = self.sizes[engine.model].get(depth, NOTHING)
        if depth is Depth.AWAKE:
            return held
        return Footprint(held.device_bytes + engine.leaked_bytes, held.host_bytes)

    def _seconds(self, order: Order, model: ModelName) -> float:
        if self.seconds_of is not None:
            return self.seconds_of(order, model)
        match order:
            case StartEngine():
                return self.seconds.start_s
            case ExportKV():
                return self.seconds.export_s
            case SleepEngine():
                return self.seconds.sleep_s
            case StopEngine():
                return self.seconds.stop_s
            case WakeEngine(depth=Depth.KV_RELEASED):
                return self.seconds.wake_kv_released_s
            case WakeEngine(depth=Depth.LEVEL_1):
                return self.seconds.wake_level_1_s
            case WakeEngine():
                return self.seconds.wake_level_2_s

    def _happens(self, likelihood: float) -> bool:
        return likelihood > 0 and self.dice.random() < likelihood


def _break_off(engine: SimulatedEngine) -> list[RequestId]:
    broken, engine.requests = list(engine.requests), {}
    return broken
