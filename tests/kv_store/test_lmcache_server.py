"""The server as a child: it comes back, on the same ports, and never outlives its parent."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from kv_store.lmcache_client import LMCacheClient, TierUnavailable
from kv_store.lmcache_server import LMCacheServer, ServerDidNotStart
from kv_store.placing import KVOrder, place
from kv_store.server_command import segment_path
from kv_store.settings import MIB, Directory, TierSettings
from tests.kv_store.conftest import QUICK, Tier, free_port, serving
from tests.kv_store.hand import Hand, tokens
from tests.kv_store.pressed_fleet import ENGINES, TIER_BYTES, pressed_fleet
from tests.workers.stand import eventually
from workers.host_memory import file_bytes
from workers.kv_tier import KVTier
from workers.node_agent import NodeAgent

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
LIMIT_S = 10.0
_UNLIMITED = resource.RLIM_INFINITY
BOUND_BYTES = 40 * 32 * 1024


def settings(directory: Path, **changes: object) -> TierSettings:
    name = f"t-{uuid.uuid4().hex[:8]}"
    return TierSettings(name, 64 * MIB, Directory(directory, BOUND_BYTES), **changes)  # type: ignore[arg-type]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tier(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tier]:
    """With a destination for whoever is called so. Its own directory holds more than it may, and a
    draft that nobody writes any more."""
    directory = tmp_path_factory.mktemp("tier")
    folder = directory / "durable" / "m@0123"
    folder.mkdir(parents=True)
    for number in range(60):
        (folder / f"{number:04x}.kv").write_bytes(bytes(32 * 1024))
    draft = folder / "ffff.kv.0.tmp"
    draft.write_bytes(bytes(10))
    for old in folder.iterdir():
        os.utime(old, (0, 0))
    elsewhere = {"acme": Directory(directory / "acme", BOUND_BYTES)}
    told = settings(directory / "durable", destinations=elsewhere)
    async for running in serving(told, directory / "server.log"):
        yield running


@pytest.fixture
def durable(tier: Tier) -> Path:
    assert isinstance(tier.settings.durable, Directory)
    return tier.settings.durable.path


def used_bytes(directory: Path) -> int:
    """What goes while it is counted does not count."""
    sizes = []
    for file in directory.glob("*/*"):
        with suppress(FileNotFoundError):
            sizes.append(file.stat().st_size)
    return sum(sizes)


def found(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern))


async def test_the_directory_is_bounded_from_the_start(durable: Path) -> None:
    await eventually(lambda: used_bytes(durable) <= BOUND_BYTES)
    await eventually(lambda: not found(durable, "*/*.tmp"))


def files(tier: Tier, model: str) -> tuple[int, int]:
    """Of a model's chunks, so many in the fleet's own directory, and in the other one."""
    own, acme = tier.settings.durables.values()
    assert isinstance(own, Directory)
    assert isinstance(acme, Directory)
    return len(list(own.path.glob(f"{model}@*/*"))), len(list(acme.path.glob(f"{model}@*/*")))


async def test_kv_goes_where_its_salt_says_and_nowhere_else(tier: Tier) -> None:
    client, hand, turn = tier.server.client, tier.hand("going"), tokens(3, seed=77)
    stored = {salt: hand.store(turn, salt=salt) for salt in ("s", "s~acme", "s~gone")}
    prefixes = [hand.prefix(turn, salt=salt) for salt in stored]
    own, acme, gone = prefixes

    assert [
        (await place(client, KVOrder.HIBERNATE, each, LIMIT_S)).in_host for each in prefixes[:2]
    ] == [0, 0]
    nowhere = await client.export(gone, limit_s=LIMIT_S)

    assert (nowhere.written, nowhere.failed) == (0, 3), "a destination that nobody was told of"
    assert files(tier, "going") == (3, 3)
    for prefix in (own, acme):
        assert (await client.verify(prefix, limit_s=LIMIT_S)).sound == 3
    recalled = await client.recall(acme, limit_s=LIMIT_S)
    assert recalled.found == 3
    assert hand.load(turn, salt="s~acme") == stored["s~acme"]
    assert hand.load(turn, salt="s") == stored["s"], "as a request fetches it by itself"
    assert (await client.delete(acme, limit_s=LIMIT_S)).left == 0
    assert files(tier, "going") == (3, 0)
    assert hand.lookup(turn, salt="s~acme", request="asked") == 0
    assert hand.lookup(turn, salt="s") == 3
    assert (await client.delete(own, limit_s=LIMIT_S)).left == 0
    assert files(tier, "going") == (0, 0)


async def stored_for_good(tier: Tier, model: str) -> tuple[Hand, list[int]]:
    hand, turn = tier.hand(model), tokens(3, seed=1)
    hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    return hand, turn


async def test_a_server_that_dies_and_cannot_be_launched_for_a_while_is_started_again(
    tier: Tier, caplog: pytest.LogCaptureFixture
) -> None:
    hand, turn = await stored_for_good(tier, "dying")
    before, starts = tier.server.attachment, tier.server.starts
    tier.log.rename(tier.log.with_name("earlier.log"))
    tier.log.mkdir()
    assert tier.server.pid is not None

    os.kill(tier.server.pid, signal.SIGKILL)
    await eventually(lambda: "could not be launched" in caplog.text)
    tier.log.rmdir()
    await tier.healthy_again(starts)

    assert tier.server.attachment == before, "engines know the port"
    assert tier.hand(hand.model).lookup(turn) == 3, "and what was durable is found again"


async def test_a_server_that_hangs_is_started_again(tier: Tier) -> None:
    hand, turn = await stored_for_good(tier, "hanging")
    before, starts = tier.server.attachment, tier.server.starts
    assert tier.server.pid is not None

    os.kill(tier.server.pid, signal.SIGSTOP)
    await tier.healthy_again(starts)

    assert tier.server.attachment == before
    assert tier.hand(hand.model).lookup(turn) == 3


async def test_a_directory_stays_within_its_bound(tier: Tier, durable: Path) -> None:
    hand = tier.hand("growing")
    for seed in range(3):
        hand.store(tokens(30, seed=100 + seed))
        await tier.server.client.export(hand.prefix(tokens(30, seed=100 + seed)), limit_s=LIMIT_S)
    await eventually(lambda: used_bytes(durable) <= BOUND_BYTES)

    assert used_bytes(durable) > BOUND_BYTES / 2
    assert not found(durable, "dying@*/*"), "the longest unused went first"


async def test_a_disk_that_is_full_fails_the_export_and_nothing_else(
    tier: Tier, durable: Path
) -> None:
    """The kernel ends each file of the server's in the middle of a chunk."""
    hand, turn = tier.hand("full"), tokens(3, seed=5)
    assert tier.server.pid is not None
    before = resource.prlimit(tier.server.pid, resource.RLIMIT_FSIZE, (16 * 1024, _UNLIMITED))
    hand.store(turn)

    full = await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)

    assert (full.written, full.already, full.failed) == (0, 0, 3)
    assert hand.lookup(turn) == 3, "the host tier serves on"
    assert not found(durable, "*/*.tmp")
    resource.prlimit(tier.server.pid, resource.RLIMIT_FSIZE, before)
    mended = await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    assert (mended.written, mended.is_complete) == (3, True)


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    broken = settings(tmp_path / "file" / "durable")

    server = LMCacheServer(broken, tmp_path / "server.log", policy=QUICK)
    with pytest.raises(ServerDidNotStart, match="NotADirectory"):
        await server.start()

    assert not segment_path(broken).exists()
    await server.client.close()


