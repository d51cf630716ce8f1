"""The Ray actor around one engine. Orders go by RPC; tokens never do.

It is detached and named, so that it survives its controller, and keeps what an adopting one
must know. Orders are carried out one after another: one of a dead controller may still be
running when its successor's first arrives.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from workers.engine import (
    Engine,
    EngineError,
    EngineSpec,
    KVExport,
    Memory,
    Progress,
    Report,
    Rest,
    Started,
)
from workers.pool_values import EngineSeen

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Which engine this is, where it runs and listens, and where it leaves its files."""

    replica: str
    incarnation: int
    node: str
    devices: tuple[str, ...]
    log_path: str
    canary_path: str
    host: str


@dataclass(frozen=True, slots=True)
class Description:
    """``seen`` is None while the engine cannot be adopted: starting, or an order went wrong."""

    seen: EngineSeen | None
    pids: tuple[int, ...]


class EngineActor:
    def __init__(self, place: Place, spec: EngineSpec) -> None:
        _log_to(Path(place.log_path))
        self._place = place
        self._spec = spec
        self._key = secrets.token_urlsafe(32)
        self._one_at_a_time = asyncio.Lock()
        self._engine: Engine | None = None
        self._seen: EngineSeen | None = None
        self._pids: tuple[int, ...] = (os.getpid(),)
        self._is_starting = True

    async def pid(self) -> int:
        return os.getpid()

    async def linger(self) -> None:
        """Never returns: Ray fails the call when the actor dies."""
        await asyncio.get_running_loop().create_future()

    async def describe(self) -> Description:
        """Waits for an order under way; not for a start, which nobody can take over."""
        if self._is_starting:
            return Description(None, self._pids)
        async with self._one_at_a_time:
            return Description(self._seen, self._pids)

    async def start(self) -> Started:
        async with self._one_at_a_time:
            self._engine = await asyncio.to_thread(self._build)
            started = await _in_our_words(self._engine.start)
            self._pids = tuple(dict.fromkeys((os.getpid(), *started.pids)))
            self._seen = EngineSeen(
                replica=self._place.replica,
                model=self._spec.model,
                incarnation=self._place.incarnation,
                rest=None,
                node=self._place.node,
                devices=self._place.devices,
                memory=started.memory,
                endpoint=started.endpoint,
                max_model_len=started.max_model_len,
                spec=self._spec,
                kv_identity=started.kv_identity,
            )
            self._is_starting = False
            return replace(started, pids=self._pids)

    async def sleep(self, rest: Rest, keep: bool = False) -> Report:
        return await self._order(lambda engine: engine.sleep(rest, keep), rest)

    async def wake(self) -> Report:
        return await self._order(lambda engine: engine.wake(), None)

    async def export(self) -> KVExport:
        async with self._one_at_a_time:
            return await _in_our_words(self._running().export)

    async def stop(self) -> None:
        """Not in turn: it ends whatever is under way."""
        self._seen = None
        if self._engine is not None:
            await _in_our_words(self._engine.stop)

    async def progress(self) -> Progress:
        """Not in turn: it is asked while others wait."""
        return await _in_our_words(self._running().progress)

    async def probe(self) -> Memory:
        async with self._one_at_a_time:
            return await _in_our_words(self._running().probe)

    async def _order(
        self, order: Callable[[Engine], Awaitable[Report]], rest: Rest | None
    ) -> Report:
        """What it is like afterwards is known only if the order went well."""
        async with self._one_at_a_time:
            engine = self._running()
            seen, self._seen = self._seen, None
            report = await _in_our_words(lambda: order(engine))
            if seen is not None:
                identity = report.kv_identity if rest is None else seen.kv_identity
                self._seen = replace(seen, rest=rest, memory=report.memory, kv_identity=identity)
            return report

    def _running(self) -> Engine:
        if self._engine is None:
            raise EngineError("the engine was not started")
        return self._engine

    def _build(self) -> Engine:
        if self._spec.kind == "fake":
            from workers.fake_engine import FakeEngine

            return FakeEngine(self._spec, key=self._key, host=self._place.host)
        from workers.vllm_engine import VllmEngine

        canary_path = Path(self._place.canary_path)
        canary_path.parent.mkdir(parents=True, exist_ok=True)
        host = self._place.host
        return VllmEngine(self._spec, key=self._key, canary_path=canary_path, host=host)


async def _in_our_words(order: Callable[[], Awaitable[T]]) -> T:
    """Only errors of ``workers.engine`` leave the actor: the pool may not have vLLM's."""
    try:
        return await order()
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(f"{type(error).__name__}: {error}") from None


def _log_to(path: Path) -> None:
    """This process's output, and its children's, goes to ``path``; the one before is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_suffix(".previous.log"))
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
