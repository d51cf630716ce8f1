"""A client of the store of records: of a Redis or Valkey by network, or of the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry

from kv_store.settings import Redis as Settings


def client_at(store: Settings | Path, retry: Retry | None = None) -> Redis:
    """A path: the embedded store's socket. ``retry`` None: redis-py's own, some seconds."""
    more: dict[str, Any] = {} if retry is None else {"retry": retry}
    if isinstance(store, Path):
        return Redis(unix_socket_path=str(store), **more)
    if store.tls:
        more["ssl"] = True
    if store.ca is not None:
        more["ssl_ca_certs"] = str(store.ca)
    return Redis(
        host=store.host,
        port=store.port,
        username=store.username or None,
        password=store.password or None,
        **more,
    )
