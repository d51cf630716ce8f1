"""An engine's hand on the KV tier, without the engine: stores and loads chunks of random numbers.

It speaks to a real LMCache server as an engine's worker does, so that what concerns the tier
alone is tested in milliseconds.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from multiprocessing import shared_memory
from multiprocessing.resource_tracker import unregister

import zmq
from lmcache.v1.multiprocess.custom_types import (
    IPCCacheServerKey,
    RegisterEngineDrivenContextPayload,
)
from lmcache.v1.multiprocess.transport.factory import RequestClientFactory

from kv_store.lmcache_client import Prefix
from kv_store.settings import KVAttachment

LIMIT_S = 10.0
LAYERS, HIDDEN = 2, 16


class Hand:
    """``chunk`` bytes are float32 of 2 planes, 2 layers, 16 wide: 32 KiB for 128 tokens.

    Of an engine with several ``ranks`` it is that of one of them; each stores a part of its own of
    every token's KV, and one looks up for all.
    """

    def __init__(
        self, attachment: KVAttachment, model: str, *, rank: int = 0, ranks: int = 1
    ) -> None:
        self.model = model
        self._rank, self._ranks = rank, ranks
        self._chunk_tokens = attachment.chunk_tokens
        self._context = zmq.Context()
        url = f"tcp://{attachment.host}:{attachment.port}"
        self._client = RequestClientFactory.create(url, context=self._context)
        self._instance = uuid.uuid4().int >> 65
        self._pool = self._register()

    def prefix(self, tokens: list[int], salt: str = "s") -> Prefix:
        return Prefix(self.model, salt, tokens, self._ranks)

    def store(self, tokens: list[int], salt: str = "s") -> list[bytes]:
        """Random numbers for all whole chunks; what lies in the host tier already stays."""
        key = self._key(tokens, salt)
        prepared = self._client.prepare_store(key, self._instance).result(timeout=LIMIT_S)
        written = []
        slots = prepared.context["slots"]
        if not slots:
            return []
        for slot in slots:
            chunk = _numbers(slot["length"])
            self._pool.buf[slot["offset"] : slot["offset"] + slot["length"]] = chunk
            written.append(chunk)
        assert self._client.commit_store(key, self._instance, b"").result(timeout=LIMIT_S)
        return written

    def lookup(self, tokens: list[int], salt: str = "s", request: str | None = None) -> int:
        """How many chunks of the prefix hit; their locks are given back."""
        key = self._key(tokens, salt, request).no_worker_id_version()
        chunks = self._looked_up(key)
        if chunks:
            self._client.free_lookup_locks(key, 1).result(timeout=LIMIT_S)
        self._end(key.request_id)
        return chunks

    def load(self, tokens: list[int], salt: str = "s", others: Sequence[Hand] = ()) -> list[bytes]:
        """What an engine would get: the bytes of the chunks that hit, on each rank in turn."""
        key = self._key(tokens, salt)
        chunks = self._looked_up(key.no_worker_id_version())
        if not chunks:
            return []
        hit = tokens[: chunks * self._chunk_tokens]
        loaded = [each._retrieved(hit, salt, key.request_id) for each in (self, *others)]
        self._end(key.request_id)
        return [chunk for of_rank in loaded for chunk in of_rank]

    def _looked_up(self, key: IPCCacheServerKey) -> int:
        self._client.lookup(key, self._ranks).result(timeout=LIMIT_S)
        answer = self._client.wait_prefetch_status(key.request_id, LIMIT_S)
        chunks = answer.result(timeout=2 * LIMIT_S)
        assert chunks is not None
        return int(chunks)

    def _retrieved(self, tokens: list[int], salt: str, request: str) -> list[bytes]:
        key = self._key(tokens, salt, request)
        answer = self._client.prepare_retrieve(key, self._instance).result(timeout=LIMIT_S)
        slots = answer.context["slots"]
        loaded = [bytes(self._pool.buf[s["offset"] : s["offset"] + s["length"]]) for s in slots]
        self._client.commit_retrieve(key, self._instance).result(timeout=LIMIT_S)
        return loaded

    def _end(self, request: str) -> None:
        self._client.end_session(request).result(timeout=LIMIT_S)

    def clear_as_stock_does(self) -> None:
        """What stock LMCache sends when an engine sleeps."""
        self._client.clear(force=False).result(timeout=LIMIT_S)

    def close(self) -> None:
        self._client.unregister_kv_cache_engine_driven_context(self._instance)
        self._client.close()
        self._pool.close()
        self._context.destroy(linger=0)

    def _register(self) -> shared_memory.SharedMemory:
        payload = RegisterEngineDrivenContextPayload(
            instance_id=self._instance,
            model_name=self.model,
            world_size=self._ranks,
            block_size=self._chunk_tokens,
            num_layers=LAYERS,
            hidden_dim_size=HIDDEN,
            dtype_str="float32",
            use_mla=False,
            num_physical_slots=self._chunk_tokens,
        )
        answer = self._client.register_kv_cache_engine_driven_context(payload)
        registered = answer.result(timeout=LIMIT_S)
        pool = shared_memory.SharedMemory(registered.shm_name)
        unregister(pool._name, "shared_memory")
        return pool

    def _key(self, tokens: list[int], salt: str, request: str | None = None) -> IPCCacheServerKey:
        whole = len(tokens) // self._chunk_tokens * self._chunk_tokens
        return IPCCacheServerKey(
            num_kv_readers=1,
            model_name=self.model,
            world_size=self._ranks,
            worker_id=self._rank,
            token_ids=tuple(tokens),
            start=0,
            end=whole,
            request_id=request or uuid.uuid4().hex,
            cache_salt=salt,
            request_configs=None,
        )


def _numbers(length: int) -> bytes:
    """Of four bytes, all of one sign and exponent but for its last bit."""
    drawn = bytearray(random.randbytes(length))
    drawn[3::4] = bytes([0x40]) * (length // 4)
    return bytes(drawn)


def tokens(chunks: int, seed: int = 0, chunk_tokens: int = 128) -> list[int]:
    luck = random.Random(seed)
    return [luck.randrange(50_000) for _ in range(chunks * chunk_tokens)]
