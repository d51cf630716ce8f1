"""The life of a replica.

Theory of operation. A replica is the fleet's belief about one engine. Its phase is one enum,
and ``TRANSITIONS`` is the only place that says which phase may follow which; ``Replica.move``
is the only way to change it. A wrong step is our mistake, never the world's: it raises
``InvariantBroken`` with the story of the replica.

Phases are of three kinds. In STARTING, HIBERNATING, FALLING_ASLEEP, WAKING and STOPPING
(``IN_FLIGHT``) an order is out and the replica waits for the world: it has an open ``Order``, and
exactly one event will carry its op. COLD, AWAKE, DRAINING, ASLEEP and FAILED rest until something
is decided. DRAINED is passed through within one step, when the depth is chosen: late, because
what was right when the drain began may be stale when it ends.

Where a model keeps its KV, a drain passes through HIBERNATING once its leases have ended: what
its requests computed is exported before the engine drops it. An export that fails changes
nothing, recomputing is always right. When it has ended the replica is DRAINING again, with
nothing left to keep, so that the end of every drain is decided in one place. Its engine is awake
all the while, so a request that calls the drain off need not wait for the export.

A lease is *frozen* on a replica that is FALLING_ASLEEP, ASLEEP or WAKING (``FROZEN``): its
response was suspended in the middle, and goes on when the replica is awake again (``freezing``).
Elsewhere than there and while SERVING nobody holds one.

An order that goes wrong leads to FAILED, from where the only ways are StopEngine and the loss
of the node. The incarnation (the op of the StartEngine that made the engine) fences what is
said about an engine that is no longer the one we believe in.

Doubt: an engine that dies while it is being stopped stays in STOPPING, since the stop that is
out will answer for it; passing through FAILED would have it stopped twice.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from controller.core.names import (
    LONG_AGO,
    NEVER,
    NOTHING,
    Cause,
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    NodeId,
    OpId,
    ReplicaId,
    RequestId,
    Residency,
)
from controller.core.prefixes import Prefixes
from controller.core.residuals import Residuals

STORY_LINES = 100


class Phase(Enum):
    COLD = "cold"
    STARTING = "starting"
    AWAKE = "awake"
    DRAINING = "draining"
    HIBERNATING = "hibernating"
    DRAINED = "drained"
    FALLING_ASLEEP = "falling_asleep"
    ASLEEP = "asleep"
    WAKING = "waking"
    STOPPING = "stopping"
    FAILED = "failed"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.COLD: frozenset({Phase.STARTING, Phase.AWAKE, Phase.ASLEEP}),  # the latter: adopted
    Phase.STARTING: frozenset({Phase.AWAKE, Phase.FAILED}),
    Phase.AWAKE: frozenset({Phase.DRAINING, Phase.FAILED}),
    Phase.DRAINING: frozenset({Phase.AWAKE, Phase.HIBERNATING, Phase.DRAINED, Phase.FAILED}),
    Phase.HIBERNATING: frozenset({Phase.DRAINING, Phase.AWAKE, Phase.FAILED}),
    Phase.DRAINED: frozenset({Phase.FALLING_ASLEEP, Phase.STOPPING}),
    Phase.FALLING_ASLEEP: frozenset({Phase.ASLEEP, Phase.FAILED}),
    Phase.ASLEEP: frozenset({Phase.WAKING, Phase.FALLING_ASLEEP, Phase.STOPPING, Phase.FAILED}),
    Phase.WAKING: frozenset({Phase.AWAKE, Phase.FAILED}),
    Phase.STOPPING: frozenset({Phase.COLD, Phase.FAILED}),
    Phase.FAILED: frozenset({Phase.STOPPING, Phase.COLD}),  # the latter: its node is gone
}
IN_FLIGHT = (
    Phase.STARTING,
    Phase.HIBERNATING,
    Phase.FALLING_ASLEEP,
    Phase.WAKING,
    Phase.STOPPING,
)
LEAVING = (Phase.DRAINING, Phase.HIBERNATING)
"""On the way down."""
SERVING = (Phase.AWAKE, Phase.DRAINING)
FROZEN = (Phase.FALLING_ASLEEP, Phase.ASLEEP, Phase.WAKING)
"""The leases of such a replica are frozen."""
RISING = (Phase.STARTING, Phase.WAKING)
ON_THE_MOVE = (*IN_FLIGHT, Phase.DRAINING, Phase.FAILED)
"""What such a replica holds will change without a further decision about room."""


class Action(Enum):
    """What can be ordered of an engine."""

    START = "start"
    EXPORT = "export"
    SLEEP = "sleep"
    WAKE = "wake"
    STOP = "stop"


class InvariantBroken(Exception):
    """We erred. Carries the replica, if it is one's, and its story."""

    def __init__(self, what: str, replica: Replica | None = None) -> None:
        self.replica = replica.id if replica is not None else None
        self.story = tuple(replica.story) if replica is not None else ()
        lines = "".join(f"\n  {line.at:.3f} {line.what}: {line.why}" for line in self.story)
        super().__init__(what + lines)


