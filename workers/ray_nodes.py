"""The nodes of a Ray cluster, each with our agent on it.

A node bears the name that Ray has for it, with a piece of its id where another has the same. It
keeps that name for as long as it lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from kv_store.settings import KVAttachment, TierSettings
from workers.arrivals import Arrivals
from workers.capacity import MemoryPolicy
from workers.engine import Endpoint, EngineError, EngineGone
from workers.listening import LOOPBACK
from workers.node_agent import NodeAgent
from workers.pool_values import EngineDied, NodeFound, NodeMemory
from workers.ray_orders import answer, python_path, slug

log = logging.getLogger(__name__)

_AGENT = "agent:"
_BURY_S = 60.0
_KV_GRACE_S = 10.0
_JOIN_S = 60.0
"""A node whose agent does not answer by then is tried again later."""


@dataclass(slots=True)
class Node:
    name: str
    id: str
    """Ray's."""
    agent: Any
    host: str = LOOPBACK
    """Where its engines listen."""
    found: NodeFound | None = None
    """What the agent measured; None until the node has joined."""
    told: int = 0
    """How many of the agent's deaths are known."""
    kv: KVAttachment | None = None
    """Its KV tier; None where the fleet keeps no KV."""
    wards: dict[str, tuple[str, int, list[int]]] = field(default_factory=dict)
    """What the agent watches, by mark: told again to its successor."""


