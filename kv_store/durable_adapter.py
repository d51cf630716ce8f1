"""What every durable tier of ours is to LMCache: an L2 adapter that answers whatever happens.

Redis, a directory and S3 are subclasses, which write, find, read and drop chunks by key. Here is
the rest: a task for each order, the results that LMCache comes for, the form of each chunk
(``kv_store.forms``), and the pause after a store was not reached: then everything fails at once
for a moment, so that a store that stands still does not hold up every request by its time-out.

Chunks are loaded straight into LMCache's memory and opened there: LMCache drops what it is not
told to be there. A chunk that does not open is deleted and is a miss; the others of the same load
are not. Stores and loads have threads of their own, so that no wake waits behind an export.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

from blake3 import blake3
from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.platform import create_event_notifier

from kv_store.destinations import bound_for
from kv_store.forms import Chunk, Form
from kv_store.seals import Sealed

_log = logging.getLogger(__name__)
T = TypeVar("T")
ToWrite = Sequence[tuple[ObjectKey, Sealed]]
ToRead = Sequence[tuple[ObjectKey, memoryview]]
Read = tuple[bytes, memoryview]
NOT_ONE: Read = (b"", memoryview(b""))
"""What lies under a chunk's name and cannot be one."""

_PAUSE_S = 1.0
_TASKS_AT_ONCE = 4
_READABLE = 80
"""Characters of a model's name in a name in the store."""


class _Lane:
    """Threads for tasks, which wait, and for hands, which work for them."""

    def __init__(self, name: str, hands: int) -> None:
        self.tasks = ThreadPoolExecutor(_TASKS_AT_ONCE, thread_name_prefix=f"kv-{name}")
        self.hands = ThreadPoolExecutor(hands, thread_name_prefix=f"kv-{name}-hand")

    def close(self) -> None:
        self.tasks.shutdown(wait=True, cancel_futures=True)
        self.hands.shutdown(wait=True)


