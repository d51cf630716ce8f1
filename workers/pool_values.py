"""What a pool tells about nodes and engines. Plain values, for adapters and controller alike."""

from __future__ import annotations

from dataclasses import dataclass

from workers.engine import Endpoint, EngineSpec, Memory, Rest


@dataclass(frozen=True, slots=True)
class NodeFound:
    """A node of the pool and what it may use."""

    node: str
    devices: tuple[tuple[str, int], ...]
    """(device, bytes in all)"""
    host_bytes: int


@dataclass(frozen=True, slots=True)
class ResourceMemory:
    """A device of a node, or its host, at this moment."""

    name: str
    total_bytes: int
    free_bytes: int
    """Nobody holds it; page cache counts as free."""
    own_bytes: int | None
    """What engines of this fleet and its KV tier hold; None: that cannot be seen."""


@dataclass(frozen=True, slots=True)
class NodeMemory:
    node: str
    devices: tuple[ResourceMemory, ...]
    host: ResourceMemory
    """Without a GPU, the same memory as the device's."""
    stalled_percent: float
    """So much of the last ten seconds did some task wait for memory."""
    tier_bytes: int | None = None
    """So large may the KV tier on its host grow at present; None: there is none, or its size
    cannot be changed."""


@dataclass(frozen=True, slots=True)
class EngineSeen:
    """An engine that was running before this controller was."""

    replica: str
    model: str
    incarnation: int
    rest: Rest | None
    """None: awake."""
    node: str
    devices: tuple[str, ...]
    memory: Memory
    endpoint: Endpoint
    max_model_len: int
    spec: EngineSpec
    kv_identity: str = ""
    """As its start or its last wake told."""


@dataclass(frozen=True, slots=True)
class EngineDied:
    replica: str
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class OrderLimits:
    """How long a pool waits for each order before it raises OrderTimedOut."""

    start_s: float = 900.0
    place_s: float = 30.0
    """Of the start of a tensor-parallel engine, for its place in Ray; then it has failed."""
    export_s: float = 30.0
    sleep_s: float = 120.0
    wake_s: float = 120.0
    stop_s: float = 10.0
    """An engine that has not stopped by itself by then is killed: not an error."""
    adopt_s: float = 30.0
    """An engine that has not ended a dead controller's order by then is not adopted."""
