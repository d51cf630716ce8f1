"""Small fleets for tests: sizes in whole units, one unit a byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controller.core.commands import Command
from controller.core.events import (
    BudgetMeasured,
    EngineFellAsleep,
    EngineStarted,
    EngineStopped,
    EngineWoke,
    Event,
    KVExported,
    LeaseReleased,
    ModelAdded,
    NodeJoined,
    RequestArrived,
    TierMeasured,
)
from controller.core.fleet import Fleet
from controller.core.invariants import check
from controller.core.names import (
    CostGuess,
    Depth,
    DeviceId,
    FleetPolicy,
    Footprint,
    Instant,
    Ladder,
    ModelName,
    ModelSpec,
    NodeId,
    RequestId,
)
from controller.drivers.sim import Simulator
from controller.drivers.world import NO_FAULTS, Faults, World

GUESS = CostGuess(start_s=10, wake_kv_released_s=0.5, wake_level_1_s=1, wake_level_2_s=3)


def sizes(awake: int, host: int | None = None) -> dict[Depth, Footprint]:
    """Awake so much of each device; asleep at level 1 as much of the host."""
    return {
        Depth.AWAKE: Footprint(awake, 0),
        Depth.KV_RELEASED: Footprint(max(1, awake // 2), 0),
        Depth.LEVEL_1: Footprint(1, awake if host is None else host),
        Depth.LEVEL_2: Footprint(1, 0),
    }


def spec(name: str, awake: int = 10, **more: Any) -> ModelSpec:
    return ModelSpec(ModelName(name), more.pop("footprints", None) or sizes(awake), **more)


def policy(**more: Any) -> FleetPolicy:
    return FleetPolicy(**{"prefetch_start": False, "costs": GUESS, "minimum_awake_s": 0.0, **more})


def node(at: float, name: str = "n", devices: int = 1, device: int = 24, host: int = 100) -> Event:
    pairs = tuple((DeviceId(str(index)), device) for index in range(devices))
    return NodeJoined(Instant(at), NodeId(name), pairs, host)


def to_be_had(
    at: float, name: str = "n", devices: int = 1, device: int = 24, host: int = 100
) -> Event:
    """Others than the fleet hold the rest."""
    pairs = tuple((DeviceId(str(index)), device) for index in range(devices))
    return BudgetMeasured(Instant(at), NodeId(name), pairs, host)


def tier(
    at: float, held: int = 6, name: str = "n", device: str = "0", whole: int = 6, least: int = 2
) -> TierMeasured:
    """A KV tier whose memory is of a device, as where that and the host are one."""
    where = NodeId(name), DeviceId(device)
    return TierMeasured(Instant(at), *where, whole, least, held)


def ladder(*seconds: float) -> Ladder:
    return Ladder(*seconds)


class Story:
    """A fleet and its commands as text; answers are given by hand."""

    def __init__(self, *specs: ModelSpec, device: int = 24, host: int = 100, **more: Any) -> None:
        self.fleet = Fleet(policy(**more))
        self.at = 0.0
        self.specs: Mapping[ModelName, ModelSpec] = {s.name: s for s in specs}
        for one in specs:
            self.feed(ModelAdded(self.time, one))
        self.feed(node(0.0, device=device, host=host))

    @property
    def time(self) -> Instant:
        return Instant(self.at)

    def feed(self, event: Event) -> list[Command]:
        self.at = max(self.at, event.at)
        commands = self.fleet.handle(event)
        check(self.fleet)
        return commands

    def arrives(self, request: str, model: str, max_wait_s: float | None = None) -> list[Command]:
        return self.feed(
            RequestArrived(self.time, RequestId(request), ModelName(model), max_wait_s)
        )

    def answers(self, replica: str, after: float = 1.0) -> list[Command]:
        """The order that is out is carried out well."""
        self.at += after
        return self.feed(good_answer(self.fleet, replica, self.time))

    def releases(self, request: str) -> list[Command]:
        return self.feed(LeaseReleased(self.time, RequestId(request)))

    def raises(self, request: str, model: str) -> None:
        """Bring the model up for a request, however it rests."""
        self.arrives(request, model)
        self.answers(f"{model}#0")


def good_answer(fleet: Fleet, name: str, at: Instant) -> Event:
    replica = next(r for r in fleet.replicas.values() if r.id == name)
    order = replica.order
    assert order is not None, f"{name} waits for nothing"
    held = fleet.models[replica.model].spec.footprints
    kinds = {"start": EngineStarted, "wake": EngineWoke}
    if order.action.value == "stop":
        return EngineStopped(at, order.op, replica.id)
    if order.action.value == "export":
        return KVExported(at, order.op, replica.id)
    if order.action.value == "sleep":
        return EngineFellAsleep(at, order.op, replica.id, held[order.depth])
    return kinds[order.action.value](at, order.op, replica.id, held[Depth.AWAKE])


def simulator(
    *specs: ModelSpec,
    seed: int = 0,
    faults: Faults = NO_FAULTS,
    nodes: tuple[Event, ...] = (),
    checked: bool = True,
    watcher: Callable[[Fleet], None] = check,
    **more: Any,
) -> Simulator:
    """The models and their nodes are there; requests are the test's."""
    truth = {s.name: s.footprints for s in specs}
    world = World(truth, more.pop("seconds", GUESS), faults, seed)
    sim = Simulator(Fleet(policy(**more)), world, watcher if checked else None)
    for one in specs:
        sim.schedule(ModelAdded(Instant(0.0), one))
    for joins in nodes or (node(0.0),):
        sim.schedule(joins)
    return sim
