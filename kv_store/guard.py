"""A digest for every chunk in the durable tier, so that a flipped byte is a miss.

LMCache's adapters check lengths only, and its checksums do not work on a CPU. So each chunk is
stored behind a BLAKE3 digest of its key and its bytes: a chunk that has changed, or that lies
under another chunk's name, is refused. It guards against decay and mix-ups, not against somebody
who can write to the store: that takes encryption.

In Redis our own adapter keeps the digest beside the chunk. For LMCache's directory adapter it is a
serde, and LMCache refuses the whole load in which one chunk is bad; what lay before it hits again
at the next request. A refused chunk must also go: the directory adapter does not write what
already lies there, so a bad file would stay bad. Who wants to delete takes the keys out of
``suspects``.
"""

from __future__ import annotations

from queue import SimpleQueue

import torch
from blake3 import blake3
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.serde.async_processor import AsyncSerdeProcessor
from lmcache.v1.distributed.serde.base import Deserializer, SerdeProcessor, Serializer
from lmcache.v1.distributed.serde.factory import register_serde_factory
from lmcache.v1.memory_management import MemoryObj

from kv_store.server_command import GUARD

DIGEST_BYTES = 32
_CONTEXT = "torpor 2025 kv chunk"
_THREADS = 2

suspects: SimpleQueue[ObjectKey] = SimpleQueue()
"""Keys of chunks that were refused in this process."""


class ChunkRefused(ValueError):
    """The bytes under a key are not those that were stored under it."""


def digest(key: ObjectKey, chunk: memoryview) -> bytes:
    named = f"{key.model_name}\0{key.kv_rank}\0{key.object_group_id}\0{key.cache_salt}\0"
    hasher = blake3(derive_key_context=_CONTEXT)
    return hasher.update(named.encode() + key.chunk_hash).update(chunk).digest()


class Sealing(Serializer):  # type: ignore[misc]
    def serialize(self, src: MemoryObj, dst: MemoryObj, key: ObjectKey) -> int:
        chunk, sealed = _bytes_of(src), _bytes_of(dst)
        end = DIGEST_BYTES + len(chunk)
        sealed[:DIGEST_BYTES] = digest(key, chunk)
        sealed[DIGEST_BYTES:end] = chunk
        return end

    def estimate_serialized_size(self, layout_desc: MemoryLayoutDesc) -> int:
        sizes = (
            shape.numel() * torch.empty((), dtype=dtype).element_size()
            for shape, dtype in zip(layout_desc.shapes, layout_desc.dtypes, strict=True)
        )
        return DIGEST_BYTES + int(sum(sizes))


class Opening(Deserializer):  # type: ignore[misc]
    def deserialize(self, src: MemoryObj, dst: MemoryObj, key: ObjectKey) -> None:
        sealed, chunk = _bytes_of(src), _bytes_of(dst)
        stored = sealed[DIGEST_BYTES : DIGEST_BYTES + len(chunk)]
        if bytes(sealed[:DIGEST_BYTES]) != digest(key, stored):
            suspects.put(key)
            raise ChunkRefused("a chunk in the durable tier is not what was stored there")
        chunk[:] = stored


def register() -> None:
    """Make the guard known to LMCache; once in a process."""
    register_serde_factory(GUARD, _processor)


def _processor(_: dict[str, object]) -> SerdeProcessor:
    return AsyncSerdeProcessor(Sealing(), Opening(), max_workers=_THREADS)


def _bytes_of(chunk: MemoryObj) -> memoryview:
    """LMCache's views have a format that slices cannot be assigned to."""
    return memoryview(chunk.byte_array).cast("B")
