"""Conversations on record in a real Valkey, and the one that the supervisor embeds."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import psutil
import pytest
from redis.asyncio import Redis as Client

from controller.crew import Crew
from controller.records_server import RecordsServer
from kv_store.conversation_records import ConversationRecords
from kv_store.conversations import (
    ConversationKey,
    ConversationRecord,
    KVPlace,
    MemoryRecords,
    RecordsUnavailable,
)
from kv_store.records import TokenRecords
from kv_store.settings import Redis
from kv_store.turns import TurnTold
from tests.kv_store.hand import tokens

PLACE = KVPlace("node", "/models/m", "salt", world_size=2)
RECORD = ConversationRecord(
    key=ConversationKey('ten"ant', "c:1"),
    model="chat",
    created_s=1.5,
    last_use_s=2.5,
    residency="hibernated",
    run="run",
    place=PLACE,
    turns=3,
    tokens=256,
    host_bytes=1,
    durable_bytes=2,
)


@pytest.fixture
async def client(valkey: Redis) -> AsyncIterator[Client]:
    found = Client(host=valkey.host, port=valkey.port, password=valkey.password)
    await found.flushall()
    yield found
    await found.aclose()


@pytest.fixture(params=["valkey", "memory"])
def records(
    request: pytest.FixtureRequest, valkey: Redis, client: Client
) -> ConversationRecords | MemoryRecords:
    return ConversationRecords.at(valkey) if request.param == "valkey" else MemoryRecords()


async def test_what_was_put_is_found_at_the_next_start(
    records: ConversationRecords | MemoryRecords,
) -> None:
    await records.put(RECORD, TurnTold(2, tokens(2)))
    await records.put(replace(RECORD, turns=4))
    other = replace(RECORD, key=ConversationKey("", "c:1"), place=None, last_use_s=9.0)
    await records.put(other)

    assert await records.open() == [replace(RECORD, turns=4), other]
    found = await records.prefix(RECORD)
    assert found is not None
    assert (found.model, found.salt, found.world_size) == ("/models/m", "salt", 2)
    assert list(found.tokens) == tokens(2)
    assert await records.prefix(other) is None
    await records.close()


async def test_where_turns_ended_stays_on_record_as_far_as_they_agree(
    client: Client, valkey: Redis
) -> None:
    records, of_tokens = ConversationRecords.at(valkey), TokenRecords(client, kept_s=60)
    said, other = tokens(3), tokens(3, seed=1)
    turns: list[tuple[list[int], int]] = [
        (said[:200], 0),
        (said[:300], 200),
        ([*said[:250], *other[:90]], 250),
        (other, 0),
    ]
    kept = []
    for spoken, agreed in turns:
        told = TurnTold(len(spoken) // 128, spoken)
        await records.put(RECORD, told, agreed=agreed)
        await records.put(replace(RECORD, turns=9))
        found = await of_tokens.get("salt", str(RECORD.key))
        assert found is not None
        assert list(found.tokens) == spoken
        kept.append((found.turns, found.chunks))
    assert kept == [((200,), 1), ((200, 300), 2), ((200, 340), 2), ((384,), 3)]
    await records.close()


async def test_many_that_end_together_all_go_on_record(
    records: ConversationRecords | MemoryRecords,
) -> None:
    many = [replace(RECORD, key=ConversationKey("t", f"c{n}"), last_use_s=n) for n in range(300)]
    await asyncio.gather(*(records.put(each, TurnTold(1, tokens(1))) for each in many))
    assert await records.open() == many
    await records.close()


async def test_tokens_can_be_forgotten_alone(
    records: ConversationRecords | MemoryRecords,
) -> None:
    await records.put(RECORD, TurnTold(1, tokens(1)))
    await records.forget_tokens(RECORD)
    assert await records.prefix(RECORD) is None
    assert await records.open() == [RECORD]
    await records.close()


async def test_nothing_is_left_of_what_was_forgotten(client: Client, valkey: Redis) -> None:
    records = ConversationRecords.at(valkey)
    await records.put(RECORD, TurnTold(1, tokens(1)))
    await records.forget(RECORD)
    assert await records.open() == []
    assert await client.keys("*") == []
    await records.close()


async def test_an_absent_store_is_unavailable(tmp_path: Path) -> None:
    records = ConversationRecords.at_socket(tmp_path / "nobody")
    asked = (records.open(), records.put(RECORD), records.prefix(RECORD))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [RecordsUnavailable] * 3
    await records.close()


async def test_the_embedded_store_keeps_what_it_was_told_over_its_end() -> None:
    with TemporaryDirectory(prefix="t-") as directory:
        server = RecordsServer(Path(directory, "data"), Path(directory, "s"), lambda: None)
        for _ in range(2):
            server.start()
            records = ConversationRecords.at_socket(server.socket)
            await records.put(RECORD, TurnTold(1, tokens(1)))
            assert await records.open() == [RECORD]
            await records.close()
            server.stop()
        server.start()
        records = ConversationRecords.at_socket(server.socket)
        assert await records.open() == [RECORD]
        await records.close()
        server.stop()


async def test_a_store_that_dies_is_started_again_and_found_again() -> None:
    with TemporaryDirectory(prefix="t-") as directory:
        server = RecordsServer(Path(directory, "data"), Path(directory, "s"), lambda: None)
        server.start()
        records = ConversationRecords.at_socket(server.socket)
        await records.put(RECORD, TurnTold(1, tokens(1)))
        waiting = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        loop, codes = asyncio.get_running_loop(), asyncio.Queue[int]()

        def died(code: int) -> None:
            loop.call_soon_threadsafe(codes.put_nowait, code)

        with subprocess.Popen(waiting, stdin=subprocess.PIPE) as controller:  # noqa: ASYNC220
            crew = Crew([], lambda door: controller, died, server, died)
            tending = Thread(target=crew.tend, args=[controller])
            tending.start()
            assert server.process is not None
            server.process.kill()
            assert await codes.get() == -signal.SIGKILL
            assert await _found(records) == [RECORD]
            controller.kill()
            await asyncio.to_thread(tending.join)
        await records.close()
        server.stop()


async def _found(records: ConversationRecords) -> list[ConversationRecord]:
    """Once it answers."""
    async with asyncio.timeout(60):
        while True:
            with suppress(RecordsUnavailable):
                return await records.open()


def test_two_never_share_one_file() -> None:
    with TemporaryDirectory(prefix="t-") as directory:
        data = Path(directory, "data")
        first = RecordsServer(data, Path(directory, "1"), lambda: None)
        hasty = RecordsServer(data, Path(directory, "2"), lambda: None, start_limit_s=0.1)
        patient = RecordsServer(data, Path(directory, "3"), lambda: None)
        first.start()
        with pytest.raises(RuntimeError, match="another store"):
            hasty.start()
        first.stop()
        patient.start()
        patient.stop()


def test_a_store_that_cannot_start_says_where_to_look(tmp_path: Path) -> None:
    server = RecordsServer(tmp_path / "data", tmp_path / ("x" * 200), lambda: None)
    with pytest.raises(RuntimeError, match=r"valkey\.log"):
        server.start()


def test_it_ends_with_whoever_started_it() -> None:
    with TemporaryDirectory(prefix="t-") as directory:
        program = (
            "from pathlib import Path; import sys, time\n"
            "from controller.records_server import RecordsServer\n"
            "from controller.supervisor import die_with_parent\n"
            "at = Path(sys.argv[1])\n"
            "server = RecordsServer(at / 'data', at / 's', die_with_parent)\n"
            "server.start()\n"
            "print(server.pid, flush=True)\n"
            "sys.stdin.read()\n"
        )
        owner = subprocess.Popen(
            [sys.executable, "-c", program, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with owner:
            assert owner.stdout is not None
            store = psutil.Process(int(owner.stdout.readline()))
            owner.kill()
        psutil.wait_procs([store], timeout=10)
        assert not store.is_running()
