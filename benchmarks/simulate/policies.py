"""The policies that a stage can be played under, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.running import BenchError
from benchmarks.simulate.core_policy import no_sleep, torpor
from benchmarks.simulate.fifo_swap import FifoSwap
from benchmarks.simulate.stage import Played, Stage
from controller.core.names import Depth, Eviction

Policy = Callable[[Stage], Played]

POLICIES: Mapping[str, Policy] = {
    "torpor": torpor,
    "fifo-swap": lambda stage: FifoSwap(stage).play(),
    "fifo-sleep": lambda stage: FifoSwap(stage, rest=Depth.LEVEL_1).play(),
    "ready-first": lambda stage: FifoSwap(stage, rest=Depth.LEVEL_1, ready_first=True).play(),
    "no-sleep": no_sleep,
    "torpor-lru": lambda stage: torpor(_evicting(stage, Eviction.LRU)),
    "torpor-lfu": lambda stage: torpor(_evicting(stage, Eviction.LFU)),
}
WHAT = {
    "torpor": "this project's policy",
    "fifo-swap": "strict order of arrival, one swap at a time: stop and cold start",
    "fifo-sleep": "the same, sleeping at level 1 instead of stopping",
    "ready-first": "fifo-sleep, but whoever's model is awake is served at once",
    "no-sleep": "torpor's policy with nothing between awake and stopped (plain scale to zero)",
    "torpor-lru": "torpor's policy, evicting the least recently used",
    "torpor-lfu": "torpor's policy, evicting the least often wanted of late",
}


def _evicting(stage: Stage, by: Eviction) -> Stage:
    return replace(stage, policy=replace(stage.policy, eviction=by))


def chosen(names: str) -> dict[str, Policy]:
    """``all``, or names with commas between. Raises BenchError."""
    if names == "all":
        return dict(POLICIES)
    asked = [name.strip() for name in names.split(",")]
    for name in asked:
        if name not in POLICIES:
            raise BenchError(f"no policy {name!r}: all, or any of {', '.join(POLICIES)}")
    return {name: POLICIES[name] for name in asked}
