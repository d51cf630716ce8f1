"""Many conversations on record: what the store takes for them, and how long a page of them takes.

The records are written as a controller writes them, into a Valkey started as ``torpor serve``
starts it; then a fleet is started over that store, and asked for pages as its clients ask.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.conversations.options import Options
from benchmarks.result import Measure
from benchmarks.running import BenchError, Run
from benchmarks.wake.fate import die_with_parent
from benchmarks.wake.own_fleet import own_fleet, undisturbed
from controller.client import FleetClient
from controller.records_server import RecordsServer
from controller.settings import Settings
from kv_store.conversation_records import ConversationRecords
from kv_store.conversations import ConversationKey, ConversationRecord, KVPlace
from kv_store.redis_client import client_at
from kv_store.settings import VLLM_BLOCK_TOKENS
from kv_store.turns import TurnTold, digest

TENANTS = 10
_AT_ONCE = 50
_PAGE, _PAGES = 100, 4
"""Conversations on a page, and pages of a kind in a repeat."""
_DAY_S = 86_400


def measure(run: Run, options: Options, settings: Settings) -> None:
    with TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as directory:
        state = Path(directory)
        run.say(f"{options.many:,} conversations of {options.tokens:,} tokens go on record")
        server = RecordsServer(state / "records", state / "socket", die_with_parent)
        server.start()
        try:
            taken = asyncio.run(filled(server.socket, options, run.seed or 0))
        finally:
            server.stop()
        labels = {"conversations": str(options.many), "tokens": str(options.tokens)}
        run.add(_measure("store_memory", "bytes", taken, **labels))
        with (
            own_fleet(
                settings, lambda told, place: replace(undisturbed(told, place), state_dir=state)
            ) as own,
            FleetClient(own.url) as client,
        ):
            pages(run, options, client)


async def filled(socket: Path, options: Options, seed: int) -> int:
    """Bytes of the store's memory that the records take, their index included."""
    records, store = ConversationRecords.at_socket(socket), client_at(socket)
    try:
        before = int((await store.info("memory"))["used_memory"])
        some: list[ConversationRecord] = []
        luck = Random(seed)
        for record in _records(options):
            some.append(record)
            if len(some) == _AT_ONCE:
                await _put(records, some, luck)
                some = []
        await _put(records, some, luck)
        return int((await store.info("memory"))["used_memory"]) - before
    finally:
        await records.close()
        await store.aclose()


def pages(run: Run, options: Options, client: FleetClient) -> None:
    """Each of several kinds of page, time and again. Raises FleetError, BenchError."""
    middle = options.many // 2
    asked: dict[str, dict[str, Any]] = {
        "first": {},
        "middle": {"after": middle},
        "last": {"after": options.many - _PAGE},
        "of a tenant": {"tenant": "tenant-1", "after": middle},
        "hibernated": {"residency": "HIBERNATED", "after": middle},
        "none found": {"model": "there is none"},
    }
    known = client.conversations.list(limit=1).statistics.total
    if known != options.many:
        raise BenchError(f"{known:,} of {options.many:,} conversations were read back")
    for _ in range(_PAGES * options.repeats):
        for page, query in asked.items():
            began = time.perf_counter()
            client.conversations.list(limit=_PAGE, **query)
            took_ms = 1000 * (time.perf_counter() - began)
            run.add(_measure("list_page", "ms", took_ms, page=page))


def _records(options: Options) -> Iterator[ConversationRecord]:
    now = time.time()
    for number in range(options.many):
        key = ConversationKey(f"tenant-{number % TENANTS}", f"conversation-{number:08d}")
        used_s = now - _DAY_S * (1 - number / options.many)
        record = ConversationRecord(key, "model", used_s, used_s, "hibernated", "earlier")
        place = KVPlace("node", "/models/model", digest([number % TENANTS]) * 2)
        yield replace(
            record,
            place=place,
            replica="model#0",
            turns=3,
            tokens=options.tokens,
            digest=digest([number]),
            durable_bytes=options.tokens * 23_040,
        )


async def _put(records: ConversationRecords, some: list[ConversationRecord], luck: Random) -> None:
    async with asyncio.TaskGroup() as together:
        for record in some:
            tokens = array("I", luck.randbytes(4 * record.tokens))
            together.create_task(
                records.put(record, TurnTold(record.tokens // VLLM_BLOCK_TOKENS, tokens))
            )


def _measure(name: str, unit: str, value: float, **labels: str) -> Measure:
    return Measure(name=name, unit=unit, values=(value,), labels=labels, better="lower")
