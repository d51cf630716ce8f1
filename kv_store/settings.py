"""What the KV tier of a node is started with, and what an engine needs to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

Compression = Literal["none", "zstd", "fp8"]
LOSSY: tuple[Compression, ...] = ("fp8",)
MIB = 1024 * 1024
VLLM_BLOCK_TOKENS = 128
"""vLLM's block on a CPU; the blocks of other platforms divide it."""


@dataclass(frozen=True, slots=True)
class Directory:
    """The durable tier in files. ``limit_bytes`` None: until the disk is full."""

    path: Path
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Redis:
    """The durable tier in Redis or Valkey. ``ca``: a file that says whom to trust, with TLS."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    connections: int = 4
    tls: bool = False
    ca: Path | None = None
    prefix: str = ""
    """Of all names."""

    def with_password(self, password: str) -> Redis:
        return replace(self, password=password)


@dataclass(frozen=True, slots=True)
class S3:
    """The durable tier in a bucket. ``endpoint`` None: Amazon's own. Without ``credentials`` the
    server looks where Amazon's tools do: a profile, the role of a Pod or a machine."""

    bucket: str
    region: str
    endpoint: str | None = None
    ca: Path | None = None
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By the names that Amazon's tools give them in the environment."""
    prefix: str = ""
    """Of all names."""


Durable = Directory | Redis | S3


def named(variable: str, destination: str) -> str:
    """A variable of the environment, of one destination."""
    return f"{variable}_{destination.upper().replace('-', '_')}" if destination else variable


@dataclass(frozen=True, slots=True)
class TierSettings:
    """One LMCache server. ``name`` is unique on the host: its shared memory bears it.

    ``key`` seals what lies in the durable tier; empty: a digest does. ``compression``: what
    becomes of chunks there (``kv_store.packing``).
    """

    name: str
    host_bytes: int
    durable: Durable | None
    chunk_tokens: int = VLLM_BLOCK_TOKENS
    host: str = "127.0.0.1"
    key: bytes = field(default=b"", repr=False)
    destinations: Mapping[str, Durable] = field(default_factory=dict)
    """Other durable tiers, by the name that a salt tells (``kv_store.keys``)."""
    compression: Compression = "none"

    def __post_init__(self) -> None:
        if self.chunk_tokens <= 0 or self.chunk_tokens % VLLM_BLOCK_TOKENS:
            raise ValueError(f"chunk_tokens must be a multiple of {VLLM_BLOCK_TOKENS}")
        if not self.name.replace("-", "").isalnum():
            raise ValueError(f"a tier's name is letters, digits and dashes: {self.name!r}")

    @property
    def durables(self) -> dict[str, Durable]:
        """By destination; the fleet's own has no name."""
        own = {} if self.durable is None else {"": self.durable}
        return own | dict(self.destinations)


@dataclass(frozen=True, slots=True)
class KVAttachment:
    """What an engine needs to attach. All limits are upper bounds of a wait for the server."""

    host: str
    port: int
    http_port: int | None = None
    """Of ``LMCacheClient``; None: hits are not told apart by tier."""
    durable: Mapping[str, str] = field(default_factory=lambda: {"": "durable"})
    """What the durable tier of each destination is called in ``x-torpor-kv``."""
    chunk_tokens: int = VLLM_BLOCK_TOKENS
    call_limit_s: float = 5.0
    """One message and its answer; a store or a load waits this long, once, for a dead server."""
    lookup_limit_s: float = 20.0
    """How long a request waits for its KV to come from the durable tier before it recomputes."""
    heartbeat_s: float = 2.0
    reports: str | None = None
    """Path of a datagram socket that is told what each request found and stored."""
