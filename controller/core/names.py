"""The words of the core: identifiers, depths, footprints, specifications, policies.

Everything here is a frozen value without behaviour beyond arithmetic on itself. Units stand
in the names: ``_s`` seconds, ``_bytes`` bytes. ``inf`` seconds means "never".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from math import inf
from typing import NewType

Instant = NewType("Instant", float)
"""Seconds on the driver's monotonic clock; comparable only within one run of a driver."""

ModelName = NewType("ModelName", str)
ReplicaId = NewType("ReplicaId", str)
"""``{model}#{index}``: stable across restarts of the engine and of the controller."""


def model_of(replica: ReplicaId) -> ModelName:
    """The model's name in ``{model}#{index}``."""
    return ModelName(replica.rpartition("#")[0])


RequestId = NewType("RequestId", str)
OperationId = NewType("OperationId", str)
"""An administrator's order (wake, sleep, switch …), as the fleet API numbers it."""
NodeId = NewType("NodeId", str)
DeviceId = NewType("DeviceId", str)
"""A device within its node: ``"0"``, ``"1"`` for GPUs, ``"cpu"`` where there is none."""
OpId = NewType("OpId", int)
"""One order to the world. The op of a replica's StartEngine is its *incarnation*."""

NEVER = Instant(inf)
LONG_AGO = Instant(0.0)


class Depth(IntEnum):
    """How far down a replica rests; the rungs of the idle ladder, in order."""

    AWAKE = 0
    KV_RELEASED = 1
    LEVEL_1 = 2
    LEVEL_2 = 3
    STOPPED = 4


class Residency(Enum):
    """Where the weights are. Derived from phase and depth, stored nowhere."""

    HBM = "hbm"
    HOST = "host"
    NONE = "none"
    COLD = "cold"


class Cause(Enum):
    """Why a replica is demoted."""

    IDLE = "idle"
    EVICTED = "evicted"
    """Another model, or the budget itself, needs the memory."""
    ORDERED = "ordered"
    """By an administrator."""
    REMOVED = "removed"
    CHANGED = "changed"
    FAILED = "failed"


class ModelState(Enum):
    """What a granted request had to wait for, as clients see it."""

    AWAKE = "awake"
    WOKEN = "woken"
    COLD = "cold"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes one replica holds: on *each* of its devices, and on its node's host.

    Where there is no GPU, device and host are one memory: it is all booked as
    ``device_bytes`` on the node's one ``cpu`` device, and ``host_bytes`` is 0.
    """

    device_bytes: int = 0
    host_bytes: int = 0

    def union(self, other: Footprint) -> Footprint:
        """The larger of the two, component by component: what an order must reserve."""
        return Footprint(
            max(self.device_bytes, other.device_bytes),
            max(self.host_bytes, other.host_bytes),
        )


NOTHING = Footprint()


@dataclass(frozen=True, slots=True)
class Ladder:
    """Seconds of idleness, from the end of the last response, after which a replica goes to
    each depth. ``inf`` means never. A step whose time is not after its predecessor's wins."""

    kv_released_s: float = inf
    level_1_s: float = inf
    level_2_s: float = inf
    stopped_s: float = inf


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as the core sees it. What the engine is started with lives in the driver."""

    name: ModelName
    footprints: dict[Depth, Footprint]
    """Estimates for AWAKE … LEVEL_2, used until an engine was measured. STOPPED is zero."""
    replicas: int = 1
    devices_per_replica: int = 1
    """Tensor-parallel size: this many devices of one node."""
    ladder: Ladder = field(default_factory=Ladder)
    deepest: Depth = Depth.STOPPED
    """No demotion, idle or evicting, goes below this depth."""
    pinned: bool = False
    keeps_kv: bool = False
    """What its requests computed is exported to the KV tier before an engine drops it."""
    max_wait_s: float = 300.0
    max_restarts: int = 3
    """Consecutive failures after which the model is refused until an administrator wakes it."""


@dataclass(frozen=True, slots=True)
class CostGuess:
    """Seconds that each order takes before any was measured."""

    start_s: float = 60.0
    wake_kv_released_s: float = 0.5
    wake_level_1_s: float = 2.0
    wake_level_2_s: float = 8.0
    export_s: float = 1.0
    sleep_s: float = 2.0
    stop_s: float = 2.0


@dataclass(frozen=True, slots=True)
class FleetPolicy:
    """What holds for the whole fleet."""

    backlog_limit: int = 1000
    """Waiting requests, all models together; one more is shed with 429."""
    evict_to: Depth = Depth.LEVEL_1
    """The depth an eviction prefers; it goes deeper only where that does not make the room."""
    restart_backoff_s: float = 1.0
    """Doubled with each consecutive failure, at most 60 s."""
    minimum_awake_s: float = 0.0
    """A replica woken less than this ago is not evicted while it still has waiting requests."""
    busy_leases: int = 1_000_000
    """Leases on every awake replica of a model at which another of its replicas is brought up."""
    stable_after_s: float = 60.0
    """A failure of an engine that was up for this long begins a new count of failures."""
    operation_limit_s: float = 900.0
    """An administrator's order that is not done by then ends with an error."""
    costs: CostGuess = field(default_factory=CostGuess)
    prefetch_at_once: int = 1
    """So many starts at a time that nobody asked for."""
    prefetch_start: bool = True
    """Start every model once at boot, as far as memory goes, so that its canary is recorded."""


class RejectReason(Enum):
    """Why a request will not be served; the API maps each to one status."""

    UNKNOWN_MODEL = "unknown_model"
    NEVER_FITS = "never_fits"
    BACKLOG_FULL = "backlog_full"
    WAIT_TOO_LONG = "wait_too_long"
    DEADLINE_PASSED = "deadline_passed"
    CANNOT_START = "cannot_start"
    MODEL_REMOVED = "model_removed"
    STOPPING = "stopping"
