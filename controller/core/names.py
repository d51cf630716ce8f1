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
    LEAKING = "leaking"
    """It keeps more and more of its memory when it sleeps."""


class Eviction(Enum):
    """Whom an eviction takes first.

    Simulated on the five shipped scenarios with the costs of an A100 and of an H100, means. With
    ``minimum_awake_s`` 0 (six seeds): goodput share 0.928 for ``cost``, 0.924 for ``lfu`` and
    ``lru``. With its default of 5 (three seeds) that tells them apart no more, 0.941 for each;
    ``cost`` then wakes least (690, 702, 712 wakes) and sheds least (2.1, 2.8, 2.8 requests), at
    6.9, 6.8, 6.8 s to the first token. Half-lives from 15 to 60 s do about equally well, longer
    ones worse where folders of documents come and go.
    """

    COST = "cost"
    """Whom it costs least to have done without: seconds to have it back, times how often it was
    wanted of late."""
    LRU = "lru"
    """The least recently used."""
    LFU = "lfu"
    """The least often wanted of late."""


class Priority(IntEnum):
    """Which of those who wait goes first; OpenAI's ``service_tier``."""

    PRIORITY = 0
    DEFAULT = 1
    FLEX = 2
    """Rides on wakes that happen anyway, and on room that nobody else wants."""


@dataclass(frozen=True, slots=True)
class Affinity:
    """Why a request would rather go to one replica than to another."""

    home: ReplicaId | None = None
    """It served the last turn of the request's conversation."""
    prefix: tuple[int, ...] = ()
    """Keys of longer and longer beginnings of what the request says. What a key is made of is
    not the core's to know: equal keys, equal beginnings."""


NO_AFFINITY = Affinity()


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


class Regime(Enum):
    """What a model's fixed hours say at a time; ``hours`` has what follows from it."""

    USUAL = "usual"
    AWAKE = "awake"
    ASLEEP = "asleep"


@dataclass(frozen=True, slots=True)
class Hours:
    """On each of ``days`` (0: Monday), minutes of the local day; an end that is not after the
    beginning is on the next day."""

    days: tuple[int, ...]
    begins_minute: int
    ends_minute: int


@dataclass(frozen=True, slots=True)
class Schedule:
    time_zone: str
    """As the tz database names it."""
    awake: tuple[Hours, ...] = ()
    asleep: tuple[Hours, ...] = ()
    asleep_to: Depth = Depth.LEVEL_2
    asleep_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests at a time, of one model or one tenant; None: as many as come."""

    running: int | None = None
    """One more waits."""
    waiting: int | None = None
    """One more is shed."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as the core sees it. What the engine is started with lives in the driver."""

    name: ModelName
    footprints: dict[Depth, Footprint]
    """Estimates for AWAKE … LEVEL_2, used until an engine was measured. STOPPED is zero."""
    replicas: int = 1
    """So many engines at the most."""
    least_replicas: int = 1
    """While the model is in use so many are kept awake, as far as memory is free."""
    spreads: bool = True
    """A replica is rather started on a node where no other of the model is."""
    devices_per_replica: int = 1
    """Tensor-parallel size: this many devices of one node."""
    ladder: Ladder = field(default_factory=Ladder)
    sets_own_ladder: bool = False
    """Its ladder follows from what its orders take and the price of memory."""
    schedule: Schedule | None = None
    deepest: Depth = Depth.STOPPED
    """No demotion, idle or evicting, goes below this depth."""
    pinned: bool = False
    can_freeze: bool = True
    """Its responses may be suspended for others that waited too long."""
    keeps_kv: bool = False
    """What its requests computed is exported to the KV tier before an engine drops it."""
    limits: Limits = Limits()
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
class OrderTimes:
    """How long an order may go without an answer, before its engine is taken to hang."""

    factor: float = 10.0
    """So many times what it was measured to take …"""
    least_s: float = 60.0
    """… and no less than this: weights of a level-2 sleeper may come from memory, or a disk …"""
    least_start_s: float = 120.0
    """… or, of a start, than this …"""
    start_s: float = 900.0
    """… and at the most, or where nothing was measured, these."""
    export_s: float = 60.0
    sleep_s: float = 180.0
    wake_s: float = 180.0
    stop_s: float = 150.0
    """Always: what takes long is the engines that do not stop by themselves."""


@dataclass(frozen=True, slots=True)
class Prices:
    """In any one currency; what a ladder that sets itself goes by."""

    device_gib_hour: float = 0.04
    host_gib_hour: float = 0.004
    waiting_hour: float = 20.0
    """Of a client that waits for a model to come back."""


@dataclass(frozen=True, slots=True)
class FleetPolicy:
    """What holds for the whole fleet."""

    backlog_limit: int = 1000
    """Waiting requests, all models together; one more is shed with 429."""
    evict_to: Depth = Depth.LEVEL_1
    """The depth an eviction prefers; it goes deeper only where that does not make the room."""
    eviction: Eviction = Eviction.COST
    popularity_half_life_s: float = 30.0
    """Having been wanted so long ago counts half."""
    most_sleepers: int | None = None
    """Engines that sleep on a node; of one more, the one that is missed least is stopped."""
    restart_backoff_s: float = 1.0
    """Doubled with each consecutive failure, at most 60 s."""
    minimum_awake_s: float = 5.0
    """A replica woken less than this ago is not evicted while requests of it run. Simulated
    likewise: goodput share 0.937 for 0, 0.939 for 2, 0.941 for 5, 0.942 for 10, 0.945 for 20 s,
    but from 10 s on agents that a clock starts all at once do worse than with 5."""
    maximum_wait_behind_s: float = 60.0
    """Whoever has waited so long drains others however short they have been awake, has those
    frozen whose responses do not end, and has the right of those who asked for priority."""
    tenant_limits: Limits = Limits()
    """Of each tenant that has none of its own."""
    tenants: dict[str, Limits] = field(default_factory=dict)
    busy_leases: int = 1_000_000
    """Leases on every awake replica of a model at which another of its replicas is brought up."""
    stable_after_s: float = 60.0
    """A failure of an engine that was up for this long begins a new count of failures."""
    residual_growth_bytes: float = 0.5 * 1024**3
    """An engine that has come to keep so much more when it sleeps is restarted; inf: never."""
    retry_when_short_s: float = 15.0
    """So long shall those stay away who are shed for want of memory that others hold."""
    operation_limit_s: float = 900.0
    """An administrator's order that is not done by then ends with an error."""
    costs: CostGuess = field(default_factory=CostGuess)
    times: OrderTimes = OrderTimes()
    prices: Prices = Prices()
    prefetch_at_once: int = 1
    """So many starts at a time that nobody asked for."""
    prefetch_start: bool = True
    """Start every model once at boot, as far as memory goes, so that its canary is recorded."""


class RejectReason(Enum):
    """Why a request will not be served; the API maps each to one status."""

    UNKNOWN_MODEL = "unknown_model"
    NEVER_FITS = "never_fits"
    BACKLOG_FULL = "backlog_full"
    LIMIT_REACHED = "limit_reached"
    WAIT_TOO_LONG = "wait_too_long"
    DEADLINE_PASSED = "deadline_passed"
    CANNOT_START = "cannot_start"
    MEMORY_TAKEN = "memory_taken"
    """Others than the fleet hold it."""
    MODEL_REMOVED = "model_removed"
    STOPPING = "stopping"