async def test_a_server_is_stopped_whatever_became_of_its_watch(tmp_path: Path) -> None:
    told: list[str] = []

    def refuse(up: bool, why: str) -> None:
        told.append(why)
        if not up:
            raise RuntimeError("a fault in who is told")

    at = settings(tmp_path / "durable")
    server = LMCacheServer(at, tmp_path / "server.log", policy=QUICK, on_change=refuse)
    await server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await eventually(lambda: len(told) == 2)

    await server.stop()

    assert not segment_path(at).exists()


async def test_a_server_that_comes_after_its_start_limit_is_told_to_be_up(tmp_path: Path) -> None:
    health, told = LateHealth(), list[bool]()
    listener = await asyncio.start_server(health.answer, "127.0.0.1", 0)

    def hear(is_up: bool, why: str) -> None:
        told.append(is_up)
        health.refusals = 0 if is_up else 1

    server = LMCacheServer(
        settings(tmp_path / "durable"),
        tmp_path / "server.log",
        ports=(free_port(), listener.sockets[0].getsockname()[1]),
        policy=replace(QUICK, start_limit_s=0.5, poll_s=60, unanswered=1000),
        on_change=hear,
        program=(sys.executable, "-c", "import sys; sys.stdin.read()"),
    )
    async with listener:
        await tried_until_it_starts(server)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: len(told) == 3)
        await server.stop()
    assert (told, health.refused) == ([True, False, True], 1)


