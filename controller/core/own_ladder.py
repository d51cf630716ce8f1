"""A ladder that sets itself: ski rental.

A replica that rests at a depth costs rent: its memory, at a price by the GiB and hour. Coming back
from there costs once: somebody waits, at a price by the hour. Whoever knew how long nobody will
ask would pay the least of rent times time plus coming back, over all depths. The ladder follows
that least as time passes: it goes down at the moment at which staying has come to cost what coming
back from the next depth costs more. So its rent until any moment is at most what the best would
have paid in all by then, and so is its coming back: never more than twice the best in hindsight
(the lower envelope of S. Irani, S. Shukla, R. Gupta, "Online strategies for dynamic power
management in systems with multiple power-saving states", 2003).

Depths that hold no less than one above them are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from controller.core.idle import RUNGS
from controller.core.names import Depth, Footprint, Ladder, Prices

HOUR_S = 3600.0
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Rest:
    depth: Depth
    rent: float
    """By the hour."""
    back: float
    """Once."""
    back_s: float


@dataclass(frozen=True, slots=True)
class Rung:
    after_s: float
    depth: Depth
    why: str


def rests(
    prices: Prices,
    devices: int,
    deepest: Depth,
    footprint: Callable[[Depth], Footprint],
    raising_s: Callable[[Depth], float],
) -> list[Rest]:
    """What resting costs at each depth down to the deepest."""
    found = []
    for depth in (Depth.AWAKE, *[rung for rung in RUNGS if rung <= deepest]):
        held, back_s = footprint(depth), raising_s(depth)
        on_devices = held.device_bytes * devices * prices.device_gib_hour
        rent = (on_devices + held.host_bytes * prices.host_gib_hour) / GIB
        found.append(Rest(depth, rent, back_s / HOUR_S * prices.waiting_hour, back_s))
    return found


def rungs(rests: Sequence[Rest]) -> list[Rung]:
    """``rests``: from AWAKE down."""
    found: list[Rung] = []
    at, after_s = rests[0], 0.0
    while True:
        lower = [rest for rest in rests if rest.depth > at.depth and rest.rent < at.rent]
        if not lower:
            return found
        below = min(lower, key=lambda rest: (_even_at_s(at, rest), rest.rent))
        after_s = max(after_s, _even_at_s(at, below))
        if after_s == inf:
            return found
        why = (
            f"{at.rent:.3g} an hour here, {below.rent:.3g} there: "
            f"by then as dear as coming back from there ({below.back_s:.1f} s of waiting)"
        )
        found.append(Rung(after_s, below.depth, why))
        at = below


def _even_at_s(at: Rest, below: Rest) -> float:
    return (below.back - at.back) / (at.rent - below.rent) * HOUR_S


def as_ladder(rungs: Sequence[Rung]) -> Ladder:
    after = {rung.depth: rung.after_s for rung in rungs}
    return Ladder(*[after.get(depth, inf) for depth in RUNGS])
