from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import pytest

from controller.api.app import ApiSettings, create_app
from controller.api.client_connection import ClientConnection
from controller.api.routes import InferenceLimits
from controller.api.upstream import UpstreamLimits
from controller.metrics import Metrics
from tests.api.engine import ScriptedEngine, Turn, running, running_engine
from tests.api.fakes import FakeControl, FakeLeases

HEARTBEAT_S = 0.02


@dataclass
class Stand:
    """The API on a real port, before engines that this test wrote."""

    stack: AsyncExitStack
    leases: FakeLeases = field(default_factory=FakeLeases)
    control: FakeControl = field(default_factory=lambda: FakeControl("chat", "org/embed"))
    metrics: Metrics = field(default_factory=Metrics)
    settings: ApiSettings = field(
        default_factory=lambda: ApiSettings(
            inference=InferenceLimits(
                max_body_bytes=100_000, heartbeat_s=HEARTBEAT_S, retry_backoff_s=0.001
            ),
            upstream=UpstreamLimits(connect_s=2.0, silence_s=20.0),
        )
    )
    url: str = ""

    async def engine(self, *script: Turn, model: str = "chat") -> ScriptedEngine:
        engine = await self.stack.enter_async_context(running_engine(*script))
        self.leases.endpoints[model] = [engine.endpoint]
        return engine

    async def open(self, **headers: str) -> httpx.AsyncClient:
        """Start the API; a client of it."""
        app = create_app(self.settings, self.leases, self.control, self.metrics)
        port = await self.stack.enter_async_context(running(app, http=ClientConnection))
        self.url = f"http://127.0.0.1:{port}"
        client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, trust_env=False)
        return await self.stack.enter_async_context(client)


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        yield Stand(stack)
