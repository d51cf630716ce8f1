"""``TierSettings`` as the command line and environment of LMCache's server.

Choices that will be asked about again:

- ``engine_driven``: engines copy, the server never maps their memory, so that a sleeping engine's
  memory really comes free; and nothing else works on a CPU.
- Host tier in shared memory, not lazy: chunks do not pass through the message queue. Pages are
  taken as they are written.
- What was loaded from the durable tier stays in the host tier: the next turn wants it too.
- Locks of reads are short: a request that gave up leaves its locks to them.
- Secrets stand in the environment, never in the arguments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kv_store.settings import S3 as S3Settings
from kv_store.settings import Directory, Durable, Redis, TierSettings, named

GIB = 1024**3
BY_DESTINATION = "torpor-by-destination"
"""Our store policy (``kv_store.destinations``)."""
DIRECTORY, REDIS, S3 = "torpor-directory", "torpor-redis", "torpor-s3"
USERNAME, PASSWORD = "TORPOR_KV_REDIS_USERNAME", "TORPOR_KV_REDIS_PASSWORD"
"""Of the store, in the server's environment; of a destination's by ``named``."""
KEY = "TORPOR_KV_KEY"
"""That chunks are encrypted with, there too, in hexadecimal digits."""
COMPRESSION = "TORPOR_KV_COMPRESSION"
"""``TierSettings.compression``, there too."""
PROGRAM = (sys.executable, "-m", "kv_store.server_main")
_SEGMENT_PREFIX = "lmcache_l1_pool_"
_READ_LOCK_S = 120
_SESSION_S = 1800
_REAP_S = 60


def command(
    settings: TierSettings, *, port: int, http_port: int, program: Sequence[str] = PROGRAM
) -> list[str]:
    return [*program, *_arguments(settings, port, http_port)]


def _arguments(settings: TierSettings, port: int, http_port: int) -> Iterator[str]:
    yield from ("--host", settings.host, "--port", str(port))
    yield from ("--http-host", settings.host, "--http-port", str(http_port))
    yield from ("--l1-size-gb", repr(settings.host_bytes / GIB), "--no-l1-use-lazy")
    yield from ("--shm-name", segment(settings))
    yield from ("--l1-read-ttl-seconds", str(_READ_LOCK_S))
    yield from ("--session-ttl-seconds", str(_SESSION_S))
    yield from ("--worker-reap-timeout-seconds", str(_REAP_S))
    yield from ("--chunk-size", str(settings.chunk_tokens), "--hash-algorithm", "blake3")
    yield from ("--supported-transfer-mode", "engine_driven", "--eviction-policy", "LRU")
    yield from ("--max-cpu-workers", "4", "--l2-prefetch-policy", "retain")
    yield from (
        "--server-module",
        json.dumps({"module_path": "kv_store.server_module", "config": {}}),
    )
    yield from ("--l2-store-policy", BY_DESTINATION)
    for destination, durable in settings.durables.items():
        told = _adapter(durable) | {"destination": destination}
        yield from ("--l2-adapter", json.dumps(told))


def environment(settings: TierSettings) -> dict[str, str]:
    told = {
        "LMCACHE_TRACK_USAGE": "false",
        "LMCACHE_DISABLE_BANNER": "1",
        "LMCACHE_LOG_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for destination, durable in settings.durables.items():
        if isinstance(durable, Redis):
            told[named(USERNAME, destination)] = durable.username
            told[named(PASSWORD, destination)] = durable.password
        if isinstance(durable, S3Settings):
            told |= durable.credentials
    told[KEY], told[COMPRESSION] = settings.key.hex(), settings.compression
    return told


def segment(settings: TierSettings) -> str:
    """The name of the server's shared memory."""
    return f"{_SEGMENT_PREFIX}{settings.name}"


def segment_path(settings: TierSettings) -> Path:
    return Path("/dev/shm", segment(settings))  # noqa: S108


def _adapter(durable: Durable) -> dict[str, Any]:
    match durable:
        case Directory(path=path, limit_bytes=limit_bytes):
            return {"type": DIRECTORY, "path": str(path), "limit_bytes": limit_bytes}
        case Redis() as redis:
            trust = {"ca": str(redis.ca)} if redis.ca is not None else {}
            return trust | {
                "type": REDIS,
                "host": redis.host,
                "port": redis.port,
                "connections": redis.connections,
                "tls": redis.tls,
                "prefix": redis.prefix,
            }
        case S3Settings() as s3:
            where = {"bucket": s3.bucket, "region": s3.region, "endpoint": s3.endpoint}
            trusted = str(s3.ca) if s3.ca is not None else None
            return {"type": S3, **where, "ca": trusted, "prefix": s3.prefix}
