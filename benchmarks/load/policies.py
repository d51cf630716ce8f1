"""Policies that a live fleet can be loaded under, on the same arrivals.

The engines, their orders and what those take are the fleet's own; only what is decided differs.
A proxy that swaps in the order of arrival is made of the same fleet: each request is sent when
the one before it was granted, so that the core never knows of more than one that waits and swaps
for it, the least recently used out; nobody is spared for having just been woken, and nothing is
demoted for being idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from benchmarks.running import BenchError
from controller.core.names import Depth, Eviction, Ladder, ModelSpec
from controller.model_settings import ConfiguredModel
from controller.settings import Settings


@dataclass(frozen=True, slots=True)
class Policy:
    what: str
    evict_to: Depth | None = None
    """None: the fleet's own policy, all of it."""
    in_order: bool = False
    """Each request is sent when the one before it was granted."""

    def applied(self, settings: Settings) -> Settings:
        if self.evict_to is None:
            return settings
        policy = replace(settings.policy, evict_to=self.evict_to, prefetch_start=False)
        if self.in_order:
            policy = replace(policy, eviction=Eviction.LRU, minimum_awake_s=0.0)
        models = [
            ConfiguredModel(self._with_another_ladder(model.spec), model.engine)
            for model in settings.models
        ]
        return replace(settings, models=tuple(models), policy=policy)

    def _with_another_ladder(self, spec: ModelSpec) -> ModelSpec:
        ladder = spec.ladder
        times = (ladder.kv_released_s, ladder.level_1_s, ladder.level_2_s, ladder.stopped_s)
        last_s = max((time for time in times if time < inf), default=inf)
        stops_s = inf if self.in_order else last_s
        return replace(spec, ladder=Ladder(stopped_s=stops_s), sets_own_ladder=False)


AS_IT_IS = Policy("this project's policy, as the fleet is configured")
POLICIES: Mapping[str, Policy] = {
    "torpor": AS_IT_IS,
    "fifo-swap": Policy("strict order of arrival: stop and cold start", Depth.STOPPED, True),
    "fifo-sleep": Policy("strict order of arrival: level 1 and wake", Depth.LEVEL_1, True),
    "no-sleep": Policy("torpor's policy with nothing between awake and stopped", Depth.STOPPED),
}


def chosen(names: str) -> dict[str, Policy]:
    """``all``, or names with commas between. Raises BenchError."""
    asked = list(POLICIES) if names == "all" else [name.strip() for name in names.split(",")]
    for name in asked:
        if name not in POLICIES:
            raise BenchError(f"no policy {name!r} for a live fleet: all, or {', '.join(POLICIES)}")
    return {name: POLICIES[name] for name in asked}
