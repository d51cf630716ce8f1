"""What the controller needs of the world, as Protocols declared by their user.

The values and errors of the Pool are those of ``workers.engine``, which imports nothing:
the adapters need nothing of the controller, and the controller nothing of vLLM or Ray.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from controller.core.names import NO_AFFINITY, Affinity, ModelState, Priority, RejectReason
from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from workers.engine import Endpoint, EngineSpec, KVExport, Progress, Report, Rest, Started
from workers.pool_values import EngineDied as EngineDied
from workers.pool_values import EngineSeen as EngineSeen
from workers.pool_values import NodeFound as NodeFound
from workers.pool_values import NodeMemory as NodeMemory


class Pool(Protocol):
    """Where engines live. One order at a time for each replica."""

    async def open(self) -> None: ...

    async def close(self) -> None:
        """Let go; engines go on running."""
        ...

    async def nodes(self) -> list[NodeFound]: ...

    def watch_nodes(self) -> AsyncIterator[list[NodeFound]]:
        """The nodes that are there: at once, and whenever one has joined or left. Whatever ran
        on a node that left is gone. Ends where nodes cannot change."""
        ...

    def watch_memory(self) -> AsyncIterator[list[NodeMemory]]:
        """What the nodes' memory is used for, again and again. Ends where nobody measures it."""
        ...

    async def discover(self) -> list[EngineSeen]: ...

    async def start(
        self, replica: str, incarnation: int, spec: EngineSpec, node: str, devices: tuple[str, ...]
    ) -> Started: ...

    async def sleep(self, replica: str, rest: Rest, keep: bool = False) -> Report:
        """``keep``: what runs is frozen, and goes on once a wake has succeeded."""
        ...

    async def export(self, replica: str) -> KVExport:
        """What its requests computed, to the KV tier. Raises EngineError; the engine is well."""
        ...

    async def kv(self, node: str, order: KVOrder, prefix: Prefix, limit_s: float) -> Placed:
        """Of that node's KV tier. Raises EngineError."""
        ...

    async def resize_kv(self, node: str, to_bytes: int, limit_s: float) -> int:
        """That node's KV tier on the host: how large it may grow then. Raises EngineError."""
        ...

    async def wake(self, replica: str) -> Report: ...

    async def progress(self, replica: str) -> Progress:
        """Of an engine that runs. Raises EngineError; may never return."""
        ...

    async def kill(self, replica: str, incarnation: int) -> None:
        """At once and without asking it: all its processes. It is to be stopped all the same.
        Raises EngineError."""
        ...

    async def stop(self, replica: str, incarnation: int) -> None:
        """Returns when every process of that engine is gone; also if it was gone before."""
        ...

    def deaths(self) -> AsyncIterator[EngineDied]:
        """Engines that died by themselves, as soon as it is noticed."""
        ...


