"""The durable tier in Redis or Valkey, as an L2 adapter of LMCache's.

LMCache has two of its own. ``resp`` reads answers out of step after the first error reply (a full
store is enough): from then on it reports stores that went well as failed and hands out other
chunks than were asked for, until the server is restarted. ``valkey`` wants a client library of
its own. This one is redis-py, with TLS.

A chunk is two strings: its body, and its head. (Two fields of one hash would be neater; reading
large ones took twice as long from Valkey 9.1.) Each operation is bounded by the socket's time-out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.config import (
    L2AdapterConfigBase,
    register_l2_adapter_type,
)
from lmcache.v1.distributed.l2_adapters.factory import register_l2_adapter_factory
from redis import ConnectionPool, Redis, SSLConnection
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as Unanswered

from kv_store.durable_adapter import NOT_ONE, DurableAdapter, Read, ToRead, ToWrite
from kv_store.forms import Form
from kv_store.redis_in_place import Place, options, read_into
from kv_store.server_command import PASSWORD, REDIS, USERNAME
from kv_store.settings import named

NAMESPACE = "torpor:kv:chunk:"
_LIMIT_S = 5.0
_HEAD = "#head"


class RedisConfig(L2AdapterConfigBase):  # type: ignore[misc]
    def __init__(
        self,
        host: str,
        port: int,
        connections: int,
        tls: bool,
        ca: str | None,
        prefix: str = "",
        destination: str = "",
    ) -> None:
        self.host, self.port, self.connections = host, port, connections
        self.tls, self.ca = tls, ca
        self.prefix, self.destination = prefix, destination

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> RedisConfig:
        where = (d["host"], d["port"], d["connections"], d["tls"], d.get("ca"))
        return cls(*where, d["prefix"], d["destination"])

    @classmethod
    def help(cls) -> str:
        return "host, port, connections, tls, ca, prefix, destination; secrets by environment"

    def pool(self) -> ConnectionPool:
        tls: dict[str, Any] = {}
        if self.tls:
            tls = {"connection_class": SSLConnection, "ssl_ca_certs": self.ca}
        return ConnectionPool(
            host=self.host,
            port=self.port,
            username=os.environ.get(named(USERNAME, self.destination)) or None,
            password=os.environ.get(named(PASSWORD, self.destination)) or None,
            socket_timeout=_LIMIT_S,
            socket_connect_timeout=_LIMIT_S,
            **tls,
            **options(),
        )


class RedisAdapter(DurableAdapter):
    kind = REDIS
    at_once = 4
    unreachable = (Unreachable, Unanswered)
    refused = (RedisError,)

    def __init__(self, config: RedisConfig, form: Form) -> None:
        self._redis = Redis(connection_pool=config.pool())
        self._namespace = f"{config.prefix}{NAMESPACE}"
        super().__init__(form, config.connections, config.destination)

    def _write(self, some: ToWrite) -> list[bool]:
        with self._redis.pipeline(transaction=False) as pipe:
            for key, (head, body) in some:
                told: Any = {self._name(key) + _HEAD: head, self._name(key): memoryview(body)}
                pipe.mset(told)
            return [answer is True for answer in pipe.execute(raise_on_error=False)]

    def _find(self, keys: Sequence[ObjectKey]) -> list[bool]:
        with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.exists(self._name(key))
            return [bool(answer) for answer in pipe.execute()]

    def _read(self, some: ToRead) -> list[Read | None]:
        names = [self._name(key) for key, _ in some]
        none: list[Place] = [None] * len(some)
        with self._connection() as connection:
            connection.send_command("MGET", *(name + _HEAD for name in names), *names)
            answer = read_into(connection, [*none, *(buffer for _, buffer in some)])
        heads, sizes = answer[: len(some)], answer[len(some) :]
        return [
            _filled(buffer, size, head)
            for (_, buffer), size, head in zip(some, sizes, heads, strict=True)
        ]

    def _drop(self, keys: Sequence[ObjectKey]) -> list[int]:
        names = [self._name(key) for key in keys]
        with self._redis.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.strlen(name)
            pipe.unlink(*names, *(name + _HEAD for name in names))
            return [int(size) for size in pipe.execute()[:-1]]

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        pool = self._redis.connection_pool
        connection = pool.get_connection()
        try:
            yield connection
        finally:
            pool.release(connection)

    def _leave(self) -> None:
        self._redis.connection_pool.disconnect()

    def _name(self, key: ObjectKey) -> str:
        place = f"{key.kv_rank:08x}@{key.object_group_id:x}@{key.chunk_hash.hex()}"
        return f"{self._namespace}{key.model_name}@{place}@{key.cache_salt}@{self._form.name}"


def register(form: Form) -> None:
    """Make the adapter known to LMCache; once in a process."""
    register_l2_adapter_type(REDIS, RedisConfig)
    register_l2_adapter_factory(REDIS, lambda config, _: RedisAdapter(config, form))


def _filled(buffer: memoryview, size: int | None, head: bytes | None) -> Read | None:
    if size is None:
        return None
    return (head, buffer[:size]) if head is not None and size <= len(buffer) else NOT_ONE
