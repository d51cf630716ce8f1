"""An engine without a model: answers by rule, takes the delays it is handed, breaks on order.

It stands for ``VllmEngine`` wherever the model does not matter. ``engine_args`` are its own
(``FakeArgs``); unknown ones fail the start, as vLLM's would. Faults are lists by order, used up
one at a time: ``{"wake": ["fail", "ok", "die"]}`` fails the first wake and dies in the third.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import uvicorn

from workers.engine import (
    CanaryMismatch,
    Endpoint,
    EngineError,
    EngineSpec,
    KVExport,
    Memory,
    OutOfMemory,
    Progress,
    Report,
    Rest,
    Started,
    StartFailed,
)
from workers.fake_server import Counts, FakeApp, Voice
from workers.fake_tier import FakeKV, FakeTier
from workers.listening import LOOPBACK, listen


@dataclass(frozen=True, slots=True)
class FakeArgs:
    """What a fake engine can be told."""

    start_s: float = 0.0
    export_s: float = 0.0
    sleep_s: float = 0.0
    wake_s: float = 0.0
    stop_s: float = 0.0
    token_delay_s: float = 0.0
    device_bytes: int = 1_000_000_000
    """Awake. ``kv_bytes`` of it come free at every rest, all but ``residual_bytes`` below."""
    kv_bytes: int = 400_000_000
    residual_bytes: int = 50_000_000
    host_bytes: int = 0
    """Held on the host at level 1."""
    max_model_len: int = 4096
    hang_asleep: bool = True
    children: int = 0
    """Processes of its own, as vLLM's core and workers; the engine dies with any of them."""
    shm_bytes: int = 0
    """Two shared-memory segments of this size, left behind unless stopped in order: one that bears
    the name of its process, as torch's do, and one that only Python's tracker knows, as vLLM's."""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """By order (start, export, sleep, wake, stop, request): fail, oom, hang, canary, die, drop or
    ok; of a request also stall: from its second token on the whole engine takes no step."""


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FakeEngine:
    """One engine, in this process. ``die``: how it dies when told to; by default, at once.
    ``tier``: of its node; by default one of its own."""

    def __init__(
        self,
        spec: EngineSpec,
        *,
        key: str,
        die: Callable[[], None] = _kill_this_process,
        tier: FakeTier | None = None,
        host: str = LOOPBACK,
    ) -> None:
        self._host = host
        self._spec = spec
        self._key = key
        self._die = die
        self._args = FakeArgs()
        self._rest: Rest | None = None
        self._faults: dict[str, list[str]] = {}
        self._voice = Voice(spec.model, key, 0, 0.0, True, self._next_request_fault, die)
        self._voice.kv = FakeKV(tier or FakeTier(), spec.path) if spec.keeps_kv else None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._segment: Path | None = None
        self._tracked: SharedMemory | None = None

    @property
    def counts(self) -> Counts:
        return self._voice.counts

    async def start(self) -> Started:
        self._args = _parsed(self._spec)
        self._faults = {order: list(todo) for order, todo in self._args.faults.items()}
        self._spawn()
        began = time.monotonic()
        async with self._order("start", self._args.start_s):
            port = await self._listen()
        phases_s = {"load": time.monotonic() - began, "canary": 0.0}
        return Started(
            memory=self._memory(),
            phases_s=phases_s,
            endpoint=Endpoint(self._host, port, self._key),
            max_model_len=self._args.max_model_len,
            pids=(os.getpid(), *(child.pid for child in self._children)),
            kv_identity=self._kv_identity(),
        )

    async def sleep(self, rest: Rest, keep: bool = False) -> Report:
        """What runs says nothing more, whether it was told to ``keep`` it or not."""
        before = self._memory()
        began = time.monotonic()
        async with self._order("sleep", self._args.sleep_s):
            self._voice.awake.clear()
            self._rest = rest
        after = self._memory()
        freed = {"kv": before.device_bytes - after.device_bytes, "remained": after.device_bytes}
        return Report(after, {rest.value: time.monotonic() - began}, freed)

    async def wake(self) -> Report:
        began = time.monotonic()
        async with self._order("wake", self._args.wake_s):
            self._rest = None
            self._voice.awake.set()
        phases_s = {"weights": time.monotonic() - began, "canary": 0.0}
        return Report(self._memory(), phases_s, kv_identity=self._kv_identity())

    async def export(self) -> KVExport:
        began = time.monotonic()
        async with self._order("export", self._args.export_s):
            return KVExport(1, 1, 0, self._args.kv_bytes, time.monotonic() - began)

    async def stop(self) -> None:
        async with self._order("stop", self._args.stop_s):
            await self.close()

    async def progress(self) -> Progress:
        voice = self._voice
        return Progress(voice.counts.steps, voice.counts.running, voice.token_delay_s)

    async def probe(self) -> Memory:
        return self._memory()

    async def close(self) -> None:
        """Stop without ceremony: nothing of this engine is left in this process."""
        if self._server is not None and self._serving is not None:
            self._server.hang_up()
            await asyncio.wait({self._serving})
        for child in self._children:
            child.kill()
            child.wait()
        if self._segment is not None:
            self._segment.unlink(missing_ok=True)
        if self._tracked is not None:
            self._tracked.unlink()
            self._tracked = None

    @asynccontextmanager
    async def _order(self, order: str, takes_s: float) -> AsyncIterator[None]:
        """The order takes its time, then goes wrong if that is what was asked for."""
        await asyncio.sleep(takes_s)
        match self._next_fault(order):
            case "fail" if order == "start":
                raise StartFailed("The fake engine was told not to start.")
            case "fail":
                raise EngineError(f"The fake engine was told to fail: {order}.")
            case "oom":
                raise OutOfMemory("The fake engine was told to run out of memory.")
            case "canary":
                raise CanaryMismatch("The fake engine was told to answer otherwise.")
            case "hang":
                await asyncio.get_running_loop().create_future()
            case "die":
                self._die()
                await asyncio.get_running_loop().create_future()
        yield

    def _next_fault(self, order: str) -> str | None:
        todo = self._faults.get(order)
        return todo.pop(0) if todo else None

    def _next_request_fault(self) -> str | None:
        return self._next_fault("request")

    def _kv_identity(self) -> str:
        return f"fake {self._spec.model}" if self._spec.keeps_kv else ""

    def _memory(self) -> Memory:
        args = self._args
        match self._rest:
            case None:
                return Memory(args.device_bytes, 0)
            case Rest.KV_RELEASED:
                return Memory(args.device_bytes - args.kv_bytes, 0)
            case Rest.LEVEL_1:
                return Memory(args.residual_bytes, args.host_bytes)
            case Rest.LEVEL_2:
                return Memory(args.residual_bytes, 0)

    def _spawn(self) -> None:
        for _ in range(self._args.children):
            child = subprocess.Popen(["sleep", "infinity"], stdin=subprocess.DEVNULL)
            self._children.append(child)
        if self._args.shm_bytes:
            self._segment = Path(f"/dev/shm/torch_{os.getpid()}_{id(self):x}")  # noqa: S108
            self._segment.write_bytes(bytes(self._args.shm_bytes))
            name = f"fake-torch-{os.getpid()}-{id(self):x}"
            self._tracked = SharedMemory(name, create=True, size=self._args.shm_bytes)
            self._tracked.close()

    async def _listen(self) -> int:
        self._voice.max_model_len = self._args.max_model_len
        self._voice.token_delay_s = self._args.token_delay_s
        self._voice.hang_asleep = self._args.hang_asleep
        self._voice.awake.set()
        listening = listen(self._host)
        config = uvicorn.Config(
            FakeApp(self._voice), lifespan="off", log_level="critical", access_log=False
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        port: int = listening.getsockname()[1]
        return port


class _Server(uvicorn.Server):
    """Leaves the signals of the process alone."""

    def hang_up(self) -> None:
        self.should_exit = True
        self.force_exit = True
        for listening in getattr(self, "servers", ()):
            listening.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _parsed(spec: EngineSpec) -> FakeArgs:
    unknown = set(spec.engine_args) - {known.name for known in fields(FakeArgs)}
    if unknown:
        raise StartFailed(f"unknown engine arguments: {', '.join(sorted(unknown))}")
    return FakeArgs(**spec.engine_args)
