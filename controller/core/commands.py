"""What the core orders. Imperative, frozen, executed by a driver.

A command with an ``op`` takes time and ends in exactly one event that carries the same op.
The others are done when they are issued.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.names import (
    Cause,
    Depth,
    DeviceId,
    ModelName,
    ModelState,
    NodeId,
    OperationId,
    OpId,
    RejectReason,
    ReplicaId,
    RequestId,
)


@dataclass(frozen=True, slots=True)
class Command:
    pass


@dataclass(frozen=True, slots=True)
class GrantLease(Command):
    request: RequestId
    replica: ReplicaId
    state: ModelState
    queued_s: float
    """From arrival to grant."""
    wake_s: float
    """The part of it during which the replica was being woken or started; 0 if it was awake."""


@dataclass(frozen=True, slots=True)
class RejectRequest(Command):
    request: RequestId
    reason: RejectReason
    detail: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class StartEngine(Command):
    op: OpId
    replica: ReplicaId
    model: ModelName
    node: NodeId
    devices: tuple[DeviceId, ...]


@dataclass(frozen=True, slots=True)
class ExportKV(Command):
    """Put what its requests computed into the KV tier; it has no requests."""

    op: OpId
    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class SleepEngine(Command):
    op: OpId
    replica: ReplicaId
    depth: Depth
    cause: Cause = Cause.ORDERED
    whom: str = ""
    """The model that it makes room for."""
    keep: bool = False
    """It has requests: they are frozen, and go on once a wake has succeeded."""


@dataclass(frozen=True, slots=True)
class WakeEngine(Command):
    op: OpId
    replica: ReplicaId
    depth: Depth
    """Where it wakes from."""


@dataclass(frozen=True, slots=True)
class StopEngine(Command):
    """Ends with EngineStopped only when every process of the engine is known to be gone."""

    op: OpId
    replica: ReplicaId
    incarnation: OpId
    cause: Cause = Cause.ORDERED
    whom: str = ""


@dataclass(frozen=True, slots=True)
class ResizeTier(Command):
    """The host tier of a node's KV: what it gives up goes to the durable tier first."""

    op: OpId
    node: NodeId
    to_bytes: int


@dataclass(frozen=True, slots=True)
class FinishOperation(Command):
    """An administrator's order is done (``error`` empty) or cannot be."""

    operation: OperationId
    error: str = ""
