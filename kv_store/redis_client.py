"""A client of the store of records: of a Redis or Valkey by network, or of the embedded one.

Who finds all of its connections busy waits for one: redis-py's own pool refuses the
hundred-and-first, which would lose the records of turns that end together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry

from kv_store.settings import Redis as Settings

_CONNECTIONS = 64
_LIMIT_S = 60.0
"""Of a wait for one; a store that is away is noticed sooner, by who has one."""


def client_at(store: Settings | Path, retry: Retry | None = None) -> Redis:
    """A path: the embedded store's socket. ``retry`` None: redis-py's own, some seconds."""
    more: dict[str, Any] = {} if retry is None else {"retry": retry}
    if isinstance(store, Path):
        return _in_turns(Redis(unix_socket_path=str(store), **more))
    if store.tls:
        more["ssl"] = True
    if store.ca is not None:
        more["ssl_ca_certs"] = str(store.ca)
    return _in_turns(
        Redis(
            host=store.host,
            port=store.port,
            username=store.username or None,
            password=store.password or None,
            **more,
        )
    )


def _in_turns(client: Redis) -> Redis:
    """As redis-py arranged it, but for the pool."""
    arranged = client.connection_pool
    client.connection_pool = BlockingConnectionPool(
        _CONNECTIONS, _LIMIT_S, arranged.connection_class, **arranged.connection_kwargs
    )
    return client
