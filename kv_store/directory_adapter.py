"""The durable tier in files, as an L2 adapter of LMCache's.

LMCache's own ``fs`` has no bound, serves a load as a whole or not at all, and its copies and
hand-overs cost more than the files themselves; ``fs_native`` forgets at a restart what lies there.

A chunk is a file, head first, in a folder of its model, rank and salt. It is written under a name
of its own and then renamed, so a file is whole, or it is a draft that nobody reads. Nothing waits
for the disk: what a power failure leaves of a file does not open. What is there stays there: a
chunk's name says what it holds, and what has decayed is dropped when it is read. A file's time of
modification is when it was written or last loaded, which orders who goes first when the directory
is over its bound (``kv_store.directory_bound``). Servers of several nodes may share a directory.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.config import (
    L2AdapterConfigBase,
    register_l2_adapter_type,
)
from lmcache.v1.distributed.l2_adapters.factory import register_l2_adapter_factory

from kv_store.directory_bound import CHUNK, DRAFT, DirectoryBound, removed_bytes
from kv_store.durable_adapter import NOT_ONE, DurableAdapter, Read, ToRead, ToWrite
from kv_store.forms import Form
from kv_store.seals import Sealed
from kv_store.server_command import DIRECTORY

_log = logging.getLogger(__name__)
_HANDS = 4
_TRIES = 3
"""To open a file in a folder that is not there yet, or was just removed as empty."""


class DirectoryConfig(L2AdapterConfigBase):  # type: ignore[misc]
    def __init__(self, path: Path, limit_bytes: int | None, destination: str = "") -> None:
        self.path, self.limit_bytes, self.destination = path, limit_bytes, destination

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> DirectoryConfig:
        return cls(Path(d["path"]), d.get("limit_bytes"), d["destination"])

    @classmethod
    def help(cls) -> str:
        return "path, limit_bytes, destination"


class DirectoryAdapter(DurableAdapter):
    kind = DIRECTORY
    refused = (OSError,)

    def __init__(self, config: DirectoryConfig, form: Form) -> None:
        config.path.mkdir(parents=True, exist_ok=True)
        self._directory = str(config.path)
        self._bound = DirectoryBound(config.path, config.limit_bytes)
        self._drafts, self._author = count(), uuid.uuid4().hex[:8]
        super().__init__(form, _HANDS, config.destination)

    def report_status(self) -> dict[str, Any]:
        return super().report_status() | self._bound.report()

    def _write(self, some: ToWrite) -> list[bool]:
        return [self._is_written(key, sealed) for key, sealed in some]

    def _find(self, keys: Sequence[ObjectKey]) -> list[bool]:
        return [os.path.exists(self._path(key)) for key in keys]

    def _read(self, some: ToRead) -> list[Read | None]:
        return [self._sealed(key, buffer) for key, buffer in some]

    def _drop(self, keys: Sequence[ObjectKey]) -> list[int]:
        sizes = [self._removed_bytes(self._path(key)) for key in keys]
        return [size - self._form.head_bytes if size else 0 for size in sizes]

    def _used(self, keys: list[ObjectKey]) -> None:
        for key in keys:
            with suppress(OSError):
                os.utime(self._path(key))

    def _leave(self) -> None:
        self._bound.close()

    def _is_written(self, key: ObjectKey, sealed: Sealed) -> bool:
        """A disk that is full, or whatever else, fails this chunk and nothing more."""
        path = self._path(key)
        draft = f"{path}.{self._author}-{next(self._drafts)}{DRAFT}"
        size = sum(map(len, sealed))
        try:
            if _size(path) == size:
                os.utime(path)
                return True
            _write_file(draft, sealed)
            os.replace(draft, path)
        except OSError as error:
            _log.warning("a chunk cannot be written: %s", error)
            with suppress(OSError):
                os.unlink(draft)
            return False
        self._bound.grown(size)
        return True

    def _removed_bytes(self, path: str) -> int:
        size = _size(path)
        if size is None:
            return 0
        self._bound.shrunk(removed_bytes(path, size))
        return size

    def _sealed(self, key: ObjectKey, buffer: memoryview) -> Read | None:
        """What cannot be read may be read another time, so it is absent and not decayed."""
        head = bytearray(self._form.head_bytes)
        try:
            body = _read_file(self._path(key), head, buffer)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("a chunk cannot be read: %s", error)
            return None
        return (bytes(head), body) if body is not None else NOT_ONE

    def _path(self, key: ObjectKey) -> str:
        return f"{self._directory}/{self._group(key)}/{key.chunk_hash.hex()}{CHUNK}"


def register(form: Form) -> None:
    """Make the adapter known to LMCache; once in a process."""
    register_l2_adapter_type(DIRECTORY, DirectoryConfig)
    register_l2_adapter_factory(DIRECTORY, lambda config, _: DirectoryAdapter(config, form))


def _size(file: str | int) -> int | None:
    try:
        return os.stat(file).st_size
    except FileNotFoundError:
        return None


def _write_file(path: str, pieces: Sealed) -> None:
    file = _created(path)
    try:
        left = [memoryview(piece) for piece in pieces]
        while left:
            written = os.writev(file, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]
    finally:
        os.close(file)


def _created(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            return os.open(path, flags, 0o600)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return os.open(path, flags, 0o600)


def _read_file(path: str, head: bytearray, buffer: memoryview) -> memoryview | None:
    """The body, in its buffer; None: there is no room for it there, or it is cut short."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        body_bytes = os.fstat(file).st_size - len(head)
        body = buffer[: max(0, body_bytes)]
        return body if len(body) == body_bytes and _is_filled(file, head, body) else None
    finally:
        os.close(file)


def _is_filled(file: int, head: bytearray, body: memoryview) -> bool:
    """A read ends early at the end of the file, and nowhere else that is not asked for again."""
    filled = os.preadv(file, [head, body], 0)
    while len(head) <= filled < len(head) + len(body):
        more = os.preadv(file, [body[filled - len(head) :]], filled)
        if not more:
            return False
        filled += more
    return filled == len(head) + len(body)
