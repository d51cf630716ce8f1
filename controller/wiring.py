"""The only file that names concrete adapters: Settings and an address of Ray → a controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from controller.announcer import Announcer, JsonAnnouncer
from controller.api.app import ApiSettings, create_app
from controller.api.routes import InferenceLimits
from controller.core.commands import Command
from controller.core.events import Event
from controller.core.fleet import Fleet
from controller.core.names import Depth, ModelSpec
from controller.drivers.control import LiveControl
from controller.drivers.leases import LiveLeases
from controller.drivers.live import LiveDriver
from controller.journal import Journal
from controller.metrics import Metrics
from controller.ports import InvalidModel, Pool
from controller.settings import ConfigError, Settings, password_of_store, read_model
from kv_store.keys import Isolation
from workers.capacity import MemoryPolicy
from workers.engine import EngineSpec, KVExport, Report
from workers.pool_values import OrderLimits
from workers.ray_pool import RayPool

_GRACE_S = 5
"""How long running responses may go on after a signal to stop."""


@dataclass(frozen=True, slots=True)
class Controller:
    """What runs in the controller's process."""

    app: ASGIApp
    settings: Settings

    def uvicorn_config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self.app,
            host=self.settings.server.host,
            port=self.settings.server.port,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        )


def build(settings: Settings, ray_address: str) -> Controller:
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
        kv=settings.kv.tier(password_of_store()) if settings.kv else None,
    )
    return assemble(settings, pool)


def assemble(settings: Settings, pool: Pool) -> Controller:
    """A controller of the engines of any pool."""
    fleet = Fleet(settings.policy)
    driver = LiveDriver(fleet, pool, settings.models, settings.memory.limit)
    metrics = Metrics()
    journal = Journal(
        settings.state_dir / "journal.jsonl",
        settings.journal.max_bytes,
        settings.journal.files,
        soon=lambda flush: asyncio.get_running_loop().call_soon(flush),
    )
    announcing = JsonAnnouncer if settings.announces_json else Announcer
    announcer = announcing(settings.server.host, settings.server.port)
    driver.observers += [_Journalist(journal), metrics, announcer]
    control = LiveControl(driver, lambda entry: _read_model(entry, settings))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await driver.open()
        announcer.opened(settings)
        try:
            yield
        finally:
            await driver.close()
            journal.close()

    api = ApiSettings(
        keys=settings.server.keys,
        inference=InferenceLimits(
            max_body_bytes=settings.server.max_body_bytes,
            kv_isolation=settings.kv.isolation if settings.kv else Isolation.TENANT,
        ),
    )
    app = create_app(api, LiveLeases(driver), control, metrics, lifespan=lifespan)
    return Controller(app, settings)


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
