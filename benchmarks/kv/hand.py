"""What an engine's worker does at the KV tier, without the engine: it has chunks stored.

``SHAPE`` is SmolLM2's KV: a chunk of 128 tokens takes 2.8 MiB.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from multiprocessing import shared_memory
from multiprocessing.resource_tracker import unregister
from typing import Any, Self

from kv_store.lmcache_client import Prefix
from kv_store.settings import KVAttachment

MODEL = "bench"
_SALT = "bench"
_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    hidden: int
    """Numbers of a layer's keys for a token, and as many of its values; of two bytes each."""

    def chunk_bytes(self, chunk_tokens: int) -> int:
        return chunk_tokens * self.layers * 2 * self.hidden * 2


SHAPE = Shape(layers=30, hidden=192)


class Hand:
    """``store`` writes into the server's shared memory; ``publish`` tells the server so."""

    def __init__(self, attachment: KVAttachment, shape: Shape = SHAPE) -> None:
        import zmq
        from lmcache.v1.multiprocess.transport.factory import RequestClientFactory

        self._chunk_tokens = attachment.chunk_tokens
        self._context = zmq.Context()
        url = f"tcp://{attachment.host}:{attachment.port}"
        self._client: Any = RequestClientFactory.create(url, context=self._context)
        self._instance = uuid.uuid4().int >> 65
        self._pool = self._register(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.unregister_kv_cache_engine_driven_context(self._instance)
        self._client.close()
        self._pool.close()
        self._context.destroy(linger=0)

    def prefix(self, tokens: list[int]) -> Prefix:
        return Prefix(MODEL, _SALT, tokens)

    def write(self, tokens: list[int]) -> list[bytes]:
        """Chunks of random bytes into the host tier, where nobody sees them before ``publish``."""
        assert self._pool.buf is not None
        prepared = self._client.prepare_store(self._key(tokens), self._instance)
        written = []
        for slot in prepared.result(timeout=_LIMIT_S).context["slots"]:
            chunk = os.urandom(slot["length"])
            self._pool.buf[slot["offset"] : slot["offset"] + slot["length"]] = chunk
            written.append(chunk)
        return written

    def publish(self, tokens: list[int]) -> None:
        committed = self._client.commit_store(self._key(tokens), self._instance, b"")
        assert committed.result(timeout=_LIMIT_S)

    def clear(self) -> None:
        """The host tier, of everything."""
        self._client.clear(force=True).result(timeout=_LIMIT_S)

    def _register(self, shape: Shape) -> shared_memory.SharedMemory:
        from lmcache.v1.multiprocess.custom_types import RegisterEngineDrivenContextPayload

        payload = RegisterEngineDrivenContextPayload(
            instance_id=self._instance,
            model_name=MODEL,
            world_size=1,
            block_size=self._chunk_tokens,
            num_layers=shape.layers,
            hidden_dim_size=shape.hidden,
            dtype_str="bfloat16",
            use_mla=False,
            num_physical_slots=self._chunk_tokens,
        )
        answer = self._client.register_kv_cache_engine_driven_context(payload)
        pool = shared_memory.SharedMemory(answer.result(timeout=_LIMIT_S).shm_name)
        unregister(f"/{pool.name}", "shared_memory")
        return pool

    def _key(self, tokens: list[int]) -> Any:
        from lmcache.v1.multiprocess.custom_types import IPCCacheServerKey

        return IPCCacheServerKey(
            num_kv_readers=1,
            model_name=MODEL,
            world_size=1,
            worker_id=0,
            token_ids=tuple(tokens),
            start=0,
            end=len(tokens) // self._chunk_tokens * self._chunk_tokens,
            request_id=uuid.uuid4().hex,
            cache_salt=_SALT,
            request_configs=None,
        )
