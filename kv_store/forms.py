"""How a chunk lies in the durable tier: packed, then sealed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.memory_management import MemoryObj

from kv_store.packing import Packing
from kv_store.seals import Seal, Sealed


@dataclass(frozen=True, slots=True)
class Chunk:
    """In LMCache's memory."""

    key: ObjectKey
    memory: memoryview
    dtype: torch.dtype

    @classmethod
    def of(cls, key: ObjectKey, held: MemoryObj) -> Chunk:
        return cls(key, memoryview(held.byte_array).cast("B"), held.get_dtype())


@dataclass(frozen=True, slots=True)
class Form:
    seal: Seal
    packing: Packing

    @property
    def name(self) -> str:
        """Chunks of another form are not found."""
        return "-".join(filter(None, (self.seal.name, self.packing.name)))

    @property
    def head_bytes(self) -> int:
        return self.seal.head_bytes

    def close(self, chunk: Chunk) -> Sealed:
        packed = self.packing.pack(chunk.memory, chunk.dtype)
        return self.seal.close(chunk.key, memoryview(packed))

    def open(self, chunk: Chunk, head: bytes, body: memoryview) -> bool:
        """``body`` is where the chunk's memory begins. Where it is the chunk's, its memory holds
        the chunk afterwards; else nothing."""
        is_ours = self.seal.open(chunk.key, head, body)
        return is_ours and self.packing.unpack(body, chunk.memory, chunk.dtype)
