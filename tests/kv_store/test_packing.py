"""What becomes of chunks' numbers on their way to the durable tier and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kv_store.directory_adapter import DirectoryAdapter, DirectoryConfig
from kv_store.forms import Form
from kv_store.packing import Fp8, Lossless, Packing, packing_of
from kv_store.seals import DigestSeal
from tests.kv_store.adapters import CHUNKS, KEYS, loaded, stored

PLAIN, ZSTD = Lossless(compresses=False), Lossless(compresses=True)
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.uint8]


def numbers(dtype: torch.dtype) -> torch.Tensor:
    """Spread as keys and values are."""
    chance = torch.Generator().manual_seed(0)
    return (torch.randn(4096, generator=chance) * 4).to(dtype)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.view(torch.uint8).numpy()).cast("B")


def unpacked(packing: Packing, packed: bytes, chunk_bytes: int, dtype: torch.dtype) -> bytes | None:
    memory = bytearray(chunk_bytes)
    body = memoryview(memory)[: len(packed)]
    body[:] = packed
    return bytes(memory) if packing.unpack(body, memoryview(memory), dtype) else None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lossless_gives_back_every_bit_whoever_has_packed_it(dtype: torch.dtype) -> None:
    chunk = bytes_of(numbers(dtype))

    for packing in (PLAIN, ZSTD):
        packed = bytes(packing.pack(chunk, dtype))
        for reader in (PLAIN, ZSTD):
            assert unpacked(reader, packed, len(chunk), dtype) == chunk


@given(st.binary(min_size=64, max_size=4096).map(lambda some: some[: len(some) // 4 * 4]))
def test_nothing_is_longer_or_other_than_it_was(some: bytes) -> None:
    chunk = memoryview(bytearray(some))
    packed = bytes(ZSTD.pack(chunk, torch.float32))

    assert len(packed) <= len(some)
    assert unpacked(ZSTD, packed, len(some), torch.float32) == some


def test_numbers_of_like_size_take_less_room() -> None:
    chunk = bytes_of(numbers(torch.bfloat16))

    assert len(ZSTD.pack(chunk, torch.bfloat16)) < 0.8 * len(chunk)
    assert len(Fp8().pack(chunk, torch.bfloat16)) == len(chunk) // 2


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_what_is_cast_is_near_what_it_was(dtype: torch.dtype) -> None:
    was = torch.cat([numbers(dtype), torch.tensor([0.0, 1e5, -1e5], dtype=torch.float32).to(dtype)])
    chunk = bytes_of(was.clone())
    packed = bytes(Fp8().pack(chunk, dtype))

    came = unpacked(Fp8(), packed, len(chunk), dtype)
    assert came is not None
    now = torch.frombuffer(bytearray(came), dtype=dtype).float()
    torch.testing.assert_close(now, was.float().clamp(-448, 448), rtol=1 / 15, atol=2**-9)


def test_what_has_8_bits_stays() -> None:
    chunk = bytes_of(numbers(torch.uint8))
    packed = bytes(Fp8().pack(chunk, torch.uint8))

    assert packed == chunk
    assert unpacked(Fp8(), packed, len(chunk), torch.uint8) == chunk


@pytest.mark.parametrize("packing", [PLAIN, ZSTD, Fp8()], ids=["none", "zstd", "fp8"])
def test_a_body_of_another_size_is_refused(packing: Packing) -> None:
    longer = bytes(ZSTD.pack(memoryview(bytearray(4096)), torch.bfloat16))

    for body in (longer, longer[:-1], b"", b"no frame"):
        assert unpacked(packing, body, 1000, torch.bfloat16) is None


async def test_who_is_to_lose_nothing_never_finds_what_was_cast(tmp_path: Path) -> None:
    def opened(compression: str) -> DirectoryAdapter:
        form = Form(DigestSeal(), packing_of(compression))
        return DirectoryAdapter(DirectoryConfig(tmp_path, None), form)

    casting, exact, none = opened("fp8"), opened("zstd"), opened("none")
    try:
        assert await stored(casting, KEYS[:1], CHUNKS[:1])
        assert await loaded(exact, KEYS[:1]) == await loaded(none, KEYS[:1]) == {}
        assert 0 in await loaded(casting, KEYS[:1])
        assert await stored(exact, KEYS[:1], CHUNKS[:1])
        assert await loaded(none, KEYS[:1]) == {0: CHUNKS[0]}
    finally:
        for adapter in (casting, exact, none):
            adapter.close()
