"""The Pool port on Ray: an actor for each engine, an agent for each node.

The pool joins a Ray that somebody else started and lets go of it at ``close``: actors are
detached and go on. Deaths come from two sides, first come first told: the agent of the node sees
the end of a process within milliseconds, and Ray sees the end of the actor or of its node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from kv_store.settings import TierSettings
from workers import ray_groups
from workers.actor import Description, Place
from workers.capacity import MemoryPolicy
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
from workers.pool_values import EngineDied, EngineSeen, NodeFound, NodeMemory, OrderLimits
from workers.ray_join import join
from workers.ray_nodes import Node, RayNodes
from workers.ray_orders import (
    PREFIX,
    Strategy,
    actor_name,
    actor_options,
    answer,
    engine_class,
    parse_name,
    slug,
)
from workers.register import Register

T = TypeVar("T")
log = logging.getLogger(__name__)


_MEMORY_LIMIT_S = 10.0


class RayPool:
    """``state_dir`` holds canaries, and logs unless ``log_dir`` does, on each node;
    ``environment`` is what Ray needs to join (``RayHead.environment``) and is put into this
    process's environment by ``open``; every ``look_s`` seconds Ray is asked for its nodes, and
    every ``memory_s`` (None: never) the nodes for what their memory is used for. ``kv``:
    the KV server of each node (its ``name`` is the pool's to give)."""

    def __init__(
        self,
        address: str,
        *,
        state_dir: Path,
        log_dir: Path | None = None,
        environment: dict[str, str] | None = None,
        namespace: str = "torpor",
        limits: OrderLimits | None = None,
        memory: MemoryPolicy | None = None,
        kv: TierSettings | None = None,
        look_s: float = 2.0,
        memory_s: float | None = None,
    ) -> None:
        self._address = address
        self._state_dir = state_dir
        self._log_dir = log_dir or state_dir / "logs"
        self._look_s = look_s
        self._memory_s = memory_s
        self._environment = environment or {}
        self._namespace = namespace
        self._limits = limits or OrderLimits()
        self._register = Register()
        self._nodes = RayNodes(namespace, memory or MemoryPolicy(), kv, self._log_dir)
        self._actors: dict[tuple[str, int], Any] = {}
        self._places: dict[tuple[str, int], str] = {}
        self._creating: dict[tuple[str, int], asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._register = Register()
        await asyncio.to_thread(join, self._address, self._namespace, self._environment)
        await self._look()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._register.close()
        self._actors.clear()
        self._places.clear()
        self._nodes.forget()
        await asyncio.to_thread(ray.shutdown)

    async def stop_engines(self) -> None:
        """Every one of them, known or not."""
        found = [engine for name in await self._nodes.actors() if (engine := parse_name(name))]
        await asyncio.gather(*(self.stop(*engine) for engine in found))
        await self._nodes.bury_all_but(())
        await ray_groups.remove_all_but((), PREFIX)

    async def shut_down(self) -> None:
        """The fleet's end in a Ray of somebody else: neither engine nor agent stays behind."""
        await self.stop_engines()
        await self._nodes.shut_down()

    async def nodes(self) -> list[NodeFound]:
        await self._look()
        return self._nodes.found()

    async def watch_nodes(self) -> AsyncIterator[list[NodeFound]]:
        """Ray tells nobody: it is asked every ``look_s``."""
        told = self._nodes.found()
        yield told
        while True:
            await asyncio.sleep(self._look_s)
            await self._look(self._places.keys())
            if (found := self._nodes.found()) != told:
                told = found
                yield told

    async def watch_memory(self) -> AsyncIterator[list[NodeMemory]]:
        """Agents are asked every ``memory_s``."""
        while self._memory_s is not None:
            yield await self._nodes.memory(_MEMORY_LIMIT_S)
            await asyncio.sleep(self._memory_s)

    async def discover(self) -> list[EngineSeen]:
        """What cannot be adopted is buried: starting, out of reach, or an order went wrong."""
        found = [engine for name in await self._nodes.actors() if (engine := parse_name(name))]
        seen = await asyncio.gather(*(self._adopt(*engine) for engine in found))
        adopted = [engine for engine in seen if engine is not None]
        known = {(engine.replica, engine.incarnation) for engine in adopted}
        await self._nodes.bury_all_but(known)
        await ray_groups.remove_all_but({actor_name(*engine) for engine in known}, PREFIX)
        return adopted

    async def start(
        self, replica: str, incarnation: int, spec: EngineSpec, node: str, devices: tuple[str, ...]
    ) -> Started:
        self._register.enter(replica, incarnation)
        self._places[replica, incarnation] = node
        order = self._start(replica, incarnation, spec, node, devices)
        return await self._register.carried_out(replica, order, self._limits.start_s)

    async def sleep(self, replica: str, rest: Rest, keep: bool = False) -> Report:
        order: Coroutine[Any, Any, Report] = self._order(replica, "sleep", rest, keep)
        return await self._register.carried_out(replica, order, self._limits.sleep_s)

    async def export(self, replica: str) -> KVExport:
        order: Coroutine[Any, Any, KVExport] = self._order(replica, "export")
        return await self._register.carried_out(replica, order, self._limits.export_s)

    async def kv(self, node: str, order: KVOrder, prefix: Prefix, limit_s: float) -> Placed:
        return await self._nodes.kv(node, order, prefix, limit_s)

    async def resize_kv(self, node: str, to_bytes: int, limit_s: float) -> int:
        return await self._nodes.resize_kv(node, to_bytes, limit_s)

    async def wake(self, replica: str) -> Report:
        order: Coroutine[Any, Any, Report] = self._order(replica, "wake")
        return await self._register.carried_out(replica, order, self._limits.wake_s)

    async def progress(self, replica: str) -> Progress:
        told: Progress = await self._order(replica, "progress")
        return told

    async def kill(self, replica: str, incarnation: int) -> None:
        node = self._places.get((replica, incarnation))
        if node is not None:
            await self._nodes.kill(replica, incarnation, node)

    async def stop(self, replica: str, incarnation: int) -> None:
        """Raises EngineError only if a process would not die, or its living node has no agent."""
        self._register.leave(replica, incarnation)
        self._actors.pop((replica, incarnation), None)
        if (creating := self._creating.get((replica, incarnation))) is not None:
            await asyncio.wait({creating})
        actor = await self._nodes.find(actor_name(replica, incarnation))
        if actor is not None:
            with suppress(EngineError, TimeoutError):
                await asyncio.wait_for(answer(actor.stop.remote()), self._limits.stop_s)
        node = self._places.pop((replica, incarnation), None)
        try:
            await self._nodes.bury(replica, incarnation, node)
        finally:
            # Not before: Ray also kills the children, and what they shared would stay.
            if actor is not None:
                with suppress(RayError):
                    await asyncio.to_thread(ray.kill, actor)
            await ray_groups.remove(actor_name(replica, incarnation))

    async def deaths(self) -> AsyncIterator[EngineDied]:
        async for died in self._register.deaths():
            yield died

    async def _start(
        self, replica: str, incarnation: int, spec: EngineSpec, node: str, devices: tuple[str, ...]
    ) -> Started:
        mark = self._nodes.mark(replica, incarnation)
        where = self._nodes.get(node)
        if spec.keeps_kv:
            spec = replace(spec, kv=where.kv)
        tmp_dir: str = await answer(where.agent.prepare.remote(mark))
        place = self._place(replica, incarnation, spec, where, devices)
        strategy = await self._strategy(place, spec.ranks, where)
        options = actor_options(place, spec, mark=mark, tmp_dir=tmp_dir, where=strategy)
        actor = await self._create(place, spec, options)
        pid: int = await answer(actor.pid.remote())
        await self._nodes.watch(where, replica, incarnation, [pid])
        self._spawn(self._linger(replica, incarnation, actor))
        started: Started = await answer(actor.start.remote())
        await self._nodes.watch(where, replica, incarnation, list(started.pids))
        return started

    async def _strategy(self, place: Place, ranks: int, node: Node) -> Strategy:
        """Raises StartFailed where a tensor-parallel engine has no place in time."""
        if len(place.devices) == ranks == 1:
            return NodeAffinitySchedulingStrategy(node.id, soft=False)
        name = actor_name(place.replica, place.incarnation)
        create = partial(ray_groups.create, name, node.id, place.devices, ranks)
        group = await self._made(place, create)
        await ray_groups.await_place(group, self._limits.place_s)
        return PlacementGroupSchedulingStrategy(group)

    async def _create(self, place: Place, spec: EngineSpec, options: dict[str, Any]) -> Any:
        create = engine_class().options(namespace=self._namespace, **options).remote
        actor = await self._made(place, partial(create, place, spec))
        self._actors[place.replica, place.incarnation] = actor
        return actor

    async def _made(self, place: Place, make: Callable[[], T]) -> T:
        """Goes on when it is cancelled: a stop waits for what was made, to remove it."""
        engine = (place.replica, place.incarnation)
        making = asyncio.ensure_future(asyncio.to_thread(make))
        making.add_done_callback(lambda _: self._creating.pop(engine, None))
        self._creating[engine] = making
        return await asyncio.shield(making)

    async def _order(self, replica: str, order: str, *arguments: object) -> Any:
        actor = self._actors.get((replica, self._register.incarnation(replica)))
        if actor is None:
            raise EngineGone(f"{replica} is not running")
        return await answer(getattr(actor, order).remote(*arguments))

    async def _adopt(self, replica: str, incarnation: int) -> EngineSeen | None:
        actor = await self._nodes.find(actor_name(replica, incarnation))
        description = Description(None, ())
        if actor is not None:
            with suppress(EngineError, TimeoutError):
                description = await asyncio.wait_for(
                    answer(actor.describe.remote()), self._limits.adopt_s
                )
        seen = description.seen
        if seen is None or not self._nodes.reaches(seen.node, seen.endpoint):
            await self.stop(replica, incarnation)
            return None
        self._register.enter(replica, incarnation)
        self._places[replica, incarnation] = seen.node
        self._actors[replica, incarnation] = actor
        node = self._nodes.get(seen.node)
        await self._nodes.watch(node, replica, incarnation, list(description.pids))
        self._spawn(self._linger(replica, incarnation, actor))
        return seen

    async def _linger(self, replica: str, incarnation: int, actor: Any) -> None:
        """Ray's own word on the end of an actor."""
        try:
            await answer(actor.linger.remote())
        except EngineError as error:
            self._register.died(replica, incarnation, f"{replica}: {error}")

    async def _listen(self, node: Node) -> None:
        """The agent's word on the end of a process, for as long as the node lives."""
        while True:
            try:
                for died in await self._nodes.deaths(node):
                    self._register.died(died.replica, died.incarnation, died.reason)
            except EngineGone:
                return
            except (EngineError, RayError) as error:
                log.warning("node %s cannot be listened to: %s", node.name, error)
                await asyncio.sleep(self._look_s)

    async def _look(self, known: Collection[tuple[str, int]] | None = None) -> None:
        for node in await self._nodes.refresh(known):
            self._spawn(self._listen(node))
        for engine, name in list(self._places.items()):
            if name not in self._nodes.names:
                del self._places[engine]
                self._actors.pop(engine, None)
                await ray_groups.remove(actor_name(*engine))

    def _place(
        self, replica: str, incarnation: int, spec: EngineSpec, node: Node, devices: tuple[str, ...]
    ) -> Place:
        log_path = self._log_dir / f"{slug(replica)}.log"
        canary_path = self._state_dir / "canaries" / f"{slug(spec.model)}.json"
        files = (str(log_path), str(canary_path))
        return Place(replica, incarnation, node.name, devices, *files, host=node.host)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
