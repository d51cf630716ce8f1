"""Fixed hours of a model: at what times of the week it is kept awake, or goes to rest early.

Which hours it is depends on clocks and calendars, of which the core knows nothing: ``RegimeBegan``
tells it. What follows from that is here and in ``demands``:

- AWAKE: woken at the beginning, evicting the idle if need be; then idleness demotes it no more.
  Demands of others still may, and it comes back as soon as there is room for it anyway.
- ASLEEP: after ``asleep_after_s`` without a request it goes to ``asleep_to``, whatever its ladder
  says; requests wake it as ever.

An administrator's sleep or stop ends the keeping awake until the next such hours begin, or until
its wake.
"""

from __future__ import annotations

from math import inf

from controller.core.names import Depth, Ladder, ModelSpec, Regime

_NEVER_DOWN = Ladder()


def in_hours(usual: Ladder, regime: Regime, spec: ModelSpec) -> Ladder:
    """The ladder that counts at present."""
    if regime is Regime.AWAKE:
        return _NEVER_DOWN
    if regime is Regime.ASLEEP and spec.schedule is not None:
        depth = min(spec.schedule.asleep_to, spec.deepest)
        return _down_to(usual, depth, spec.schedule.asleep_after_s)
    return usual


def _down_to(usual: Ladder, depth: Depth, after_s: float) -> Ladder:
    def step(rung: Depth, usual_s: float) -> float:
        return min(usual_s, after_s if rung is depth else inf)

    return Ladder(
        step(Depth.KV_RELEASED, usual.kv_released_s),
        step(Depth.LEVEL_1, usual.level_1_s),
        step(Depth.LEVEL_2, usual.level_2_s),
        step(Depth.STOPPED, usual.stopped_s),
    )
