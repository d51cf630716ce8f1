"""What demoting a replica would free, and what having it back would take.

Theory of operation. Whoever looks for room asks this of every replica on a device, several times
an event, while an event changes only one or two of them. The answers are therefore kept, until
the replica, what is measured of its model, or what its model's orders take changes: ``Books``
forgets them in the moves that change these, and nowhere else. ``invariants`` works all of them
out again after each event in tests.

An ``Offer`` is the same for a whole device, and no asker can get more than it says: most
searches for room that would be in vain are told so by it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import fsum

from controller.core.choices import Choice, Victim
from controller.core.idle import RUNGS
from controller.core.ledger import Amounts
from controller.core.lifecycle import Replica
from controller.core.names import Depth, DeviceId, NodeId, ReplicaId

Choices = tuple[Choice, ...]
"""One for each of RUNGS, also for those that are not deeper than the replica is."""
Regard = tuple[Depth, Depth, bool]
"""How an asker looks at a victim: the depth it prefers, the deepest it may ask for, and whether
somebody else wants it."""
_ROUNDING = 1e-9
"""By which sums of floats in another order may differ, amply."""


def between(choices: Choices, first: Depth, deepest: Depth) -> Choices:
    return choices[max(0, first - RUNGS[0]) : max(0, deepest - RUNGS[0] + 1)]


@dataclass(frozen=True, slots=True)
class Offer:
    """What can come free on one device at the most."""

    idle: list[int]
    """From 0: the most that one idle replica frees, two of them, and so on; asleep at the most."""
    cost_s: list[float]
    """So many of them, or more, are counted at this at the least."""
    relief: list[int]
    """From 0: what is freed by whoever costs least for what it frees, by the first two, and so on;
    who costs nothing, or less, comes before."""
    relief_cost_s: list[float]
    """What they are counted at."""
    asleep: int
    """If all went to sleep, the busy and the rising too."""
    stopped: int
    """If all were stopped."""

    def fewest(self, lacking: int) -> int | None:
        """So many idle replicas must go; None: all of them do not suffice."""
        count = bisect_left(self.idle, lacking) if lacking > 0 else 0
        return count if count < len(self.idle) else None

    def least_cost_s(self, lacking: int, count: int) -> float:
        """What so many moves, or more, that free so much are counted at, at the least: not less
        than if the last one could go in part."""
        whole = bisect_right(self.relief, lacking) - 1
        in_parts_s = self.relief_cost_s[max(0, whole)]
        if 0 <= whole < len(self.relief) - 1:
            part = (lacking - self.relief[whole]) / (self.relief[whole + 1] - self.relief[whole])
            in_parts_s += part * (self.relief_cost_s[whole + 1] - in_parts_s)
        return max(self.cost_s[count], in_parts_s - abs(in_parts_s) * _ROUNDING)


@dataclass(frozen=True, slots=True)
class Share:
    """One replica's part in the offers of its devices."""

    is_idle: bool
    asleep: int | None
    """What it frees on each device when it goes to sleep; None: it cannot."""
    cost_s: float
    """What this is counted at, at the least."""
    stopped: int
    """Likewise when it is stopped, where it may be."""


def share(
    choices: Choices, is_idle: bool, device: DeviceId, cost_of: Callable[[Choice], float]
) -> Share:
    """Of a replica that may choose among these, counted so."""
    asleep = [choice for choice in choices if choice.depth is not Depth.STOPPED]
    most = max([choice.relief[device] for choice in asleep], default=None)
    cost_s = min([cost_of(choice) for choice in asleep], default=0.0)
    stopped = max([0, *[choice.relief[device] for choice in choices]])
    return Share(is_idle, None if most is None else max(0, most), cost_s, stopped)


def offer(shares: list[Share]) -> Offer:
    idle = [one for one in shares if one.is_idle and one.asleep is not None]
    most = sorted([one.asleep or 0 for one in idle], reverse=True)
    least_s = sorted([one.cost_s for one in idle])
    totals_s = [fsum(least_s[:count]) for count in range(len(least_s) + 1)]
    at_least_s = list(accumulate(reversed(totals_s), min))[::-1]
    relief, relief_cost_s = _by_worth(idle)
    return Offer(
        [0, *accumulate(most)],
        at_least_s,
        relief,
        relief_cost_s,
        sum([one.asleep or 0 for one in shares]),
        sum([one.stopped for one in shares]),
    )


def _by_worth(idle: list[Share]) -> tuple[list[int], list[float]]:
    """The bound of a knapsack that may be filled with parts: who costs least for each byte goes
    first."""
    gains_s = fsum([min(0.0, one.cost_s) for one in idle])
    freeing = [(one.asleep, max(0.0, one.cost_s)) for one in idle if one.asleep]
    freeing.sort(key=lambda pair: pair[1] / pair[0])
    relief = accumulate([size for size, _ in freeing], initial=0)
    return list(relief), list(accumulate([cost_s for _, cost_s in freeing], initial=gains_s))


class Reliefs:
    """What was worked out and still holds."""

    def __init__(self) -> None:
        self.choices: dict[ReplicaId, Choices] = {}
        self.coming: dict[ReplicaId, Amounts] = {}
        """What its order in flight, or its drain, will free."""
        self.offers: dict[tuple[NodeId, DeviceId], dict[Depth, Offer]] = {}
        """By the depth that an eviction prefers."""
        self.shares: dict[ReplicaId, dict[Depth, Share]] = {}
        """Likewise."""
        self.idle: dict[ReplicaId, dict[Regard, Victim]] = {}
        """Of those that nobody uses."""
        self.needs: dict[ReplicaId, Amounts] = {}
        """What a sleeper takes more when it wakes where it is."""

    def forget(self, replica: Replica) -> None:
        self.choices.pop(replica.id, None)
        self.coming.pop(replica.id, None)
        self.needs.pop(replica.id, None)
        self.forget_use(replica)

    def forget_use(self, replica: Replica) -> None:
        """Whether it is idle, and what follows."""
        self.shares.pop(replica.id, None)
        self.idle.pop(replica.id, None)
        if replica.place is not None:
            for device in replica.place.devices:
                self.offers.pop((replica.place.node, device), None)

    def forget_uses(self) -> None:
        self.shares.clear()
        self.idle.clear()
        self.offers.clear()
