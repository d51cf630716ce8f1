"""With ``remembering``, the only file that names concrete adapters: Settings and an address of Ray
→ a controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager

from controller.announcer import Announcer, JsonAnnouncer
from controller.api.app import create_app
from controller.api.status import Readiness
from controller.core.commands import Command
from controller.core.events import Event
from controller.core.fleet import Fleet
from controller.core.names import Depth, ModelSpec
from controller.cost_records import CostRecords
from controller.drivers.control import LiveControl
from controller.drivers.following import Following
from controller.drivers.hours import keep_hours
from controller.drivers.lease_desk import LeaseDesk
from controller.drivers.leases import LiveLeases
from controller.drivers.live import LiveDriver
from controller.journal import Journal
from controller.metrics import Metrics
from controller.ports import InvalidModel, Pool
from controller.reload import FileLook, Reload
from controller.remembering import remember
from controller.serving import DeciderSockets, Served, api_settings
from controller.settings import (
    ConfigError,
    Settings,
    read_model,
    tier_of,
)
from workers.capacity import MemoryPolicy
from workers.engine import EngineSpec, KVExport, Report
from workers.pool_values import OrderLimits

_MEMORY_S = 2.0
"""So often is looked at what others hold."""
_COSTS_S = 1.0
"""So long after the first of several measurements they are written down."""


def build(settings: Settings, ray_address: str, sockets: DeciderSockets | None = None) -> Served:
    """A controller that joins a Ray, which no other pool pays for: its client takes 38 MiB."""
    from workers.ray_pool import RayPool

    pool = RayPool(
        ray_address,
        state_dir=settings.state_dir,
        log_dir=settings.log_dir,
        limits=OrderLimits(
            start_s=settings.timeouts.start_s,
            sleep_s=settings.timeouts.sleep_s,
            wake_s=settings.timeouts.wake_s,
            stop_s=settings.timeouts.stop_s,
        ),
        memory=MemoryPolicy(share=1.0),
        memory_s=_MEMORY_S if settings.memory.is_followed else None,
        kv=tier_of(settings),
    )
    return assemble(settings, pool, sockets)


def assemble(settings: Settings, pool: Pool, sockets: DeciderSockets | None = None) -> Served:
    """A controller of the engines of any pool; with ``sockets`` it serves carriers there."""
    fleet = Fleet(settings.policy)
    limit = settings.memory.limit
    following = Following(settings.memory.follow, limit) if settings.memory.is_followed else None
    costs = CostRecords(
        settings.state_dir / "costs.json",
        settings.device,
        soon=lambda write: asyncio.get_running_loop().call_later(_COSTS_S, write),
    )
    driver = LiveDriver(fleet, pool, settings.models, limit, following, settings.hangs, costs)
    metrics = Metrics()
    journal = Journal(
        settings.state_dir / "journal.jsonl",
        settings.journal.max_bytes,
        settings.journal.files,
        soon=lambda flush: asyncio.get_running_loop().call_soon(flush),
    )
    announcing = JsonAnnouncer if settings.announces_json else Announcer
    announcer = announcing(settings.server.host, settings.server.port)
    driver.observers += [_Journalist(journal), metrics, announcer, costs]
    control = LiveControl(driver, lambda entry: _read_model(entry, settings))

    remembered = remember(settings, driver, control, metrics)
    readiness = Readiness()
    leases = LiveLeases(driver)
    desk = LeaseDesk(leases, metrics, lambda: tuple(v.model for v in control.view().models))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await driver.open()
        try:
            async with remembered.lived():
                announcer.opened(settings)
                async with (
                    _meanwhile(keep_hours(driver)),
                    _reloading(settings, control),
                    _carriers(settings, desk, sockets),
                ):
                    yield
        finally:
            await driver.close()
            journal.close()
            costs.write()

    app = create_app(
        api_settings(settings),
        leases,
        control,
        metrics,
        lifespan=lifespan,
        readiness=readiness,
        conversations=remembered.conversations,
        histories=remembered.histories,
    )
    return Served(app, settings, readiness, is_behind_carriers=sockets is not None)


@asynccontextmanager
async def _carriers(
    settings: Settings, desk: LeaseDesk, sockets: DeciderSockets | None
) -> AsyncIterator[None]:
    """They are served meanwhile, if there are any, and let their responses end."""
    if sockets is None:
        yield
        return
    await desk.open(sockets.leases)
    try:
        yield
    finally:
        await desk.close(settings.server.drain_s)


@asynccontextmanager
async def _reloading(settings: Settings, control: LiveControl) -> AsyncIterator[None]:
    """The file is watched meanwhile, if there is one."""
    if settings.source is None:
        yield
        return
    async with _meanwhile(Reload(settings, control, FileLook(settings)).watch()):
        yield


@asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _read_model(entry: dict[str, object], settings: Settings) -> tuple[ModelSpec, EngineSpec]:
    try:
        return read_model(entry, settings)
    except ConfigError as error:
        said = "; ".join(f"{problem.path}: {problem.reason}" for problem in error.problems)
        raise InvalidModel(said) from error


class _Journalist:
    """The journal as an observer of the driver."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        self._journal.record(event, commands)

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        return None

    def exported(self, model: str, export: KVExport) -> None:
        return None
