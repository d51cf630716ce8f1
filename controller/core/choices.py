"""The rows and the results of a choice of victims."""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.ledger import Amounts
from controller.core.names import Depth, Eviction, ReplicaId


@dataclass(frozen=True, slots=True)
class Choice:
    """One depth a victim can go to, and what comes free; less than nothing where it takes."""

    depth: Depth
    relief: Amounts
    cost_s: float = 0.0
    """So much longer it will take to have the victim back."""

    def regret(self, wants: float, by: Eviction) -> float:
        """What it is counted at, of a victim that was wanted so often."""
        return max(0.0, self.cost_s) * wants if by is Eviction.COST else self.cost_s


@dataclass(frozen=True, slots=True)
class Victim:
    replica: ReplicaId
    is_busy: bool
    is_awake: bool
    is_wanted: bool
    """Someone waits for its model, though later than whom the room is for; or its hours say
    that it be awake."""
    idle_since: float
    choices: tuple[Choice, ...]
    """From the preferred depth to the deepest."""
    wants: float = 0.0
    """How often its model was wanted of late."""
    is_stuck: bool = False
    """Its responses may not be suspended: it goes when they have ended, whenever that is."""


Step = tuple[Victim, Choice]


@dataclass(frozen=True, slots=True)
class Move:
    replica: ReplicaId
    depth: Depth
    is_busy: bool
    cost_s: float
    """What the move is counted at where places are compared: seconds, under ``cost`` times how
    often they are likely waited for."""


Price = tuple[int, int, int, float, float, int, int]


def price(victim: Victim, choice: Choice) -> Price:
    """Compared from the left: the busy, of these the stuck, those somebody waits for, what is
    likely waited, seconds, moves, and how deep."""
    cost_s = max(0.0, choice.cost_s)
    likely_s = victim.wants * cost_s
    return (
        victim.is_busy,
        victim.is_stuck,
        victim.is_wanted,
        likely_s,
        cost_s,
        1,
        choice.depth,
    )
