"""Which replica serves a request, and which is raised when none can: filter, score, pick."""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.costs import CostTable
from controller.core.lifecycle import RISING, Phase, Replica


def pick_to_serve(replicas: Iterable[Replica]) -> Replica | None:
    """The awake replica with the fewest leases; the lowest index among equals, so that the
    others of a lightly used model become idle."""
    best: Replica | None = None
    for replica in replicas:
        if replica.phase is not Phase.AWAKE or replica.is_retiring:
            continue
        if best is None or len(replica.leases) < len(best.leases):
            best = replica
    return best


def order_to_raise(replicas: Iterable[Replica], costs: CostTable) -> list[Replica]:
    """Resting replicas, the one that is soonest awake first."""
    resting = [r for r in replicas if r.phase in (Phase.ASLEEP, Phase.COLD) and not r.is_retiring]
    if len(resting) > 1:
        resting.sort(key=lambda r: (costs.raising(r.model, r.depth), r.index))
    return resting


def is_on_its_way(replica: Replica) -> bool:
    return replica.phase in RISING and not replica.is_retiring


def is_usable(replica: Replica) -> bool:
    """Whether it serves or can serve without being started anew."""
    return replica.phase not in (Phase.COLD, Phase.FAILED, Phase.STOPPING)
