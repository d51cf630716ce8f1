"""One Ray actor for each node: measures it, watches its engines' processes, buries the dead.

A death is known when it begins (``endings``), whoever killed the process. When one of an engine's
processes dies the others are killed too: what is left of an engine serves nobody, and its device
memory is wanted; a burial waits until all of it has come back. The rest (shared memory, sockets)
goes with ``bury``; what was left by engines that nobody buried goes when an agent starts, and with
the next burial.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from kv_store.lmcache_client import Placed, Prefix, TierUnavailable
from kv_store.placing import KVOrder, place
from kv_store.server_command import segment_path
from kv_store.settings import KVAttachment, TierSettings
from workers import leavings, processes
from workers.capacity import MemoryPolicy, devices_and_host
from workers.endings import Ending
from workers.engine import EngineError, KeepsNoKV
from workers.host_memory import kills
from workers.kv_tier import KVTier
from workers.node_memory import node_memory, own_of
from workers.pool_values import EngineDied, NodeFound, NodeMemory

_KEPT_DEATHS = 1000


@dataclass(slots=True)
class _Ward:
    """An engine in the agent's care."""

    replica: str
    incarnation: int
    mark: str
    vital: dict[int, Ending] = field(default_factory=dict)
    """By pid, of the processes that it cannot live without."""
    segments: set[Path] = field(default_factory=set)


class NodeAgent:
    """Marks begin with ``fleet``; engines of other fleets on this host are none of its business."""

    def __init__(self, fleet: str) -> None:
        self._fleet = fleet
        self._wards: dict[str, _Ward] = {}
        self._dead: list[EngineDied] = []
        self._forgotten = 0
        self._news = asyncio.Event()
        self._kv: KVTier | None = None
        self._kills = kills()
        leavings.sweep()

    async def ping(self) -> int:
        return os.getpid()

    async def measure(self, node: str, policy: MemoryPolicy) -> NodeFound:
        devices, host_bytes = devices_and_host(policy)
        return NodeFound(node, devices, host_bytes)

    async def memory(self, node: str) -> NodeMemory:
        """At this moment."""
        segments = {path for ward in self._wards.values() for path in ward.segments}
        pids: list[int] = []
        if self._kv is not None:
            segments.add(segment_path(self._kv.settings))
            pids += [self._kv.pid] if self._kv.pid is not None else []
        measured = await asyncio.to_thread(
            lambda: node_memory(node, own_of(self._fleet, pids, segments))
        )
        if self._kv is None or not _is_one_memory(measured):
            return measured
        return replace(measured, tier_bytes=self._kv.held_bytes)

    async def keep_kv(
        self, settings: TierSettings, log: str, ports: tuple[int, int] | None
    ) -> KVAttachment:
        """The node's KV server, which may still be starting; ``ports``: where engines know it."""
        if self._kv is not None and self._kv.settings == settings:
            return self._kv.attachment
        if self._kv is not None:
            ports = self._kv.ports
            await self._kv.close()
        self._kv = KVTier(settings, Path(log), ports)
        return self._kv.attachment

    async def kv(self, order: KVOrder, prefix: Prefix, limit_s: float) -> Placed:
        """Of the node's KV server, whose ports are on loopback. Raises EngineError."""
        if self._kv is None:
            raise KeepsNoKV("this node keeps no KV")
        try:
            return await place(self._kv.client, order, prefix, limit_s)
        except TierUnavailable as error:
            raise EngineError(f"the KV tier: {error}") from error

    async def resize_kv(self, to_bytes: int, limit_s: float) -> int:
        """How large the node's KV tier may grow then. Raises EngineError."""
        if self._kv is None:
            raise KeepsNoKV("this node keeps no KV")
        try:
            return await self._kv.resize(to_bytes, limit_s)
        except TierUnavailable as error:
            raise EngineError(f"the KV tier: {error}") from error

    async def prepare(self, mark: str) -> str:
        """The engine's own temporary directory: its sockets are removed with it."""
        directory = _directory(mark)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return str(directory)

    async def watch(self, replica: str, incarnation: int, mark: str, pids: list[int]) -> None:
        """Report the end of any of ``pids`` as the engine's death; may be told more of them."""
        ward = self._wards.setdefault(mark, _Ward(replica, incarnation, mark))
        for pid in pids:
            if pid not in ward.vital:
                self._watch_pid(ward, pid)
        ward.segments.update(await asyncio.to_thread(processes.segments, pids))

    async def deaths_so_far(self) -> int:
        return self._forgotten + len(self._dead)

    async def deaths(self, after: int) -> list[EngineDied]:
        """Those after the first ``after`` deaths, as soon as there is one."""
        while (known := self._dead[max(0, after - self._forgotten) :]) == []:
            self._news.clear()
            await self._news.wait()
        return known

    async def kill(self, mark: str) -> None:
        """All processes of that engine, also one that is stopped; the end of the first is told."""
        ward = self._wards.get(mark)
        for ending in ward.vital.values() if ward is not None else ():
            processes.kill_watched(ending.pidfd)
        await asyncio.to_thread(lambda: processes.kill(processes.marked(mark)))

    async def bury(self, mark: str) -> list[int]:
        """Returns when nothing of that engine is left; the pids that would not die, if any."""
        ward = self._wards.pop(mark, None)
        known = ward.segments if ward is not None else set()
        endings = ward.vital if ward is not None else {}
        for ending in endings.values():
            ending.let_go()
        try:
            pidfds = {pid: ending.pidfd for pid, ending in endings.items()}
            left = await asyncio.to_thread(processes.bury, mark, known, pidfds)
        finally:
            for ending in endings.values():
                ending.close()
        await asyncio.to_thread(processes.remove_tree, _directory(mark))
        await asyncio.to_thread(leavings.sweep)
        return left

    async def marks(self) -> list[str]:
        """Of every engine of this fleet that has a living process here, or is yet to be buried:
        whoever was told of its death may have died, too."""
        living = await asyncio.to_thread(processes.marks, self._fleet)
        return sorted({*living, *self._wards})

    def _watch_pid(self, ward: _Ward, pid: int) -> None:
        try:
            ward.vital[pid] = Ending(pid, partial(self._on_end, ward, pid))
        except ProcessLookupError:
            self._on_end(ward, pid)

    def _on_end(self, ward: _Ward, pid: int) -> None:
        if self._wards.get(ward.mark) is not ward:
            return
        for ending in ward.vital.values():
            processes.kill_watched(ending.pidfd)
            ending.let_go()
        left = processes.marked(ward.mark)
        ward.segments |= processes.segments(left)
        processes.kill(left)
        reason = f"process {pid} of {ward.replica} ended" + self._killed_for_memory()
        self._dead.append(EngineDied(ward.replica, ward.incarnation, reason))
        if len(self._dead) > _KEPT_DEATHS:
            del self._dead[0]
            self._forgotten += 1
        self._news.set()

    def _killed_for_memory(self) -> str:
        """The kernel counts its kills, and does not say whom."""
        before, self._kills = self._kills, kills()
        return ", when the kernel killed for want of memory" if self._kills > before else ""


def _is_one_memory(memory: NodeMemory) -> bool:
    """Nothing is pinned for CUDA there, so what the KV server hands back comes free."""
    return memory.devices == (memory.host,)


def _directory(mark: str) -> Path:
    """Short: sockets lie in it, and a socket's path is at most 107 bytes."""
    return Path(tempfile.gettempdir(), f"engine-{sha256(mark.encode()).hexdigest()[:8]}")
