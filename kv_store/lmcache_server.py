"""The node's LMCache server as a child process: start, watch, restart, stop.

Ports are chosen once and kept over restarts, because engines know them. When the server dies it
is started again after a pause that doubles up to a bound and is forgotten after a while of health;
engines recompute meanwhile and attach again by themselves. A server that is alive but does not
answer is killed, which is one way to die. Whatever happens to this process, the server goes with
it (``kv_store.server_main``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kv_store.lmcache_client import LMCacheClient, TierUnavailable
from kv_store.server_command import PROGRAM, command, environment, segment_path
from kv_store.settings import S3, Directory, Durable, KVAttachment, Redis, TierSettings

_log = logging.getLogger(__name__)
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    start_limit_s: float = 120.0
    stop_limit_s: float = 10.0
    poll_s: float = 0.1
    health_every_s: float = 2.0
    health_limit_s: float = 2.0
    unanswered: int = 5
    """So many health checks in a row without an answer: it is killed and started again."""
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    forgiven_after_s: float = 60.0


class ServerDidNotStart(RuntimeError):
    """It ended, or did not answer in time; the message has the end of its log."""


class LMCacheServer:
    """``log``: a file that the server's output is appended to. ``on_change`` is told of each
    change between up and down, with a reason. ``program`` is given the server's arguments."""

    def __init__(
        self,
        settings: TierSettings,
        log: Path,
        *,
        ports: tuple[int, int] | None = None,
        policy: WatchPolicy | None = None,
        on_change: Callable[[bool, str], None] = lambda up, why: None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._settings = settings
        self._log_path = log
        self._policy = policy or WatchPolicy()
        self._on_change = on_change
        self._program = program
        self._is_up = False
        self._port, self._http_port = ports or _free_ports(settings.host)
        self._process: Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self.client = LMCacheClient(f"http://{settings.host}:{self._http_port}")
        self.starts = 0

    @property
    def attachment(self) -> KVAttachment:
        """For engines of this node; it stays true over restarts."""
        return KVAttachment(
            self._settings.host,
            self._port,
            http_port=self._http_port,
            durable={name: _called(each) for name, each in self._settings.durables.items()},
            chunk_tokens=self._settings.chunk_tokens,
        )

    @property
    def ports(self) -> tuple[int, int]:
        """Of engines, and of HTTP: for a successor, since engines know them."""
        return self._port, self._http_port

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Returns when it answers. Raises ServerDidNotStart."""
        try:
            await self._launch()
        except ServerDidNotStart:
            await self._end()
            raise
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Returns when neither the process nor its shared memory is left."""
        try:
            if self._watching is not None:
                self._watching.cancel()
                await asyncio.gather(self._watching, return_exceptions=True)
        finally:
            await self._end()
            await self.client.close()

    async def _launch(self) -> None:
        self._is_up = False
        try:
            process = self._process = await self._spawn()
        except OSError as error:
            raise ServerDidNotStart(f"the KV server could not be launched: {error}") from error
        self.starts += 1
        await self._await_health(process)
        self._tell(True, "answers")

    def _tell(self, is_up: bool, why: str) -> None:
        if is_up != self._is_up:
            self._is_up = is_up
            self._on_change(is_up, why)

    async def _spawn(self) -> Process:
        arguments = command(
            self._settings, port=self._port, http_port=self._http_port, program=self._program
        )
        python_path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        told = {"PYTHONPATH": os.pathsep.join(python_path)} | environment(self._settings)
        with self._log_path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *arguments,
                stdin=PIPE,
                stdout=log if log.writable() else DEVNULL,
                stderr=STDOUT,
                env=os.environ | told,
                start_new_session=True,
            )

    async def _await_health(self, process: Process) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._policy.start_limit_s):
                while process.returncode is None:
                    if await self._is_healthy():
                        return
                    await asyncio.sleep(self._policy.poll_s)
        raise ServerDidNotStart(f"the KV server did not start: {self._said()}")

    async def _watch(self) -> None:
        pause_s, why_not = self._policy.first_pause_s, ""
        while True:
            lived_s, why = 0.0, why_not
            if self._process is not None:
                lived_s, why = await self._life(self._process)
            self._tell(False, why)
            _log.warning("KV server: %s; starting it again in %.1f s", why, pause_s)
            if lived_s > self._policy.forgiven_after_s:
                pause_s = self._policy.first_pause_s
            await self._end()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._policy.longest_pause_s)
            try:
                await self._launch()
            except ServerDidNotStart as error:
                why_not = str(error)

    async def _life(self, process: Process) -> tuple[float, str]:
        """Until it has died, or has left too many health checks unanswered. It may still be on its
        way up: its first answer says that it has come."""
        loop, unanswered = asyncio.get_running_loop(), 0
        born = loop.time()
        while unanswered < self._policy.unanswered:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self._policy.health_every_s)
                return loop.time() - born, f"ended with {process.returncode}"
            if await self._is_healthy():
                unanswered = 0
                self._tell(True, "answers")
            else:
                unanswered += 1
        return loop.time() - born, f"{unanswered} health checks without an answer"

    async def _is_healthy(self) -> bool:
        try:
            return await self.client.is_healthy(limit_s=self._policy.health_limit_s)
        except TierUnavailable:
            return False

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await self._kill(process)
        try:
            segment_path(self._settings).unlink(missing_ok=True)
        except OSError as error:
            _log.error("shared memory of the KV server is left: %s", error)

    async def _kill(self, process: Process) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                process.send_signal(number)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self._policy.stop_limit_s)
                return

    def _said(self) -> str:
        with suppress(OSError):
            return self._log_path.read_text(errors="replace")[-2000:]
        return "its log cannot be read"


def _called(durable: Durable) -> str:
    match durable:
        case Redis():
            return "redis"
        case S3():
            return "s3"
        case Directory():
            return "disk"


def _free_ports(host: str) -> tuple[int, int]:
    """Two that are free; nobody holds them until the server binds them."""
    with socket.socket() as one, socket.socket() as other:
        one.bind((host, 0))
        other.bind((host, 0))
        return one.getsockname()[1], other.getsockname()[1]
