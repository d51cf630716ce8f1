"""An engine's seat at the node's KV tier: what it is told of it, and what it tells."""

from __future__ import annotations

import shutil
from dataclasses import replace

from kv_store.lmcache_client import LMCacheClient, TierUnavailable
from kv_store.reports import Reports
from kv_store.settings import KVAttachment
from workers.engine import EngineError, EngineSpec, KVExport
from workers.kv_header import KVHeader
from workers.leavings import socket_directory
from workers.openai_server import ASGIApp


class KVSeat:
    def __init__(self, attachment: KVAttachment) -> None:
        self._directory = socket_directory()
        path = self._directory / "kv-reports"
        self._attachment = replace(attachment, reports=str(path))
        self.reports = Reports(path)
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
        return KVHeader(app, self.reports, tier=self._tier, durable=self._attachment.durable)

    async def close(self) -> None:
        self.reports.close()
        if self._tier is not None:
            await self._tier.close()
        shutil.rmtree(self._directory, ignore_errors=True)