class Refused(Exception):
    """A request will not be served: the reason, and when to try again."""

    def __init__(
        self, reason: RejectReason, detail: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one request to use one replica until the context ends."""

    replica: str
    endpoint: Endpoint
    state: ModelState
    queued_s: float
    wake_s: float
    max_wait_s: float | None = None
    """The limit that the wait was under; a retry on another engine gets what remains of it.
    None: not told, a retry waits under the model's own limit again."""
    kv_identity: str = ""
    """What goes into the salt of a request there (``kv_store.keys``); empty: it keeps no KV."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a waiting request would like to know."""

    phase: str
    """Of the replica it waits for: ``waking``, ``starting``, ``queued`` …"""
    estimate_s: float


class Leases(Protocol):
    def acquire(
        self,
        model: str,
        *,
        request_id: str,
        tenant: str = "",
        max_wait_s: float | None = None,
        priority: Priority = Priority.DEFAULT,
        affinity: Affinity = NO_AFFINITY,
        can_freeze: bool = True,
    ) -> AbstractAsyncContextManager[Lease]:
        """Wait for a replica of ``model``, waking or starting one. Raises Refused.
        ``can_freeze``: the response may be suspended for others' sake.

        Leaving the context releases; cancelling the wait withdraws the request. The same
        ``request_id`` may be acquired again after release (a retry on a fresh engine).
        """
        ...

    def outlook(self, model: str) -> Outlook: ...

    def frozen(self) -> Collection[Endpoint]:
        """Engines whose requests are: they say nothing for a while, and then go on."""
        ...

    def report_broken(self, lease: Lease, reason: str) -> None:
        """The engine behind the lease did not answer: look at it now, not at the next beat."""
        ...


class RequestCounts(Protocol):
    """What is counted of requests while their bytes are carried."""

    def request(self, model: str, route: str, status: int) -> None:
        """A request ended; 499: its client left."""
        ...

    def granted(self, model: str, state: ModelState, queued_s: float) -> None: ...

    def first_byte(self, model: str, state: ModelState, seconds: float) -> None:
        """From the arrival of the request to the engine's first byte of a good answer."""
        ...

    def retried(self, model: str) -> None: ...

    def kv_found(self, model: str, told: bytes) -> None:
        """``told``: what an engine says of a prompt's KV."""
        ...


@dataclass(frozen=True, slots=True)
class ReplicaView:
    replica: str
    phase: str
    """``COLD``, ``STARTING``, ``AWAKE`` …: the core's Phase names."""
    depth: str | None
    """``kv_released``, ``level_1``, ``level_2`` while asleep."""
    residency: str
    node: str | None
    devices: tuple[str, ...]
    device_bytes: int
    host_bytes: int
    leases: int
    since_s: float
    """Seconds in this phase."""
    residual_growth_bytes: int = 0
    """So much more than at first does its engine keep when it sleeps, at the depth where it is
    most."""
    frozen: int = 0
    """Of the leases, those whose responses are suspended."""


@dataclass(frozen=True, slots=True)
class ModelView:
    model: str
    state: str
    """Of its best replica: ``awake``, ``waking``, ``starting``, ``draining``, ``hibernating``,
    ``falling_asleep``, ``frozen``, ``kv_released``, ``level_1``, ``level_2``, ``stopped``,
    ``failed``."""
    replicas: tuple[ReplicaView, ...]
    pinned: bool
    waiting: int
    running: int
    max_model_len: int | None
    """None until its engine was started once."""
    wake_estimate_s: float
    """From where its best replica is, to awake; measured costs where there are any. -1: as
    things are, never."""
    idle_s: float | None
    created: int
    """Unix seconds at which the model was configured."""


@dataclass(frozen=True, slots=True)
class NodeView:
    node: str
    devices: tuple[tuple[str, int, int], ...]
    """(device, bytes booked, bytes of budget)"""
    host_booked_bytes: int
    host_bytes: int
    taken: tuple[tuple[str, int], ...] = ()
    """(device or ``host``, bytes that others hold of what was named); only where it is any."""
    kv_tier: tuple[str, int, int] | None = None
    """(device or ``host``, bytes that its KV tier may grow to at present, bytes reserved for it);
    None: it keeps none, or its size cannot be changed."""


@dataclass(frozen=True, slots=True)
class ConfigView:
    """How the last look at a changed configuration file ended."""

    source: str
    at: float
    """Unix seconds of that look."""
    taken_at: float
    """Unix seconds at which a file was last taken over; an earlier one than ``at``: refused."""
    problems: tuple[str, ...] = ()
    """Why it was refused, and the one before is kept; empty: it was taken over."""
    needs_restart: tuple[str, ...] = ()
    """What in it will count only when the controller is started again."""


@dataclass(frozen=True, slots=True)
class FleetView:
    models: tuple[ModelView, ...]
    nodes: tuple[NodeView, ...]
    waiting: int
    config: ConfigView | None = None
    """None: no file is watched."""


@dataclass(frozen=True, slots=True)
class OperationView:
    operation: str
    kind: str
    model: str
    status: str
    """``running``, ``done`` or ``failed``."""
    error: str
    seconds: float
    phases_s: dict[str, float]
    """Seconds by phase of what was done, e.g. ``sleep.kv``, ``wake.weights``, ``wake.canary``."""


@dataclass(frozen=True, slots=True)
class FleetEvent:
    id: int
    type: str
    payload: dict[str, object]


class UnknownModel(Exception):
    """No model of that name; ``known`` are the names there are."""

    def __init__(self, model: str, known: tuple[str, ...]) -> None:
        super().__init__(model)
        self.model = model
        self.known = known


class UnknownOperation(Exception):
    """No operation of that id (or it is too long ago)."""


class InvalidModel(Exception):
    """A model that cannot be added; the message names key path and reason."""


class FleetControl(Protocol):
    """What the fleet API and /metrics ask. All but wait() answer at once; orders return the
    id of an operation. Unknown models raise UnknownModel."""

    def view(self) -> FleetView: ...

    def model(self, model: str) -> ModelView: ...

    def why(self, model: str) -> list[dict[str, object]]:
        """The model's story, oldest first: ``at`` (Unix seconds), ``replica``, ``what``."""
        ...

    def wake(self, model: str) -> str: ...

    def sleep(self, model: str, level: int) -> str:
        """level 1 or 2; 0 gives back KV memory only."""
        ...

    def stop(self, model: str) -> str: ...

    def switch(self, to: str, source: str | None, level: int) -> str: ...

    def pin(self, model: str, pinned: bool) -> None: ...

    def add_model(self, entry: dict[str, object]) -> str:
        """One entry of fleet.yaml's ``models``. Raises InvalidModel."""
        ...

    def remove_model(self, model: str) -> str:
        """It is refused and not shown from here on; the operation ends when its engines are
        gone, which waits for the responses that run."""
        ...

    def operation(self, operation: str) -> OperationView: ...

    async def wait(self, operation: str) -> OperationView: ...

    def events(self, after: int | None) -> AsyncIterator[FleetEvent]:
        """From just after event ``after`` (as far back as is kept), or from the present on."""
        ...