class RayNodes:
    def __init__(
        self,
        namespace: str,
        memory: MemoryPolicy,
        kv: TierSettings | None = None,
        log_dir: Path | None = None,
    ) -> None:
        self._namespace = namespace
        self._kv = kv
        self._log_dir = log_dir or Path()
        self._memory = memory
        self._fleet = ""
        self._nodes: dict[str, Node] = {}
        self._arrivals = Arrivals[Node]()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._nodes)

    def mark(self, replica: str, incarnation: int) -> str:
        return f"{self._fleet}/{replica}/{incarnation}"

    def get(self, name: str) -> Node:
        """Raises EngineGone: whatever ran there is gone with the node."""
        if name not in self._nodes:
            raise EngineGone(f"there is no node {name}")
        return self._nodes[name]

    def reaches(self, name: str, endpoint: Endpoint) -> bool:
        """Not where an engine listens on the loopback of a node that is elsewhere: its controller
        was beside it, and this one is not."""
        node = self._nodes.get(name)
        return node is not None and (endpoint.host != LOOPBACK or node.host == LOOPBACK)

    async def refresh(self, known: Collection[tuple[str, int]] | None = None) -> list[Node]:
        """Forget the nodes that are gone, let those join that are not known, and return those that
        have joined since the last call.

        ``known``: on a node that joins, engines of this fleet that are not among them are buried;
        None: whatever runs there is left alone, and whoever is there is waited for. Otherwise
        nobody is: joining takes its time, and a loss is told at once.
        """
        self._fleet = f"{self._namespace}@{ray.get_runtime_context().gcs_address}"
        names = await self._alive()
        gone = {node.name for node in self._nodes.values() if node.id not in names}
        self._nodes = {name: node for name, node in self._nodes.items() if name not in gone}
        self._arrivals.keep_only(names)
        here = {node.id for node in self._nodes.values()}
        for id_, name in names.items():
            if id_ not in here and id_ not in self._arrivals:
                node = Node(name, id_, None)
                self._arrivals.begin(id_, node, self._joins(node, known))
        if known is None:
            await self._arrivals.all_over()
        joined = self._arrivals.over()
        self._nodes |= {node.name: node for node in joined}
        return joined

    def found(self) -> list[NodeFound]:
        return [node.found for node in self._nodes.values() if node.found is not None]

    async def watch(self, node: Node, replica: str, incarnation: int, pids: list[int]) -> None:
        mark = self.mark(replica, incarnation)
        node.wards[mark] = (replica, incarnation, pids)
        await answer(node.agent.watch.remote(replica, incarnation, mark, pids))

    async def deaths(self, node: Node) -> list[EngineDied]:
        """The next of them. A dead agent is replaced; EngineGone when its node has gone too."""
        try:
            died: list[EngineDied] = await answer(node.agent.deaths.remote(node.told))
        except EngineGone:
            await self._replace_agent(node)
            return []
        node.told += len(died)
        return died

    async def memory(self, limit_s: float) -> list[NodeMemory]:
        """Of the nodes whose agents answer in time."""
        nodes = list(self._nodes.values())
        told = await asyncio.gather(*(self._memory_of(node, limit_s) for node in nodes))
        return [memory for memory in told if memory is not None]

    async def _memory_of(self, node: Node, limit_s: float) -> NodeMemory | None:
        asked = answer(node.agent.memory.remote(node.name))
        try:
            memory: NodeMemory = await asyncio.wait_for(asked, limit_s)
        except (EngineError, RayError, TimeoutError) as error:
            log.warning("memory of node %s is not known: %r", node.name, error)
            return None
        return memory

    async def kv(self, name: str, order: KVOrder, prefix: Prefix, limit_s: float) -> Placed:
        """Raises EngineError: no such node, its tier is away, or it took too long."""
        asked = self.get(name).agent.kv.remote(order, prefix, limit_s)
        try:
            placed: Placed = await asyncio.wait_for(answer(asked), limit_s + _KV_GRACE_S)
        except TimeoutError:
            raise EngineError(f"node {name} did not answer about its KV tier") from None
        return placed

    async def resize_kv(self, name: str, to_bytes: int, limit_s: float) -> int:
        """Raises EngineError likewise."""
        asked = self.get(name).agent.resize_kv.remote(to_bytes, limit_s)
        try:
            held: int = await asyncio.wait_for(answer(asked), limit_s + _KV_GRACE_S)
        except TimeoutError:
            raise EngineError(f"node {name} did not answer about its KV tier") from None
        return held

    async def kill(self, replica: str, incarnation: int, name: str) -> None:
        """Its agent tells of the death, as of any other."""
        await answer(self.get(name).agent.kill.remote(self.mark(replica, incarnation)))

    async def bury(self, replica: str, incarnation: int, name: str | None) -> None:
        """On that node; on all where it is not known. Raises EngineError if anything is left."""
        nodes = [node for node in self._nodes.values() if name in (None, node.name)]
        await asyncio.gather(*(self._bury(node, self.mark(replica, incarnation)) for node in nodes))

    async def bury_all_but(self, known: Collection[tuple[str, int]]) -> None:
        """Processes of engines that nobody knows of any more."""
        for node in list(self._nodes.values()):
            await self._bury_strangers(node, known)

    async def actors(self) -> list[str]:
        return list(await asyncio.to_thread(ray.util.list_named_actors))

    async def find(self, name: str) -> Any:
        """The living actor of that name, or None."""
        # AssertionError: its class went with its job, so it is dead.
        with suppress(ValueError, AssertionError, RayError):
            return await asyncio.to_thread(ray.get_actor, name, self._namespace)
        return None

    async def shut_down(self) -> None:
        self._arrivals.keep_only(())
        for node in self._nodes.values():
            with suppress(RayError):
                await asyncio.to_thread(ray.kill, node.agent)
        self._nodes.clear()

    def forget(self) -> None:
        """Handles of actors are worthless once Ray is let go of."""
        self._arrivals.keep_only(())
        self._nodes.clear()

    async def _joins(self, node: Node, known: Collection[tuple[str, int]] | None) -> bool:
        try:
            async with asyncio.timeout(_JOIN_S):
                await self._attach(node)
                node.host = await asyncio.to_thread(_host_of, node.id)
                if known is not None:
                    await self._bury_strangers(node, known)
                await self._keep_kv(node)
                node.found = await answer(node.agent.measure.remote(node.name, self._memory))
        except (EngineError, RayError, TimeoutError) as error:
            log.warning("node %s cannot join: %r", node.name, error)
            return False
        return True

    async def _bury_strangers(self, node: Node, known: Collection[tuple[str, int]]) -> None:
        """``known`` may grow while the agent is asked; it comes before its engine does."""
        marks: list[str] = await answer(node.agent.marks.remote())
        ours = {self.mark(*engine) for engine in known}
        for mark in marks:
            if mark not in ours:
                await self._bury(node, mark)

    async def _bury(self, node: Node, mark: str) -> None:
        node.wards.pop(mark, None)
        try:
            left = await asyncio.wait_for(self._ask_to_bury(node, mark), _BURY_S)
        except TimeoutError:
            raise EngineError(f"node {node.name} does not answer; is {mark} gone?") from None
        if left:
            raise EngineError(f"processes of {mark} would not die: {left}")

    async def _ask_to_bury(self, node: Node, mark: str) -> list[int]:
        while True:
            agent = node.agent
            try:
                left: list[int] = await answer(agent.bury.remote(mark))
            except EngineGone:
                if not await self._is_alive(node):
                    return []
                if node.agent is agent:
                    await self._attach(node)
            else:
                return left

    async def _replace_agent(self, node: Node) -> None:
        if not await self._is_alive(node):
            raise EngineGone(f"node {node.name} is gone")
        try:
            await self._attach(node)
            for replica, incarnation, pids in list(node.wards.values()):
                await self.watch(node, replica, incarnation, pids)
        except EngineGone as error:
            raise EngineError(f"the agent of node {node.name} ended again: {error}") from error
        await self._keep_kv(node)

    async def _keep_kv(self, node: Node) -> None:
        """One server a node and fleet, by a name of its own: several may share a host. A node
        where that cannot be serves without KV."""
        if self._kv is None:
            return
        name = sha256(f"{self._fleet}/{node.id}".encode()).hexdigest()[:12]
        settings = replace(self._kv, name=name)
        ports = (node.kv.port, node.kv.http_port) if node.kv and node.kv.http_port else None
        path = str(self._log_dir / f"kv-{slug(node.name)}.log")
        try:
            node.kv = await answer(node.agent.keep_kv.remote(settings, path, ports))
        except EngineError as error:
            log.error("node %s keeps no KV: %s", node.name, error)
            node.kv = None

    async def _is_alive(self, node: Node) -> bool:
        return node.id in await self._alive()

    async def _alive(self) -> dict[str, str]:
        """Names by Ray's id. A node that declares no CPUs (``ray start --num-cpus=0``: a cluster's
        head, a controller's own) carries no engines."""
        rows = [row for row in await asyncio.to_thread(ray.nodes) if _carries_engines(row)]
        names = [row["NodeName"] for row in rows]
        fresh = {
            row["NodeID"]: row["NodeName"]
            if names.count(row["NodeName"]) == 1
            else f"{row['NodeName']}-{row['NodeID'][:8]}"
            for row in rows
        }
        known = {node.id: node.name for node in self._nodes.values()}
        return fresh | {id_: name for id_, name in known.items() if id_ in fresh}

    async def _attach(self, node: Node) -> None:
        """To the node's agent, which is started where there is none."""
        options = {
            "name": f"{_AGENT}{node.id}",
            "namespace": self._namespace,
            "get_if_exists": True,
            "lifetime": "detached",
            "max_concurrency": 1000,
            "num_cpus": 0,
            "num_gpus": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
            "runtime_env": {"env_vars": {"PYTHONPATH": python_path()}},
        }
        create = _agent_class().options(**options).remote
        node.agent = await asyncio.to_thread(create, self._fleet)
        node.told = await answer(node.agent.deaths_so_far.remote())


def _host_of(node_id: str) -> str:
    """Tokens go from an engine to its controller by themselves: over loopback where they are on one
    host, else to the address by which Ray knows the engine's node."""
    addresses = {row["NodeID"]: row["NodeManagerAddress"] for row in ray.nodes()}
    here = addresses.get(ray.get_runtime_context().get_node_id())
    there: str = addresses.get(node_id, LOOPBACK)
    return LOOPBACK if there == here else there


def _carries_engines(row: dict[str, Any]) -> bool:
    return bool(row["Alive"] and row["Resources"].get("CPU"))


@cache
def _agent_class() -> Any:
    return ray.remote(NodeAgent)
