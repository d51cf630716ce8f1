"""The Pool port before one engine that somebody else runs: it is found there, awake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from workers.engine import (
    Endpoint,
    EngineError,
    EngineSpec,
    KVExport,
    Memory,
    Progress,
    Report,
    Rest,
    Started,
)
from workers.pool_values import EngineDied, EngineSeen, NodeFound, NodeMemory

_HELD_BYTES = 1 << 20


class StandingPool:
    """No order reaches the engine: nothing of what is measured gives one."""

    def __init__(self, spec: EngineSpec, endpoint: Endpoint) -> None:
        self._spec = spec
        self._endpoint = endpoint

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def nodes(self) -> list[NodeFound]:
        return [NodeFound("local", (("cpu", 1 << 34),), 1 << 34)]

    async def watch_nodes(self) -> AsyncIterator[list[NodeFound]]:
        yield await self.nodes()

    async def watch_memory(self) -> AsyncIterator[list[NodeMemory]]:
        await asyncio.get_running_loop().create_future()
        yield []

    async def discover(self) -> list[EngineSeen]:
        return [
            EngineSeen(
                replica=f"{self._spec.model}#0",
                model=self._spec.model,
                incarnation=1,
                rest=None,
                node="local",
                devices=("cpu",),
                memory=Memory(_HELD_BYTES, 0),
                endpoint=self._endpoint,
                max_model_len=4096,
                spec=self._spec,
            )
        ]

    async def start(
        self, replica: str, incarnation: int, spec: EngineSpec, node: str, devices: tuple[str, ...]
    ) -> Started:
        raise EngineError("this engine is started by somebody else")

    async def export(self, replica: str) -> KVExport:
        raise EngineError("this engine keeps no KV")

    async def sleep(self, replica: str, rest: Rest, keep: bool = False) -> Report:
        raise EngineError("this engine does not sleep")

    async def kv(self, node: str, order: KVOrder, prefix: Prefix, limit_s: float) -> Placed:
        raise EngineError("these engines keep no KV")

    async def resize_kv(self, node: str, to_bytes: int, limit_s: float) -> int:
        raise EngineError("these engines keep no KV")

    async def wake(self, replica: str) -> Report:
        raise EngineError("this engine does not sleep")

    async def progress(self, replica: str) -> Progress:
        return Progress(0, 0, None)

    async def kill(self, replica: str, incarnation: int) -> None: ...

    async def stop(self, replica: str, incarnation: int) -> None: ...

    async def deaths(self) -> AsyncIterator[EngineDied]:
        await asyncio.get_running_loop().create_future()
        yield EngineDied("", 0, "")
