"""Orders to a durable adapter, as LMCache gives them, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from lmcache.v1.distributed.api import ObjectKey

from kv_store.durable_adapter import DurableAdapter
from tests.workers.stand import eventually


def _numbers(seed: int) -> bytes:
    """500 of bfloat16, all of one exponent."""
    return bytes(byte for low in Random(seed).randbytes(500) for byte in (low, seed))


CHUNKS = [_numbers(number) for number in range(20)]
KEYS = [ObjectKey(bytes([number]) * 32, "m", 1, 0, "s") for number in range(20)]


@dataclass
class Buffer:
    """As much of LMCache's memory as an adapter sees."""

    byte_array: bytearray

    def get_dtype(self) -> torch.dtype:
        return torch.bfloat16


def buffers(contents: list[bytes]) -> list[Any]:
    return [Buffer(bytearray(content)) for content in contents]


async def stored(adapter: DurableAdapter, keys: list[ObjectKey], chunks: list[bytes]) -> bool:
    task = adapter.submit_store_task(keys, buffers(chunks))
    done = await _result(lambda: adapter.pop_completed_store_tasks() or None)
    return bool(done[task].is_successful())


async def looked(adapter: DurableAdapter, keys: list[ObjectKey]) -> list[int]:
    task = adapter.submit_lookup_and_lock_task(keys, {})
    bitmap = await _result(lambda: adapter.query_lookup_and_lock_result(task))
    return list(bitmap.get_indices_list())


async def loaded(
    adapter: DurableAdapter, keys: list[ObjectKey], size: int = 1000
) -> dict[int, bytes]:
    into = buffers([bytes(size) for _ in keys])
    task = adapter.submit_load_task(keys, into)
    bitmap = await _result(lambda: adapter.query_load_result(task))
    return {index: bytes(into[index].byte_array) for index in bitmap.get_indices_list()}


async def _result(query: Callable[[], Any]) -> Any:
    found: list[Any] = []

    def asked() -> bool:
        answer = query()
        if answer is not None:
            found.append(answer)
        return bool(found)

    await eventually(asked)
    return found[0]
