"""How a chunk is made smaller on its way to the durable tier, before it is sealed.

- ``Lossless``: as it is, or by zstd. The bytes of one significance are put side by side first:
  signs and exponents, which repeat, apart from mantissas, which do not. What does not get smaller
  lies there as it is, and a body as long as its chunk says so; whoever can read one of both can
  read the other, so a fleet may change between them and finds what it has.
- ``Fp8``: each number cast to 8 bits (e4m3, as vLLM's own ``kv_cache_dtype: fp8`` without scales;
  larger ones end at 448). It loses precision, so what was computed over it may differ. Chunks that
  went this way have another name in the store (``name``) and another salt (``kv_store.keys``):
  a fleet that is set to lose nothing never finds them.

LMCache's own serdes are not used: they cast what is larger than 448 to not-a-number, and know no
lossless one. A packed body is never longer than its chunk; it is read into the chunk's own memory
and unpacked there.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from backports import zstd

Bytes = bytes | bytearray | memoryview
FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FP8).max
_LEVEL = 1
"""Higher ones took longer and made KV of bfloat16 no smaller."""


class Packing(Protocol):
    @property
    def name(self) -> str:
        """Of a form that others cannot read, or must not; else empty."""
        ...

    def pack(self, chunk: memoryview, dtype: torch.dtype) -> Bytes: ...

    def unpack(self, body: memoryview, chunk: memoryview, dtype: torch.dtype) -> bool:
        """``body`` is where ``chunk`` begins, and whole; False: it is none of ours."""
        ...


class Lossless:
    name = ""

    def __init__(self, *, compresses: bool) -> None:
        self._compresses = compresses

    def pack(self, chunk: memoryview, dtype: torch.dtype) -> Bytes:
        if not self._compresses:
            return chunk
        packed = zstd.compress(_rows(chunk, dtype).T.tobytes(), _LEVEL)
        return packed if len(packed) < len(chunk) else chunk

    def unpack(self, body: memoryview, chunk: memoryview, dtype: torch.dtype) -> bool:
        if len(body) == len(chunk):
            return True
        try:
            unpacked = zstd.ZstdDecompressor().decompress(body, max_length=len(chunk) + 1)
        except zstd.ZstdError:
            return False
        if len(unpacked) != len(chunk):
            return False
        planes = np.frombuffer(unpacked, np.uint8).reshape(dtype.itemsize, -1)
        _rows(chunk, dtype)[:] = planes.T
        return True


class Fp8:
    name = "fp8"

    def pack(self, chunk: memoryview, dtype: torch.dtype) -> Bytes:
        if not _is_wide(dtype):
            return chunk
        numbers = torch.frombuffer(chunk, dtype=dtype).clamp(-_LARGEST, _LARGEST)
        return memoryview(numbers.to(FP8).view(torch.uint8).numpy())

    def unpack(self, body: memoryview, chunk: memoryview, dtype: torch.dtype) -> bool:
        if not _is_wide(dtype):
            return len(body) == len(chunk)
        if len(body) * dtype.itemsize != len(chunk):
            return False
        chunk[:] = memoryview(_widened(dtype)[np.frombuffer(body, np.uint8)]).cast("B")
        return True


def packing_of(compression: str) -> Packing:
    """By its name in fleet.yaml."""
    return Fp8() if compression == Fp8.name else Lossless(compresses=compression == "zstd")


def _rows(chunk: memoryview, dtype: torch.dtype) -> Any:
    """Of bytes, a number each."""
    return np.frombuffer(chunk, np.uint8).reshape(-1, dtype.itemsize)


def _is_wide(dtype: torch.dtype) -> bool:
    return bool(dtype.is_floating_point) and dtype.itemsize > FP8.itemsize


@cache
def _widened(dtype: torch.dtype) -> Any:
    """What each byte stands for: looking it up is faster than torch's cast."""
    every = torch.arange(256, dtype=torch.uint8).view(FP8).to(dtype)
    return every.view(torch.uint8).numpy().view(f"u{dtype.itemsize}")