class LateHealth:
    """Answers for a server that does nothing, and says of it ``refusals`` times that it is not
    well."""

    def __init__(self) -> None:
        self.refusals = self.refused = 0

    async def answer(self, hears: asyncio.StreamReader, says: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await hears.readuntil(b"\r\n\r\n"):
                status = b"healthy"
                if self.refusals:
                    self.refusals, self.refused = self.refusals - 1, self.refused + 1
                    status = b"starting"
                body = b'{"status": "%s"}' % status
                says.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        says.close()


async def tried_until_it_starts(server: LMCacheServer) -> None:
    """Its limit is short, and the machine may be slow."""
    for _ in range(100):
        with suppress(ServerDidNotStart):
            return await server.start()
    raise AssertionError("it never started")


async def test_a_tier_that_cannot_be_launched_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "server.log").mkdir()

    tier = KVTier(settings(tmp_path / "durable"), tmp_path / "server.log", pause_s=0.01)

    await eventually(lambda: caplog.text.count("could not be launched") > 1)
    await tier.close()


async def test_the_server_dies_with_its_parent(tmp_path: Path) -> None:
    told = settings(tmp_path / "durable")
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, told.name, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    child = int(json.loads(await parent.stdout.readline())["pid"])
    assert psutil.pid_exists(child)
    assert segment_path(told).exists()

    parent.kill()
    await parent.wait()

    await eventually(lambda: not psutil.pid_exists(child), timeout_s=30)
    assert not segment_path(told).exists()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeAgent]:
    """With a KV server in its care, whose directory keeps all."""
    directory = tmp_path_factory.mktemp("agent")
    told = TierSettings(f"t-{uuid.uuid4().hex[:8]}", TIER_BYTES, Directory(directory / "durable"))
    agent = NodeAgent("fleet")
    await agent.keep_kv(told, str(directory / "server.log"), None)
    assert agent._kv is not None
    await agent._kv.started()
    yield agent
    await agent._kv.close()
    assert not segment_path(told).exists()


async def test_a_live_fleets_tier_shrinks_before_its_engines_sleep_and_has_it_back(
    agent: NodeAgent, tmp_path: Path
) -> None:
    """Others take 34 MiB more than there are free; both engines go on answering."""
    assert agent._kv is not None
    hand, segment = Hand(agent._kv.attachment, "pressed"), segment_path(agent._kv.settings)
    turns = [tokens(160, seed=500 + number) for number in range(8)]
    stored = [hand.store(turn) for turn in turns]
    assert file_bytes([segment]) >= 40 * MIB
    async with pressed_fleet(tmp_path, agent) as fleet:
        assert [(await fleet.ask(name)).status_code for name in ENGINES] == [200, 200]
        await fleet.pool.others_hold(0)
        await fleet.until_tier_holds(lambda size: size == TIER_BYTES)
        asked = [asyncio.create_task(fleet.ask(name, tokens=100)) for name in ENGINES]

        await fleet.pool.others_hold(70 * MIB)
        held = await fleet.until_tier_holds(lambda size: size < TIER_BYTES)

        assert 16 * MIB <= held <= TIER_BYTES - 34 * MIB
        assert file_bytes([segment]) <= held, "the system has it"
        assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]
        assert hand.load(turns[0]) == stored[0], "what was evicted comes from the directory"
        assert file_bytes([segment]) <= held

        await fleet.pool.others_hold(0)
        await fleet.until_tier_holds(lambda size: size == TIER_BYTES)
        assert (await agent.memory("n")).tier_bytes == TIER_BYTES
    hand.close()


async def test_a_tier_comes_up_by_itself_and_is_one(agent: NodeAgent, tmp_path: Path) -> None:
    assert agent._kv is not None
    told, log, attachment = agent._kv.settings, tmp_path / "server.log", agent._kv.attachment

    assert await agent.keep_kv(told, str(log), None) == attachment
    assert agent._kv.held_bytes == told.host_bytes
    client = LMCacheClient(f"http://{attachment.host}:{attachment.http_port}")
    assert await client.is_healthy()
    assert (await agent.memory("n")).tier_bytes == told.host_bytes
    assert await agent.resize_kv(16 * MIB, LIMIT_S) == 16 * MIB
    assert (await agent.memory("n")).tier_bytes == 16 * MIB

    other = await agent.keep_kv(replace(told, host_bytes=2 * told.host_bytes), str(log), None)

    assert other == attachment, "engines know it there"
    await agent._kv.started()
    assert await client.is_healthy()
    assert (await agent.memory("n")).tier_bytes == 2 * told.host_bytes, "a server of its own"
    await client.close()


async def test_an_absent_server_is_unavailable() -> None:
    client = LMCacheClient("http://127.0.0.1:1", limit_s=1)
    with pytest.raises(TierUnavailable):
        await client.status()
    await client.close()


PARENT = """
import asyncio, json, sys
from pathlib import Path
from kv_store.lmcache_server import LMCacheServer
from kv_store.settings import MIB, Directory, TierSettings

async def main():
    name, directory = sys.argv[1], Path(sys.argv[2])
    told = TierSettings(name, 64 * MIB, Directory(directory / "durable"))
    server = LMCacheServer(told, directory / "server.log")
    await server.start()
    print(json.dumps({"pid": server.pid}), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
