"""What can happen. Past tense, frozen, each with the time at which the driver saw it.

An event that answers an order carries the order's ``op``; the core drops an answer whose op
is not the replica's open one. ``EngineLost`` is fenced by the incarnation instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.costs import Took
from controller.core.names import (
    NO_AFFINITY,
    Affinity,
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    ModelSpec,
    NodeId,
    OperationId,
    OpId,
    Priority,
    Regime,
    ReplicaId,
    RequestId,
)


@dataclass(frozen=True, slots=True)
class Event:
    at: Instant


@dataclass(frozen=True, slots=True)
class TimePassed(Event):
    """The deadline that the core asked for has come."""


# requests


@dataclass(frozen=True, slots=True)
class RequestArrived(Event):
    request: RequestId
    model: ModelName
    max_wait_s: float | None = None
    """None: the model's own."""
    tenant: str = ""
    priority: Priority = Priority.DEFAULT
    affinity: Affinity = NO_AFFINITY
    can_freeze: bool = True
    """Its response may be suspended for a while."""


@dataclass(frozen=True, slots=True)
class RequestCancelled(Event):
    """The client went away; waiting or granted, its claim ends."""

    request: RequestId


@dataclass(frozen=True, slots=True)
class LeaseReleased(Event):
    """The response ended, well or badly."""

    request: RequestId


@dataclass(frozen=True, slots=True)
class LeaseFound(Event):
    """A controller that started was told of a response from before that still runs."""

    request: RequestId
    replica: ReplicaId
    can_freeze: bool = True


# the answers of the world


@dataclass(frozen=True, slots=True)
class EngineStarted(Event):
    """Started and warmed up; the canary is recorded, or agreed with the recorded one."""

    op: OpId
    replica: ReplicaId
    held: Footprint


@dataclass(frozen=True, slots=True)
class KVExported(Event):
    """What its requests computed lies in the KV tier."""

    op: OpId
    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class KVExportFailed(Event):
    """Some of it does not, and will be recomputed. The engine itself is well."""

    op: OpId
    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class EngineFellAsleep(Event):
    op: OpId
    replica: ReplicaId
    held: Footprint


@dataclass(frozen=True, slots=True)
class EngineWoke(Event):
    """Awake again and the canary agreed; requests that were frozen go on."""

    op: OpId
    replica: ReplicaId
    held: Footprint


@dataclass(frozen=True, slots=True)
class EngineStopped(Event):
    """Known to be gone, its memory with it."""

    op: OpId
    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class CanaryDisagreed(Event):
    """A wake ended, but the engine's answers are not those from before."""

    op: OpId
    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class RanOutOfMemory(Event):
    """An order went wrong because its engine could not have the memory that it needs."""

    op: OpId
    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class EngineFailed(Event):
    """An order went wrong; what the engine holds is unknown, so it keeps its bytes."""

    op: OpId
    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class EngineLost(Event):
    """An engine died by itself."""

    replica: ReplicaId
    incarnation: OpId
    reason: str


@dataclass(frozen=True, slots=True)
class EngineHung(Event):
    """It runs and has requests, but takes no step any more."""

    replica: ReplicaId
    incarnation: OpId
    reason: str


@dataclass(frozen=True, slots=True)
class EngineFound(Event):
    """A controller that started found this engine running from before; it is adopted as is."""

    replica: ReplicaId
    model: ModelName
    incarnation: OpId
    depth: Depth
    node: NodeId
    devices: tuple[DeviceId, ...]
    held: Footprint


@dataclass(frozen=True, slots=True)
class CostsFound(Event):
    """What orders of a model took before this controller started, and what its engines held."""

    model: ModelName
    took: tuple[Took, ...]
    held: tuple[tuple[Depth, Footprint], ...]


# nodes


@dataclass(frozen=True, slots=True)
class NodeJoined(Event):
    """A node and its budgets; again for a node that is known: its budgets changed."""

    node: NodeId
    devices: tuple[tuple[DeviceId, int], ...]
    """(device, bytes of its budget)"""
    host_bytes: int


@dataclass(frozen=True, slots=True)
class BudgetMeasured(Event):
    """As much can be had of a node's memory at present, the fleet's own included: others hold the
    rest. Where it is less than the budget, it is the budget."""

    node: NodeId
    devices: tuple[tuple[DeviceId, int], ...]
    host_bytes: int


@dataclass(frozen=True, slots=True)
class TierMeasured(Event):
    """So large may a node's KV tier grow at present, and so far may it shrink for others."""

    node: NodeId
    device: DeviceId
    """The resource that its memory is of."""
    whole_bytes: int
    """Reserved for it: in nobody's budget."""
    least_bytes: int
    held_bytes: int


@dataclass(frozen=True, slots=True)
class TierResized(Event):
    """As near to what was ordered as could be had; what it gave up is free."""

    op: OpId
    node: NodeId
    held_bytes: int


@dataclass(frozen=True, slots=True)
class TierNotResized(Event):
    op: OpId
    node: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class NodeLost(Event):
    node: NodeId


# what people order


@dataclass(frozen=True, slots=True)
class ModelAdded(Event):
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class ModelChanged(Event):
    """Same name, other specification; engines are replaced once drained if ``restart``."""

    spec: ModelSpec
    restart: bool


@dataclass(frozen=True, slots=True)
class ModelRemoved(Event):
    """Waiting requests are rejected, running ones finish, then its engines stop."""

    model: ModelName


@dataclass(frozen=True, slots=True)
class WakeOrdered(Event):
    """Also clears the failure count of a model that was given up on."""

    operation: OperationId
    model: ModelName


@dataclass(frozen=True, slots=True)
class DemotionOrdered(Event):
    """An administrator's sleep or stop: drain, then go to ``depth``."""

    operation: OperationId
    model: ModelName
    depth: Depth


@dataclass(frozen=True, slots=True)
class SwitchOrdered(Event):
    """``source`` (any model if None: whom eviction names) goes to ``depth``, ``target`` wakes."""

    operation: OperationId
    target: ModelName
    source: ModelName | None
    depth: Depth


@dataclass(frozen=True, slots=True)
class RegimeBegan(Event):
    """By the clock on the wall, a model's fixed hours began or ended."""

    model: ModelName
    regime: Regime


@dataclass(frozen=True, slots=True)
class PinOrdered(Event):
    model: ModelName
    pinned: bool
