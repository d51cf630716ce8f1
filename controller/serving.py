"""How a process of the fleet serves its application: the deciding one, and carriers.

On SIGTERM it says that it is not ready any more and goes on for ``server.unready_s``, so that
whoever spreads requests sends them elsewhere; then it takes no new ones and lets the running
responses end for ``server.drain_s``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import time
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path
from socket import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from controller.api.app import ApiSettings
from controller.api.client_connection import ClientConnection
from controller.api.routes import InferenceLimits
from controller.api.status import Readiness
from controller.settings import Settings, records_of_run
from kv_store.keys import Isolation

_YOUNG_OBJECTS = 10_000
"""Looked through when there are so many more of them."""


@dataclass(frozen=True, slots=True)
class Served:
    """An application, and what there is to know for serving it."""

    app: ASGIApp
    settings: Settings
    readiness: Readiness
    is_behind_carriers: bool = False
    """Only they reach it, and say whom they ask for."""

    def uvicorn_config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self.app,
            host=self.settings.server.host,
            port=self.settings.server.port,
            http=ClientConnection,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips="*" if self.is_behind_carriers else None,
            timeout_graceful_shutdown=ceil(self.settings.server.drain_s),
        )


@dataclass(frozen=True, slots=True)
class DeciderSockets:
    """Where carriers reach the deciding process."""

    directory: Path

    @property
    def leases(self) -> Path:
        return self.directory / "leases"

    @property
    def api(self) -> Path:
        return self.directory / "api"


def api_settings(settings: Settings) -> ApiSettings:
    return ApiSettings(
        keys=settings.server.keys,
        inference=InferenceLimits(
            max_body_bytes=settings.server.max_body_bytes,
            kv_isolation=settings.kv.isolation if settings.kv else Isolation.TENANT,
            kv_destinations=settings.kv.tenants if settings.kv else {},
            kv_lossy=settings.kv.lossy if settings.kv else "",
            prefix_secret=records_of_run().run.encode(),
        ),
    )


def log_as(settings: Settings) -> None:
    settings.log_dir.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=None if settings.logs_to_stderr else settings.log_dir / "controller.log",
        level=settings.log_level,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )


def take_all_descriptors() -> None:
    """Each stream takes two: the usual soft limit of 1,024 is soon reached."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve(served: Served, listening: socket) -> int:
    """Until a signal, on the event loop of uvicorn's choice (uvloop). The exit code."""
    config = served.uvicorn_config()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(_serve(served, config, listening))


async def _serve(served: Served, config: uvicorn.Config, listening: socket) -> int:
    server = _Server(config, served.readiness, served.settings.server.unready_s)
    await server.serve(sockets=[listening])
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Takes the signals back once the fleet is open: joining a Ray puts Ray's handler before
    uvicorn's, and that one prints a stack trace. The first signal makes it unready, and it leaves
    ``unready_s`` later; a second one makes it leave at once."""

    def __init__(self, config: uvicorn.Config, readiness: Readiness, unready_s: float) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._unready_s = unready_s
        self._leaves_at = inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._unready_s and not self._readiness.is_leaving:
            self._leaves_at = time.monotonic() + self._unready_s
        else:
            super().handle_exit(sig, frame)
        self._readiness.is_leaving = True

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or time.monotonic() >= self._leaves_at

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        _spare_the_collector()


def _spare_the_collector() -> None:
    """What is there once the fleet is open, every imported module above all, stays: looking for
    garbage among it takes tens of milliseconds, and nothing is served meanwhile. Requests leave
    hardly any garbage to be looked for."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
