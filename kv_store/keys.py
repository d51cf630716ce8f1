"""The salt: what must be equal for KV of one request to serve another.

LMCache's key of a chunk is model path, rank and hash of the tokens: it knows neither what lies
under the path nor who asks. vLLM hands each request's ``cache_salt`` on to it, so everything else
that KV depends on goes into the salt, as one digest. It is set by the controller on every
request, recomputed at each reload of weights, and clients cannot set it.

The weights' fingerprint reads *all* of small files and samples of large ones: the whole header of
each safetensors file (names, dtypes, shapes, offsets), its size, and blocks of each tensor.
Hashing everything would read 16 GB at each wake from level 2 of an 8B model. Sampling misses a
change that touches none of the blocks; a checkpoint that was trained, quantized, merged or
converted differs nearly everywhere, so each tensor is sampled at its beginning, middle and end.
``is_whole`` hashes everything, for who edits single weights by hand. Modification times are left
out: the same weights on another node must give the same salt.

Behind the digest the salt may tell a *destination*: which of several durable tiers KV goes to. The
node's server reads it there, since a chunk's key is all that it is told.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3

LAYOUT = "lmcache-0.5.6/engine-driven/1"
"""How LMCache lays chunks out; another version, or another way to transfer, another salt."""

_WHOLE_BYTES = 1024 * 1024
"""Files up to this size are read in full."""
_SAMPLE_BYTES = 4096
_SAMPLES = 3
_READ_BYTES = 8 * 1024 * 1024
_LARGEST_HEADER_BYTES = 100 * 1024 * 1024
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_TO = "~"
_DESCRIPTIONS = ("config.json", "quantize_config.json", "hf_quant_config.json")
_LENGTH = struct.Struct("<Q")


class Isolation(Enum):
    """Who may find whose KV."""

    TENANT = "tenant"
    CONVERSATION = "conversation"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class KVIdentity:
    """Everything but the tokens and the asker that an engine's KV depends on."""

    weights: str
    """``fingerprint`` of the directory, or the resolved commit of a hub name."""
    dtype: str
    kv_dtype: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Rope scaling and whatever else changes what the model computes; JSON values."""
    lora: str = ""
    """Fingerprint of the adapter, empty for none."""
    layout: str = LAYOUT

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return blake3(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def salt(self, domain: str) -> str:
        """Of a request of that domain (``domain_of``)."""
        return salt_of(self.digest, domain)


@lru_cache(maxsize=4096)
def salt_of(identity: str, domain: str, destination: str = "", *, lossy: str = "") -> str:
    """64 hexadecimal digits, of an identity's digest and a domain, and of how chunks lose precision
    in the durable tier, where they do (``kv_store.packing``); then the destination, if it is not
    the fleet's own."""
    told = [identity, domain, lossy] if lossy else [identity, domain]
    digest = blake3(json.dumps(told).encode()).hexdigest()
    return f"{digest}{_TO}{destination}" if destination else digest


def destination_of(salt: str) -> str:
    """Empty: the fleet's own."""
    return salt.partition(_TO)[2]


@lru_cache(maxsize=4096)
def domain_of(isolation: Isolation, *, tenant: str, conversation: str = "") -> str:
    """Within ``NONE`` all share; else never two tenants, whatever their conversations are called.

    A request without a conversation shares with its tenant's other such requests.
    """
    match isolation:
        case Isolation.NONE:
            parts = ["none"]
        case Isolation.TENANT:
            parts = ["tenant", tenant]
        case Isolation.CONVERSATION:
            parts = ["conversation", tenant, conversation]
    return json.dumps(parts)


def fingerprint(directory: Path, *, is_whole: bool = False) -> str:
    """Of the weights in a checkpoint's directory. Raises OSError, ValueError (no weights)."""
    hasher = blake3()
    files = sorted({file for pattern in _WEIGHTS for file in directory.glob(pattern)})
    if not files:
        raise ValueError(f"no weights in {directory}")
    descriptions = (directory / name for name in _DESCRIPTIONS)
    for file in (*files, *filter(Path.is_file, descriptions)):
        hasher.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        for block in _blocks(file, is_whole=is_whole):
            hasher.update(block)
    return hasher.hexdigest()


def _blocks(file: Path, *, is_whole: bool) -> Iterator[bytes]:
    with file.open("rb") as opened:
        size = file.stat().st_size
        if is_whole or size <= _WHOLE_BYTES:
            while block := opened.read(_READ_BYTES):
                yield block
        elif file.suffix == ".safetensors":
            yield from _safetensors_blocks(opened, size)
        else:
            yield from _samples(opened, [(0, size)], samples=256)


def _safetensors_blocks(opened: BinaryIO, size: int) -> Iterator[bytes]:
    """The header, and blocks of each tensor. Raises ValueError if it is not safetensors."""
    (length,) = _LENGTH.unpack(opened.read(_LENGTH.size))
    if length > min(size, _LARGEST_HEADER_BYTES):
        raise ValueError(f"{opened.name} is not a safetensors file")
    header = opened.read(length)
    yield header
    begin = _LENGTH.size + length
    described = json.loads(header)
    spans = [
        (begin + entry["data_offsets"][0], begin + entry["data_offsets"][1])
        for name, entry in described.items()
        if name != "__metadata__"
    ]
    yield from _samples(opened, sorted(spans), samples=_SAMPLES)


def _samples(
    opened: BinaryIO, spans: Iterable[tuple[int, int]], *, samples: int
) -> Iterator[bytes]:
    """From each span, evenly spread, its very beginning and end among them."""
    for begin, end in spans:
        room = max(0, end - begin - _SAMPLE_BYTES)
        for number in range(samples):
            opened.seek(begin + room * number // (samples - 1))
            yield opened.read(min(_SAMPLE_BYTES, end - begin))