@dataclass(frozen=True, slots=True)
class StoryLine:
    at: Instant
    replica: ReplicaId
    what: str
    """``AWAKE -> DRAINING``, or a remark in words."""
    why: str


@dataclass(frozen=True, slots=True)
class Order:
    """What the world was told to do and has not answered."""

    op: OpId
    action: Action
    depth: Depth
    """SLEEP: where to. WAKE: where from. EXPORT: AWAKE. START and STOP: STOPPED."""
    at: Instant
    until: Instant = NEVER
    """Without an answer by then it has failed."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a drain leads, why, and for which model."""

    depth: Depth
    cause: Cause
    whom: str = ""

    def __str__(self) -> str:
        return f"{self.cause.value} for {self.whom}" if self.whom else self.cause.value


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine runs: some devices of one node."""

    node: NodeId
    devices: tuple[DeviceId, ...]


@dataclass(slots=True, eq=False)
class Replica:
    id: ReplicaId
    model: ModelName
    index: int
    phase: Phase = Phase.COLD
    depth: Depth = Depth.STOPPED
    """Where it rests, or last rested; AWAKE while awake."""
    since: Instant = LONG_AGO
    order: Order | None = None
    goal: Goal | None = None
    """Set exactly while LEAVING."""
    incarnation: OpId | None = None
    place: Place | None = None
    held: Footprint = NOTHING
    """As last measured or estimated; an order in flight may have reserved more."""
    leases: dict[RequestId, Instant] = field(default_factory=dict)
    """Request → when it was granted."""
    never_frozen: dict[RequestId, None] = field(default_factory=dict)
    """Of these, whose response must not be suspended."""
    frozen_at: Instant = LONG_AGO
    """When its leases were frozen last."""
    up_since: Instant = LONG_AGO
    """Since when this incarnation exists."""
    awake_since: Instant = LONG_AGO
    raised_at: Instant = LONG_AGO
    """When the wake or start that made it awake was ordered."""
    raised_from: Depth = Depth.STOPPED
    idle_since: Instant = LONG_AGO
    """The end of its last response, or when it awoke, whichever is later."""
    residuals: dict[Depth, Residuals] = field(default_factory=dict)
    """What this incarnation kept at each depth."""
    has_kv: bool = False
    """It holds KV that was not exported, of a model that keeps it."""
    prefixes: Prefixes = field(default_factory=Prefixes)
    """What its prefix cache is likely to hold; kept where its model may have several replicas."""
    is_retiring: bool = False
    """To be stopped as soon as its leases end: its model was removed, changed or shrank."""
    bury_at: Instant = LONG_AGO
    stop_failures: int = 0
    story: deque[StoryLine] = field(default_factory=lambda: deque(maxlen=STORY_LINES))

    @property
    def is_frozen(self) -> bool:
        return bool(self.leases) and self.phase in FROZEN

    def drop_leases(self) -> None:
        """They are nobody's until they are released."""
        self.leases, self.never_frozen = {}, {}

    def move(self, phase: Phase, at: Instant, why: str) -> None:
        if phase not in TRANSITIONS[self.phase]:
            raise InvariantBroken(f"{self.id}: {self.phase.name} -> {phase.name} ({why})", self)
        self.tell(at, f"{self.phase.name} -> {phase.name}", why)
        self.phase = phase
        self.since = at

    def tell(self, at: Instant, what: str, why: str) -> None:
        self.story.append(StoryLine(at, self.id, what, why))

    @property
    def residency(self) -> Residency:
        match self.phase:
            case Phase.COLD | Phase.STARTING | Phase.STOPPING | Phase.FAILED:
                return Residency.COLD
            case Phase.ASLEEP | Phase.WAKING:
                return RESIDENCY_OF[self.depth]
            case _:
                return Residency.HBM


RESIDENCY_OF = {
    Depth.AWAKE: Residency.HBM,
    Depth.KV_RELEASED: Residency.HBM,
    Depth.LEVEL_1: Residency.HOST,
    Depth.LEVEL_2: Residency.NONE,
    Depth.STOPPED: Residency.COLD,
}
