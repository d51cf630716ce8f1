"""The chunks of a model as they lie in the durable tier, and the hand of decay on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import redis

from kv_store.settings import Directory, Redis
from tests.kv_store.object_store import ObjectChunk, ObjectStore

_HEAD = b"#head"


@dataclass(frozen=True)
class FileChunk:
    path: Path

    def read(self) -> bytes:
        return self.path.read_bytes()

    def write(self, chunk: bytes) -> None:
        self.path.write_bytes(chunk)

    def remove(self) -> None:
        self.path.unlink()

    def exists(self) -> bool:
        return self.path.exists()


@dataclass(frozen=True)
class RedisChunk:
    client: redis.Redis
    key: bytes

    def read(self) -> bytes:
        return b"".join(self.client.mget([self.key + _HEAD, self.key]))  # type: ignore[arg-type]

    def write(self, chunk: bytes) -> None:
        head_bytes = int(self.client.strlen(self.key + _HEAD))  # type: ignore[arg-type]
        self.client.set(self.key + _HEAD, chunk[:head_bytes])
        self.client.set(self.key, chunk[head_bytes:])

    def remove(self) -> None:
        self.client.delete(self.key)

    def exists(self) -> bool:
        return bool(self.client.exists(self.key))


Chunk = FileChunk | RedisChunk | ObjectChunk
Place = Directory | Redis | ObjectStore


def chunks_of(durable: Place, model: str) -> list[Chunk]:
    if isinstance(durable, ObjectStore):
        return [ObjectChunk(durable, path) for path in durable.objects(model)]
    if isinstance(durable, Directory):
        return [FileChunk(path) for path in sorted(durable.path.glob(f"{model}@*/*.kv"))]
    client = redis.Redis(durable.host, durable.port, password=durable.password)
    keys = sorted(client.keys(f"torpor:kv:chunk:{model}@*"))
    return [RedisChunk(client, key) for key in keys if not key.endswith(_HEAD)]


def flip(chunk: Chunk, where: int) -> None:
    changed = bytearray(chunk.read())
    changed[where] ^= 1
    chunk.write(bytes(changed))
