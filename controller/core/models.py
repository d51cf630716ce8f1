"""What the fleet knows of a model beside its replicas: specification, measures, failures."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.core.lifecycle import Phase, Replica
from controller.core.names import (
    LONG_AGO,
    NOTHING,
    Depth,
    Footprint,
    Instant,
    ModelSpec,
    Regime,
)
from controller.core.own_ladder import Rung

LONGEST_BACKOFF_S = 60.0


def backoff_s(first_s: float, failures: int) -> float:
    """Doubled with each failure, up to a limit."""
    return min(LONGEST_BACKOFF_S, first_s * 2.0 ** min(failures - 1, 30))


@dataclass(slots=True)
class ModelRecord:
    spec: ModelSpec
    number: int = 0
    """Of its addition; breaks ties."""
    replicas: list[Replica] = field(default_factory=list)
    measured: dict[Depth, Footprint] = field(default_factory=dict)
    """As its engines last reported."""
    need: Footprint = NOTHING
    """Awake, at the least: one ran out of memory with less."""
    rungs: list[Rung] | None = None
    """Of its own ladder, as far as it has one and this was worked out."""
    failures: int = 0
    """Consecutive ones."""
    canary_failures: int = 0
    """Since the model was added."""
    retry_at: Instant = LONG_AGO
    """No start before this."""
    last_error: str = ""
    wished_at: Instant | None = None
    """Somebody would like it awake, but nobody waits: a request was turned away for want of
    patience, or a pinned or replaced engine went down."""
    is_unstarted: bool = False
    """Still to be started once so that its canary is recorded and its memory measured."""
    is_removed: bool = False
    regime: Regime = Regime.USUAL
    keeps_hours: bool = True
    """Not so once it was ordered to rest, until the next hours."""

    def footprint(self, depth: Depth) -> Footprint:
        """What a replica holds at ``depth``: measured, else estimated, else as if awake."""
        if depth is Depth.STOPPED:
            return NOTHING
        estimates = self.spec.footprints
        known = self.measured.get(depth) or estimates.get(depth) or estimates.get(Depth.AWAKE)
        if depth is Depth.AWAKE:
            return (known or NOTHING).union(self.need)
        return known or NOTHING

    @property
    def is_due_awake(self) -> bool:
        """By its fixed hours."""
        return self.regime is Regime.AWAKE and self.keeps_hours

    @property
    def is_in_use(self) -> bool:
        return any(replica.leases for replica in self.replicas)

    def kept(self) -> list[Replica]:
        """Its least number: they are in use together, and go to rest together."""
        awake = [r for r in self.replicas if r.phase is Phase.AWAKE and not r.is_retiring]
        return awake[: self.spec.least_replicas]

    def is_kept(self, replica: Replica) -> bool:
        """A backup of one that is in use."""
        return self.spec.least_replicas > 1 and self.is_in_use and replica in self.kept()

    @property
    def is_given_up(self) -> bool:
        return self.failures >= max(1, self.spec.max_restarts)

    @property
    def why_given_up(self) -> str:
        return f"failed {self.failures} times, at last: {self.last_error}"
