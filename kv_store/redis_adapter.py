"""The durable tier in Redis or Valkey, as an L2 adapter of LMCache's.

LMCache has two of its own. ``resp`` reads answers out of step after the first error reply (a full
store is enough): from then on it reports stores that went well as failed and hands out other
chunks than were asked for, until the server is restarted. ``valkey`` wants a client library of
its own. This one is redis-py, with TLS.

A chunk is two strings: its bytes, and the guard's digest of them (``kv_store.guard``). A chunk
that is refused is deleted and is a miss; the others of the same load are not. (Two fields of one
hash would be neater; reading large ones took twice as long from Valkey 9.1.)

Each operation is bounded by the socket's time-out. After a failure to reach the store everything
fails at once for a moment, so that a store that stands still does not hold up every request by
its own time-out.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.distributed.l2_adapters.config import (
    L2AdapterConfigBase,
    register_l2_adapter_type,
)
from lmcache.v1.distributed.l2_adapters.factory import register_l2_adapter_factory
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.platform import create_event_notifier
from redis import ConnectionPool, Redis, SSLConnection
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as Unanswered

from kv_store.guard import digest
from kv_store.server_command import PASSWORD, REDIS, USERNAME

_log = logging.getLogger(__name__)
T = TypeVar("T")
Some = Sequence[tuple[ObjectKey, memoryview]]

NAMESPACE = "torpor:kv:chunk:"
_LIMIT_S = 5.0
_PAUSE_S = 1.0
_AT_ONCE = 4
_DIGEST = "#digest"


class RedisConfig(L2AdapterConfigBase):  # type: ignore[misc]
    def __init__(self, host: str, port: int, connections: int, tls: bool, ca: str | None) -> None:
        self.host, self.port, self.connections = host, port, connections
        self.tls, self.ca = tls, ca

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> RedisConfig:
        return cls(d["host"], d["port"], d["connections"], d["tls"], d.get("ca"))

    @classmethod
    def help(cls) -> str:
        return "host, port, connections, tls, ca; secrets by environment"

    def pool(self) -> ConnectionPool:
        tls: dict[str, Any] = {}
        if self.tls:
            tls = {"connection_class": SSLConnection, "ssl_ca_certs": self.ca}
        return ConnectionPool(
            host=self.host,
            port=self.port,
            username=os.environ.get(USERNAME) or None,
            password=os.environ.get(PASSWORD) or None,
            socket_timeout=_LIMIT_S,
            socket_connect_timeout=_LIMIT_S,
            **tls,
        )


class RedisAdapter(L2AdapterInterface):  # type: ignore[misc]
    def __init__(self, config: RedisConfig) -> None:
        super().__init__()
        self._redis = Redis(connection_pool=config.pool())
        self._tasks_at_once = ThreadPoolExecutor(config.connections, thread_name_prefix="kv-task")
        self._hands = ThreadPoolExecutor(config.connections, thread_name_prefix="kv-redis")
        self._lock = threading.Lock()
        self._tasks = 0
        self._paused_until = 0.0
        self._stored: dict[int, L2StoreResult] = {}
        self._looked: dict[int, Bitmap] = {}
        self._loaded: dict[int, Bitmap] = {}
        self._store_event = create_event_notifier()
        self._lookup_event = create_event_notifier()
        self._load_event = create_event_notifier()

    def get_store_event_fd(self) -> int:
        return int(self._store_event.fileno())

    def get_lookup_and_lock_event_fd(self) -> int:
        return int(self._lookup_event.fileno())

    def get_load_event_fd(self) -> int:
        return int(self._load_event.fileno())

    def submit_store_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> int:
        chunks = [memoryview(each.byte_array).cast("B") for each in objects]
        return self._submit(
            lambda: self._store(keys, chunks),
            L2StoreResult(False, 0),
            self._stored,
            self._store_event,
        )

    def pop_completed_store_tasks(self) -> dict[int, L2StoreResult]:
        with self._lock:
            completed, kept = dict(self._stored), self._stored
            kept.clear()
        return completed

    def submit_lookup_and_lock_task(
        self, keys: list[ObjectKey], group_layout_descs: dict[int, MemoryLayoutDesc]
    ) -> int:
        none = Bitmap(len(keys))
        return self._submit(lambda: self._lookup(keys), none, self._looked, self._lookup_event)

    def query_lookup_and_lock_result(self, task_id: int) -> Bitmap | None:
        with self._lock:
            return self._looked.pop(task_id, None)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        """Nothing is locked: a chunk that goes under a load is a miss."""

    def submit_load_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> int:
        buffers = [memoryview(each.byte_array).cast("B") for each in objects]
        none = Bitmap(len(keys))
        return self._submit(lambda: self._load(keys, buffers), none, self._loaded, self._load_event)

    def query_load_result(self, task_id: int) -> Bitmap | None:
        with self._lock:
            return self._loaded.pop(task_id, None)

    def delete(self, keys: list[ObjectKey]) -> None:
        none: list[int] = []
        sizes = self._reaching(lambda: self._delete(keys), none)
        gone = [(key, size) for key, size in zip(keys, sizes, strict=False) if size]
        if gone:
            self._notify_keys_deleted(*map(list, zip(*gone, strict=True)))

    def report_status(self) -> dict[str, Any]:
        """Healthy though the store is not: the tier works without, and is not to be restarted."""
        return {"is_healthy": True, "type": REDIS, "reaches_store": not self._is_paused()}

    def close(self) -> None:
        self._tasks_at_once.shutdown(wait=True, cancel_futures=True)
        self._hands.shutdown(wait=True)
        self._redis.connection_pool.disconnect()
        for event in (self._store_event, self._lookup_event, self._load_event):
            event.close()

    def _submit(self, work: Callable[[], T], failed: T, results: dict[int, T], event: Any) -> int:
        with self._lock:
            self._tasks += 1
            task = self._tasks
        self._tasks_at_once.submit(self._run, task, work, failed, results, event)
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
        except (Unreachable, Unanswered) as error:
            _log.warning("the store cannot be reached: %s", error)
            self._paused_until = time.monotonic() + _PAUSE_S
        except RedisError as error:
            _log.warning("the store refuses: %s", error)
        return failed

    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _store(self, keys: list[ObjectKey], chunks: list[memoryview]) -> L2StoreResult:
        told = self._by_many_hands(self._store_some, list(zip(keys, chunks, strict=True)))
        stored = [key for key, is_stored in zip(keys, told, strict=True) if is_stored]
        sizes = [len(chunk) for chunk, is_stored in zip(chunks, told, strict=True) if is_stored]
        if stored:
            self._notify_keys_stored(stored, sizes)
        return L2StoreResult(all(told), sum(sizes))

    def _store_some(self, some: Some) -> list[bool]:
        with self._redis.pipeline(transaction=False) as pipe:
            for key, chunk in some:
                told: Any = {_name(key) + _DIGEST: digest(key, chunk), _name(key): chunk}
                pipe.mset(told)
            return [answer is True for answer in pipe.execute(raise_on_error=False)]

    def _lookup(self, keys: list[ObjectKey]) -> Bitmap:
        with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.exists(_name(key))
            return _bitmap(pipe.execute())

    def _load(self, keys: list[ObjectKey], buffers: list[memoryview]) -> Bitmap:
        told = self._by_many_hands(self._load_some, list(zip(keys, buffers, strict=True)))
        there = [key for key, is_loaded in zip(keys, told, strict=True) if is_loaded]
        if there:
            self._notify_keys_accessed(there)
        return _bitmap(told)

    def _load_some(self, some: Some) -> list[bool]:
        names = [_name(key) for key, _ in some]
        answer: Any = self._redis.mget([*names, *(name + _DIGEST for name in names)])
        chunks, sealed = answer[: len(some)], answer[len(some) :]
        told = zip(some, sealed, chunks, strict=True)
        return [self._opened(key, buffer, *found) for (key, buffer), *found in told]

    def _opened(
        self, key: ObjectKey, buffer: memoryview, sealed: bytes | None, chunk: bytes | None
    ) -> bool:
        if chunk is None or len(chunk) != len(buffer):
            return False
        if sealed != digest(key, memoryview(chunk)):
            _log.warning("a chunk in the store is not what was stored there")
            self._redis.unlink(_name(key), _name(key) + _DIGEST)
            return False
        buffer[:] = chunk
        return True

    def _by_many_hands(self, work: Callable[[Some], list[bool]], whole: Some) -> list[bool]:
        return [told for some in self._hands.map(work, _batches(whole)) for told in some]

    def _delete(self, keys: list[ObjectKey]) -> list[int]:
        """The size of each; 0 for one that was not there."""
        names = [_name(key) for key in keys]
        with self._redis.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.strlen(name)
            pipe.unlink(*names, *(name + _DIGEST for name in names))
            return [int(size) for size in pipe.execute()[:-1]]


def register() -> None:
    """Make the adapter known to LMCache; once in a process."""
    register_l2_adapter_type(REDIS, RedisConfig)
    register_l2_adapter_factory(REDIS, lambda config, _: RedisAdapter(config))


def _name(key: ObjectKey) -> str:
    group, chunk = f"{key.object_group_id:x}", key.chunk_hash.hex()
    return f"{NAMESPACE}{key.model_name}@{key.kv_rank:08x}@{group}@{chunk}@{key.cache_salt}"


def _batches(whole: Some) -> Iterator[Some]:
    for first in range(0, len(whole), _AT_ONCE):
        yield whole[first : first + _AT_ONCE]


def _bitmap(flags: Sequence[Any]) -> Bitmap:
    bitmap = Bitmap(len(flags))
    for index, flag in enumerate(flags):
        if flag:
            bitmap.set(index)
    return bitmap
