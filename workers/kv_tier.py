"""The node's KV server in the agent's care: it is started, and started again until it comes up."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from kv_store.lmcache_client import LMCacheClient
from kv_store.lmcache_server import LMCacheServer, ServerDidNotStart
from kv_store.settings import KVAttachment, TierSettings

_log = logging.getLogger(__name__)


class KVTier:
    """Engines attach whenever the server comes; nobody waits for it here."""

    def __init__(
        self,
        settings: TierSettings,
        log: Path,
        ports: tuple[int, int] | None = None,
        *,
        pause_s: float = 15.0,
    ) -> None:
        """``pause_s``: between attempts."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self._pause_s = pause_s
        self._server = LMCacheServer(settings, log, ports=ports)
        self._resized: tuple[int, int] | None = None
        """(start of the server, bytes): what became of its size since."""
        self._starting = asyncio.create_task(self._start())

    @property
    def attachment(self) -> KVAttachment:
        return self._server.attachment

    @property
    def client(self) -> LMCacheClient:
        return self._server.client

    @property
    def ports(self) -> tuple[int, int]:
        return self._server.ports

    @property
    def pid(self) -> int | None:
        """Of the server, while it runs."""
        return self._server.pid

    @property
    def held_bytes(self) -> int:
        """So large it may grow; a server that was started again has all that it was given."""
        start, held = self._resized or (-1, 0)
        return held if start == self._server.starts else self.settings.host_bytes

    async def resize(self, to_bytes: int, limit_s: float) -> int:
        """What it holds at the most from then on. Raises TierUnavailable."""
        start = self._server.starts
        done = await self.client.resize(to_bytes, limit_s=limit_s)
        self._resized = (start, done.bytes)
        return self.held_bytes

    async def started(self) -> None:
        """Returns when it has come up for the first time."""
        await asyncio.shield(self._starting)

    async def close(self) -> None:
        self._starting.cancel()
        try:
            await asyncio.gather(self._starting, return_exceptions=True)
        finally:
            await self._server.stop()

    async def _start(self) -> None:
        while True:
            try:
                return await self._server.start()
            except ServerDidNotStart as error:
                _log.error("%s", error)
                await asyncio.sleep(self._pause_s)
