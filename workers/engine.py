"""The Engine protocol: what an engine actor can do to the one engine it hosts, and its errors.

Plain values and errors, without vLLM, Ray or torch, so that whoever talks to engines can
import them. All calls are asynchronous and made one at a time by the pool; each either
returns its report or raises one of the errors below. After any error but Refused the engine
must be stopped: what it holds is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from kv_store.settings import KVAttachment


class Rest(Enum):
    """Where a sleeping engine keeps its weights; vLLM's levels, and the rung above them."""

    KV_RELEASED = "kv_released"
    LEVEL_1 = "level_1"
    LEVEL_2 = "level_2"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything an engine is started with."""

    model: str
    """The name that clients use; vLLM's ``--served-model-name``."""
    path: str
    """A directory or a hub name."""
    revision: str | None = None
    engine_args: dict[str, Any] = field(default_factory=dict)
    """vLLM's own arguments by their Python names, passed through."""
    env: dict[str, str] = field(default_factory=dict)
    kind: str = "vllm"
    """``vllm`` or ``fake``."""
    canary_sampling: float = 1.0
    """Share of wakes after which the canary is asked; 1.0: every one."""
    keeps_kv: bool = False
    """It is to be attached to the KV tier of its node, where there is one."""
    kv: KVAttachment | None = None
    """The node's KV tier. A model without KV, or whose name LMCache cannot take, starts without."""

    @property
    def ranks(self) -> int:
        """Tensor-parallel size."""
        return int(self.engine_args.get("tensor_parallel_size", 1))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the engine's own OpenAI server listens, and the bearer key it demands."""

    host: str
    port: int
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Memory:
    """Measured bytes of one engine, all its processes: on each device, and on the host.

    Without a GPU everything is ``device_bytes`` (one memory, one budget): proportional set
    size, shared memory counted once.
    """

    device_bytes: int
    host_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """How an order went. ``phases_s``: seconds by phase, in order, e.g. weights, kv, canary."""

    memory: Memory
    phases_s: dict[str, float]
    freed: dict[str, int] = field(default_factory=dict)
    """Bytes that came free by kind (weights, packed, kv), and ``remained``: what did not."""
    kv_identity: str = ""
    """What its KV depends on but for the asker (``kv_store.keys``); empty: it keeps none.
    Told by starts and wakes; the weights may have changed."""


@dataclass(frozen=True, slots=True)
class KVExport:
    """What stands in the durable tier, in chunks; ``failed`` ones will be recomputed."""

    kept: int
    """All that are there; ``written`` of them came during the export."""
    written: int
    failed: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an engine is."""

    steps: int
    """Grows for as long as it works."""
    running: int
    """Requests in it; with none it need not step."""
    longest_step_s: float | None
    """So long may a step take, by what was measured; None: not known yet."""


@dataclass(frozen=True, slots=True)
class Started(Report):
    """A finished start; ``endpoint`` answers and the canary is recorded."""

    endpoint: Endpoint = field(kw_only=True)
    max_model_len: int = field(kw_only=True)
    pids: tuple[int, ...] = field(kw_only=True)
    """Every process of the engine, the actor's own first."""


class EngineError(Exception):
    """An order failed. The message says what an operator needs, without prompts or keys."""


class StartFailed(EngineError):
    """The engine did not come up (bad arguments, no weights, no memory)."""


class OutOfMemory(EngineError):
    """The engine could not have the memory that the order takes."""


class CanaryMismatch(EngineError):
    """Awake, but its answers are not those from before."""


class EngineGone(EngineError):
    """The actor, or a process under it, is dead or out of reach."""


class KeepsNoKV(EngineError):
    """The node has no KV tier."""


class OrderTimedOut(EngineError):
    """No answer in time; the engine may or may not carry the order out."""


class Engine(Protocol):
    async def start(self) -> Started: ...

    async def sleep(self, rest: Rest, keep: bool = False) -> Report:
        """To ``rest``, from awake or from any shallower rest. Nothing may be running, or
        (``keep``) what runs is frozen: it says nothing more, and goes on after the wake."""
        ...

    async def wake(self) -> Report:
        """What was frozen goes on only once the canary agreed. Raises CanaryMismatch if the
        answers are not those from before; then it never does."""
        ...

    async def export(self) -> KVExport:
        """What its requests computed, to the durable tier. Nothing may be running. Raises
        EngineError where it keeps no KV, or the tier is away."""
        ...

    async def stop(self) -> None: ...

    async def progress(self) -> Progress:
        """At any time, whatever is under way."""
        ...

    async def probe(self) -> Memory: ...
