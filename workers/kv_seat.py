"""An engine's seat at the node's KV tier: what it is told of it, and what it tells."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace

from kv_store.lmcache_client import LMCacheClient, TierUnavailable
from kv_store.reports import Reports
from kv_store.settings import KVAttachment
from workers.engine import EngineError, EngineSpec, KVExport
from workers.kv_header import KVHeader
from workers.kv_turns import KVTurns
from workers.leavings import socket_directory
from workers.openai_server import ASGIApp


class KVSeat:
    def __init__(self, attachment: KVAttachment) -> None:
        self._directory = socket_directory()
        path = self._directory / "kv-reports"
        self._attachment = replace(attachment, reports=str(path))
        self.reports = Reports(path)
        self._reading: asyncio.AbstractEventLoop | None = None
        self._tier: LMCacheClient | None = None
        if attachment.http_port is not None:
            url = f"http://{attachment.host}:{attachment.http_port}"
            self._tier = LMCacheClient(url, limit_s=attachment.call_limit_s)

    def told(self, spec: EngineSpec) -> EngineSpec:
        return replace(spec, kv=self._attachment)

    async def export(self, model: str, limit_s: float) -> KVExport:
        """Raises EngineError: the tier is away."""
        if self._tier is None:
            raise EngineError("the KV tier has no port for orders")
        try:
            done = await self._tier.settle(model, limit_s=limit_s)
        except TierUnavailable as error:
            raise EngineError(f"the KV tier: {error}") from error
        kept, failed = done.already + done.written, done.failed + done.absent
        return KVExport(kept, done.written, failed, done.bytes, done.seconds)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """In the running loop, which reads reports as they come from here on."""
        turns = KVTurns(app, self.reports, chunk_tokens=self._attachment.chunk_tokens)
        self._reading = asyncio.get_running_loop()
        self._reading.add_reader(self.reports.fileno(), self.reports.receive)
        return KVHeader(turns, self.reports, tier=self._tier, durable=self._attachment.durable)

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.remove_reader(self.reports.fileno())
        self.reports.close()
        if self._tier is not None:
            await self._tier.close()
        shutil.rmtree(self._directory, ignore_errors=True)
