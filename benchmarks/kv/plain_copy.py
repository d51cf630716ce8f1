"""A plain copy of the same chunks to the same place: what the tier is measured against.

Without keys, digests, orders or anybody who waits for anything else. Chunks are read back into
the buffers that they came from, as the tier does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Protocol

from redis import Redis

_AT_ONCE = 8
"""Chunks in one pipeline."""


class PlainCopy(Protocol):
    def write(self, chunks: Sequence[bytes]) -> None: ...

    def read(self, buffers: Sequence[bytearray]) -> None: ...


class ToDirectory:
    """File by file, each whole under its name or not there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()

    def write(self, chunks: Sequence[bytes]) -> None:
        for number, chunk in enumerate(chunks):
            draft = self._directory / f"{number}.tmp"
            draft.write_bytes(chunk)
            draft.replace(self._directory / str(number))

    def read(self, buffers: Sequence[bytearray]) -> None:
        for number, buffer in enumerate(buffers):
            with (self._directory / str(number)).open("rb", buffering=0) as file:
                file.readinto(buffer)


class ToRedis:
    """Pipelined, on one connection."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._names = count()
        self._written: list[str] = []

    def write(self, chunks: Sequence[bytes]) -> None:
        self._written = [f"plain:{next(self._names)}" for _ in chunks]
        for some in _pipelines(len(chunks)):
            with self._redis.pipeline(transaction=False) as pipe:
                for index in some:
                    pipe.set(self._written[index], chunks[index])
                pipe.execute()

    def read(self, buffers: Sequence[bytearray]) -> None:
        for some in _pipelines(len(buffers)):
            with self._redis.pipeline(transaction=False) as pipe:
                for index in some:
                    pipe.get(self._written[index])
                for index, chunk in zip(some, pipe.execute(), strict=True):
                    buffers[index][:] = chunk


def _pipelines(chunks: int) -> Iterator[range]:
    for first in range(0, chunks, _AT_ONCE):
        yield range(first, min(first + _AT_ONCE, chunks))