class DurableAdapter(L2AdapterInterface):  # type: ignore[misc]
    kind: ClassVar[str]
    at_once: ClassVar[int] = 1
    """Chunks that one hand is given together."""
    unreachable: ClassVar[tuple[type[Exception], ...]] = ()
    """What says that nobody is there to ask."""
    refused: ClassVar[tuple[type[Exception], ...]] = ()
    """What says no; the next may be answered otherwise."""

    def __init__(self, form: Form, hands: int, destination: str = "") -> None:
        super().__init__()
        self._form = form
        self._destination = destination
        self._storing, self._reading = _Lane("store", hands), _Lane("read", hands)
        self._lock = threading.Lock()
        self._tasks = 0
        self._paused_until = 0.0
        self._stored: dict[int, L2StoreResult] = {}
        self._looked: dict[int, Bitmap] = {}
        self._loaded: dict[int, Bitmap] = {}
        self._store_event = create_event_notifier()
        self._lookup_event = create_event_notifier()
        self._load_event = create_event_notifier()

    @abstractmethod
    def _write(self, some: ToWrite) -> list[bool]: ...

    @abstractmethod
    def _find(self, keys: Sequence[ObjectKey]) -> list[bool]: ...

    @abstractmethod
    def _read(self, some: ToRead) -> list[Read | None]:
        """The head of each, and its body, which is where its buffer begins; empty ones for what
        cannot be a chunk, None for what is not there."""

    @abstractmethod
    def _drop(self, keys: Sequence[ObjectKey]) -> list[int]:
        """The bytes of each body; none for what was not there."""

    def _used(self, keys: list[ObjectKey]) -> None:
        """Chunks were loaded."""

    def _leave(self) -> None:
        """Nothing is asked any more."""

    def _group(self, key: ObjectKey) -> str:
        """Where chunks of a model, rank and salt lie together, under their hashes."""
        place = f"{key.kv_rank}\0{key.object_group_id}"
        return _group_name(key.model_name, place, key.cache_salt, self._form.name)

    def get_store_event_fd(self) -> int:
        return int(self._store_event.fileno())

    def get_lookup_and_lock_event_fd(self) -> int:
        return int(self._lookup_event.fileno())

    def get_load_event_fd(self) -> int:
        return int(self._load_event.fileno())

    def submit_store_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> int:
        chunks = [*map(Chunk.of, keys, objects)]
        work, failed = (lambda: self._store(chunks)), L2StoreResult(False, 0)
        return self._submit(self._storing, work, failed, self._stored, self._store_event)

    def pop_completed_store_tasks(self) -> dict[int, L2StoreResult]:
        with self._lock:
            completed = dict(self._stored)
            self._stored.clear()
        return completed

    def submit_lookup_and_lock_task(
        self, keys: list[ObjectKey], group_layout_descs: dict[int, MemoryLayoutDesc]
    ) -> int:
        work, none = (lambda: self._look(keys)), Bitmap(len(keys))
        return self._submit(self._reading, work, none, self._looked, self._lookup_event)

    def query_lookup_and_lock_result(self, task_id: int) -> Bitmap | None:
        with self._lock:
            return self._looked.pop(task_id, None)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        """Nothing is locked: a chunk that goes under a load is a miss."""

    def submit_load_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> int:
        chunks = [*map(Chunk.of, keys, objects)]
        work, none = (lambda: self._load(chunks)), Bitmap(len(keys))
        return self._submit(self._reading, work, none, self._loaded, self._load_event)

    def query_load_result(self, task_id: int) -> Bitmap | None:
        with self._lock:
            return self._loaded.pop(task_id, None)

    def delete(self, keys: list[ObjectKey]) -> None:
        none: list[int] = []
        keys = bound_for(self._destination, keys)
        sizes = self._reaching(lambda: self._drop(keys), none) if keys else none
        gone = [(key, size) for key, size in zip(keys, sizes, strict=False) if size > 0]
        if gone:
            self._notify_keys_deleted(*map(list, zip(*gone, strict=True)))

    def report_status(self) -> dict[str, Any]:
        """Healthy though the store is not: the tier works without, and is not to be restarted."""
        return {"is_healthy": True, "type": self.kind, "reaches_store": not self._is_paused()}

    def close(self) -> None:
        self._storing.close()
        self._reading.close()
        self._leave()
        for event in (self._store_event, self._lookup_event, self._load_event):
            event.close()

    def _submit(
        self, lane: _Lane, work: Callable[[], T], failed: T, results: dict[int, T], event: Any
    ) -> int:
        with self._lock:
            self._tasks += 1
            task = self._tasks
        lane.tasks.submit(self._run, task, work, failed, results, event)
        return task

    def _run(
        self, task: int, work: Callable[[], T], failed: T, results: dict[int, T], event: Any
    ) -> None:
        """Whatever happens it answers: LMCache waits for that without a bound."""
        result = failed
        try:
            result = self._reaching(work, failed)
        except Exception:
            _log.exception("an operation on the store went wrong")
        with self._lock:
            results[task] = result
        event.notify()

    def _reaching(self, work: Callable[[], T], failed: T) -> T:
        if self._is_paused():
            return failed
        try:
            return work()
        except self.unreachable as error:
            _log.warning("the store cannot be reached: %s", error)
            self._paused_until = time.monotonic() + _PAUSE_S
        except self.refused as error:
            _log.warning("the store refuses: %s", error)
        return failed

    def _look(self, keys: Sequence[ObjectKey]) -> Bitmap:
        """All adapters are asked for all keys."""
        ours = bound_for(self._destination, keys)
        found = self._find(ours) if ours else []
        there = {key for key, is_there in zip(ours, found, strict=True) if is_there}
        return _bitmap([key in there for key in keys])

    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _store(self, chunks: list[Chunk]) -> L2StoreResult:
        sizes = self._by_many_hands(self._storing, self._store_some, chunks)
        stored = [(each.key, size) for each, size in zip(chunks, sizes, strict=True) if size]
        if stored:
            self._notify_keys_stored(*map(list, zip(*stored, strict=True)))
        return L2StoreResult(all(sizes), sum(sizes))

    def _store_some(self, some: Sequence[Chunk]) -> list[int]:
        """The bytes of each body; none for what was not stored."""
        sealed = [(each.key, self._form.close(each)) for each in some]
        told = self._write(sealed)
        return [
            len(body) if is_stored else 0
            for (_, (_, body)), is_stored in zip(sealed, told, strict=True)
        ]

    def _load(self, chunks: list[Chunk]) -> Bitmap:
        told = self._by_many_hands(self._reading, self._load_some, chunks)
        there = [each.key for each, is_loaded in zip(chunks, told, strict=True) if is_loaded]
        if there:
            self._used(there)
            self._notify_keys_accessed(there)
        return _bitmap(told)

    def _load_some(self, some: Sequence[Chunk]) -> list[bool]:
        read = self._read([(each.key, each.memory) for each in some])
        return [
            sealed is not None and self._is_opened(chunk, *sealed)
            for chunk, sealed in zip(some, read, strict=True)
        ]

    def _is_opened(self, chunk: Chunk, head: bytes, body: memoryview) -> bool:
        if self._form.open(chunk, head, body):
            return True
        _log.warning("a chunk in the store is not what was stored there")
        self.delete([chunk.key])
        return False

    def _by_many_hands(
        self, lane: _Lane, work: Callable[[Sequence[Chunk]], list[T]], whole: list[Chunk]
    ) -> list[T]:
        return [told for some in lane.hands.map(work, self._batches(whole)) for told in some]

    def _batches(self, whole: list[Chunk]) -> Iterator[list[Chunk]]:
        for first in range(0, len(whole), self.at_once):
            yield whole[first : first + self.at_once]


def _bitmap(flags: Sequence[bool]) -> Bitmap:
    bitmap = Bitmap(len(flags))
    for index, flag in enumerate(flags):
        if flag:
            bitmap.set(index)
    return bitmap


@lru_cache(maxsize=1024)
def _group_name(model: str, *others: str) -> str:
    """For a reader the end of the model's name, for us a digest of all of it."""
    whole = blake3("\0".join((model, *others)).encode()).hexdigest()[:32]
    return f"{quote(model, safe='')[-_READABLE:]}@{whole}"
