"""The Pool port with fake engines in this process: no Ray, no processes, for fast tests."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from workers.engine import (
    EngineError,
    EngineGone,
    EngineSpec,
    KVExport,
    Progress,
    Report,
    Rest,
    Started,
)
from workers.fake_engine import FakeEngine
from workers.fake_server import Counts
from workers.fake_tier import FakeTier
from workers.pool_values import EngineDied, EngineSeen, NodeFound, NodeMemory, OrderLimits
from workers.register import Register

ONE_NODE = (NodeFound("local", (("cpu", 4_000_000_000),), 4_000_000_000),)


@dataclass(slots=True)
class _Running:
    incarnation: int
    engine: FakeEngine
    seen: EngineSeen | None = None
    """None until it has started; what an adopting controller is told."""


class LocalPool:
    """Engines go on through ``close`` and are found again after the next ``open``."""

    def __init__(
        self, nodes: Sequence[NodeFound] = ONE_NODE, limits: OrderLimits | None = None
    ) -> None:
        self._nodes = list(nodes)
        self._limits = limits or OrderLimits()
        self._register = Register()
        self.tier = FakeTier()
        """Of the one node."""
        self.measured: asyncio.Queue[list[NodeMemory]] = asyncio.Queue()
        """What is put in is what its nodes' memory is said to be."""
        self._running: dict[str, _Running] = {}
        self._burials: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._register = Register()

    async def close(self) -> None:
        self._register.close()

    async def shut_down(self) -> None:
        """Stop every engine: the end of a test."""
        for replica, running in list(self._running.items()):
            await self.stop(replica, running.incarnation)
        await asyncio.gather(*self._burials)

    async def nodes(self) -> list[NodeFound]:
        return self._nodes

    async def watch_nodes(self) -> AsyncIterator[list[NodeFound]]:
        yield self._nodes

    async def watch_memory(self) -> AsyncIterator[list[NodeMemory]]:
        while True:
            yield await self.measured.get()

    async def discover(self) -> list[EngineSeen]:
        """Engines that had not finished starting, or whose order went wrong, are stopped."""
        for replica, running in list(self._running.items()):
            if running.seen is None:
                await self.stop(replica, running.incarnation)
            else:
                self._register.enter(replica, running.incarnation)
        return [running.seen for running in self._running.values() if running.seen is not None]

    async def start(
        self, replica: str, incarnation: int, spec: EngineSpec, node: str, devices: tuple[str, ...]
    ) -> Started:
        engine = FakeEngine(
            spec,
            key=secrets.token_urlsafe(),
            die=lambda: self._died(replica, incarnation, "it was told to die"),
            tier=self.tier,
        )
        running = _Running(incarnation, engine)
        self._running[replica] = running
        self._register.enter(replica, incarnation)
        started = await self._register.carried_out(replica, engine.start(), self._limits.start_s)
        running.seen = EngineSeen(
            replica=replica,
            model=spec.model,
            incarnation=incarnation,
            rest=None,
            node=node,
            devices=devices,
            memory=started.memory,
            endpoint=started.endpoint,
            max_model_len=started.max_model_len,
            spec=spec,
            kv_identity=started.kv_identity,
        )
        return started

    async def sleep(self, replica: str, rest: Rest, keep: bool = False) -> Report:
        running = self._get(replica)
        order = self._remembered(running, running.engine.sleep(rest, keep), rest)
        return await self._register.carried_out(replica, order, self._limits.sleep_s)

    async def export(self, replica: str) -> KVExport:
        order = self._get(replica).engine.export()
        return await self._register.carried_out(replica, order, self._limits.export_s)

    async def wake(self, replica: str) -> Report:
        running = self._get(replica)
        order = self._remembered(running, running.engine.wake(), None)
        return await self._register.carried_out(replica, order, self._limits.wake_s)

    async def kv(self, node: str, order: KVOrder, prefix: Prefix, limit_s: float) -> Placed:
        if order is KVOrder.RECALL:
            await self.tier.recalls.wait()
        return self.tier.carry_out(order, prefix)

    async def resize_kv(self, node: str, to_bytes: int, limit_s: float) -> int:
        return self.tier.resize(to_bytes)

    async def stop(self, replica: str, incarnation: int) -> None:
        self._register.leave(replica, incarnation)
        running = self._running.get(replica)
        if running is None or running.incarnation != incarnation:
            return
        del self._running[replica]
        with suppress(EngineError, TimeoutError):
            await asyncio.wait_for(running.engine.stop(), self._limits.stop_s)
        await running.engine.close()

    async def deaths(self) -> AsyncIterator[EngineDied]:
        async for died in self._register.deaths():
            yield died

    async def progress(self, replica: str) -> Progress:
        return await self._get(replica).engine.progress()

    async def kill(self, replica: str, incarnation: int) -> None:
        self._died(replica, incarnation, "it was killed")

    def kill_engine(self, replica: str) -> None:
        """What ``kill -9`` does to an engine process."""
        self._died(replica, self._running[replica].incarnation, "it was killed")

    def counts(self, replica: str) -> Counts:
        return self._running[replica].engine.counts

    def _get(self, replica: str) -> _Running:
        running = self._running.get(replica)
        if running is None:
            raise EngineGone(f"{replica} is not running")
        return running

    async def _remembered(
        self, running: _Running, order: Awaitable[Report], rest: Rest | None
    ) -> Report:
        seen, running.seen = running.seen, None
        report = await order
        if seen is not None:
            identity = report.kv_identity if rest is None else seen.kv_identity
            running.seen = replace(seen, rest=rest, memory=report.memory, kv_identity=identity)
        return report

    def _died(self, replica: str, incarnation: int, reason: str) -> None:
        running = self._running.get(replica)
        if running is None or running.incarnation != incarnation:
            return
        del self._running[replica]
        self._register.died(replica, incarnation, f"{replica}: {reason}")
        burial = asyncio.ensure_future(running.engine.close())
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)
