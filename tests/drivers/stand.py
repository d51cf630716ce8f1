"""A live driver over simulated engines, with everything that stands around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from controller.core.commands import Command, GrantLease
from controller.core.events import Event
from controller.core.fleet import Fleet
from controller.core.hanging import HangTimes
from controller.core.invariants import check
from controller.core.lifecycle import InvariantBroken
from controller.core.names import Depth, ModelName, ModelSpec, ReplicaId
from controller.drivers.control import LiveControl
from controller.drivers.following import Following
from controller.drivers.leases import LiveLeases
from controller.drivers.live import CostsOnRecord, LiveDriver
from controller.drivers.world import World
from controller.ports import EngineSeen, InvalidModel, NodeFound
from tests.core.fleets import GUESS, policy, sizes, spec
from tests.drivers.world_pool import WorldPool
from workers.engine import EngineSpec, KVExport, Report

NODE = NodeFound("n", (("0", 24),), 100)


@dataclass
class Recorder:
    """An observer that also checks the books after every event."""

    events: list[Event] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    phases: list[tuple[ReplicaId, str]] = field(default_factory=list)
    broken: list[InvariantBroken] = field(default_factory=list)

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        try:
            check(fleet)
        except InvariantBroken as broken:
            self.broken.append(broken)
        self.events.append(event)
        self.commands += commands
        self.phases += [(change.replica, change.after.name) for change in fleet.changes]

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None: ...

    def exported(self, model: str, export: KVExport) -> None: ...

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    def phases_of(self, replica: str) -> list[str]:
        return [phase for name, phase in self.phases if name == replica]

    def grants(self) -> list[GrantLease]:
        return [command for command in self.commands if isinstance(command, GrantLease)]


@dataclass
class Stand:
    driver: LiveDriver
    pool: WorldPool
    leases: LiveLeases
    control: LiveControl
    seen: Recorder


@asynccontextmanager
async def a_fleet(
    *specs: ModelSpec,
    node: NodeFound = NODE,
    running: Sequence[EngineSeen] = (),
    kind: type[Fleet] = Fleet,
    limit: Callable[[NodeFound], NodeFound] = lambda node: node,
    following: Following | None = None,
    hangs: HangTimes | None = None,
    costs: CostsOnRecord | None = None,
    **more: Any,
) -> AsyncIterator[Stand]:
    """``a`` and ``b`` of 10 on a device of 24, unless told otherwise."""
    models = specs or (spec("a"), spec("b"))
    world = World({ModelName(name): sizes(10) for name in "abcx"}, GUESS)
    pool = WorldPool(world, [node], running)
    driver = LiveDriver(
        kind(policy(**more)),
        pool,
        [(one, engine(one.name)) for one in models],
        limit,
        following,
        hangs,
        costs,
    )
    seen = Recorder()
    driver.observers.append(seen)
    control = LiveControl(driver, read_model)
    await driver.open()
    yield Stand(driver, pool, LiveLeases(driver), control, seen)
    await driver.close()
    assert not seen.broken


def engine(model: str) -> EngineSpec:
    return EngineSpec(model, "nowhere", kind="fake")


def read_model(entry: dict[str, object]) -> tuple[ModelSpec, EngineSpec]:
    name = entry.get("name")
    if not isinstance(name, str):
        raise InvalidModel("name: missing")
    return spec(name), engine(name)
