"""The ladder of idle timeouts, as deadlines.

Idleness counts from the end of the last response (or from waking, if nobody asked since). The
same sum ``idle_since + seconds`` decides whether a rung is due and when it will be, so that a
deadline that has come is always one that is due.
"""

from __future__ import annotations

from controller.core.names import NEVER, Depth, Instant, Ladder, ModelSpec

DEEPEST_FROZEN = Depth.LEVEL_2
"""A frozen engine keeps its process, for what runs in it."""
RUNGS = (Depth.KV_RELEASED, Depth.LEVEL_1, Depth.LEVEL_2, Depth.STOPPED)


def seconds_to(ladder: Ladder, depth: Depth) -> float:
    match depth:
        case Depth.KV_RELEASED:
            return ladder.kv_released_s
        case Depth.LEVEL_1:
            return ladder.level_1_s
        case Depth.LEVEL_2:
            return ladder.level_2_s
        case _:
            return ladder.stopped_s


def due_depth(
    spec: ModelSpec, depth: Depth, idle_since: Instant, now: Instant, own: Ladder | None = None
) -> Depth | None:
    """How deep a replica that rests at ``depth`` ought to be by now; None: where it is.
    ``own``: in place of the ladder that the specification has."""
    ladder = own or spec.ladder
    for rung in reversed(RUNGS):
        if depth < rung <= spec.deepest and idle_since + seconds_to(ladder, rung) <= now:
            return rung
    return None


def next_rung_at(
    spec: ModelSpec, depth: Depth, idle_since: Instant, own: Ladder | None = None
) -> Instant:
    """When the next demotion from ``depth`` is due."""
    if spec.pinned:
        return NEVER
    ladder = own or spec.ladder
    times = [
        idle_since + seconds_to(ladder, rung) for rung in RUNGS if depth < rung <= spec.deepest
    ]
    return Instant(min(times, default=NEVER))
