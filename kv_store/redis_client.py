"""A client of the store of records: of a Redis or Valkey by network, or of the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from kv_store.settings import Redis as Settings


def client_at(store: Settings | Path) -> Redis:
    """A path: the embedded store's socket."""
    if isinstance(store, Path):
        return Redis(unix_socket_path=str(store))
    secure: dict[str, Any] = {"ssl": True} if store.tls else {}
    if store.ca is not None:
        secure["ssl_ca_certs"] = str(store.ca)
    return Redis(
        host=store.host,
        port=store.port,
        username=store.username or None,
        password=store.password or None,
        **secure,
    )
