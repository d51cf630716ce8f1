"""Where the models were over time, from the phase changes that a fleet tells.

Live they come from ``/fleet/events``, simulated from the core itself, in the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from benchmarks.result import Labels, Measure, Span

_RESIDENCY = {
    "awake": "hbm",
    "draining": "hbm",
    "falling_asleep": "hbm",
    "kv_released": "hbm",
    "level_1": "host",
    "level_2": "none",
    "stopped": "cold",
    "failed": "cold",
    "starting": "rising",
    "waking": "rising",
    "stopping": "cold",
}


@dataclass(slots=True)
class Residency:
    """Lanes are replicas; a state is a phase, or the depth at which it rests."""

    states: dict[str, str] = field(default_factory=dict)
    since_s: dict[str, float] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    wakes: Counter[str] = field(default_factory=Counter)
    """By the level from which; ``stopped``: starts."""
    demotions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By level and cause."""
    counts_from_s: float = 0.0
    """Wakes and demotions before are not counted."""
    _bound_for: dict[str, str] = field(default_factory=dict)

    def begin(self, lane: str, state: str, at_s: float) -> None:
        self.states[lane], self.since_s[lane] = state, at_s

    def changed(self, lane: str, after: str, why: str, at_s: float) -> None:
        """``after`` and ``why`` as the fleet's events have them: ``FALLING_ASLEEP``, ``to
        LEVEL_1: evicted for b``."""
        phase = after.lower()
        if phase == "drained":  # passed through within one event
            return
        if phase == "falling_asleep":
            self._bound_for[lane] = why.removeprefix("to ").partition(": ")[0].lower()
        if at_s >= self.counts_from_s:
            self._count(lane, phase, why)
        resting = {"asleep": self._bound_for.get(lane, "level_1"), "cold": "stopped"}
        self._enter(lane, resting.get(phase, phase), at_s)

    def _count(self, lane: str, phase: str, why: str) -> None:
        match phase:
            case "falling_asleep":
                cause = why.partition(": ")[2].split(" ")[0]
                self.demotions[self._bound_for[lane], cause] += 1
            case "stopping":
                self.demotions["stopped", why.split(" ")[0]] += 1
            case "waking":
                self.wakes[self.states.get(lane, "level_1")] += 1
            case "starting":
                self.wakes["stopped"] += 1
            case _:
                pass

    def end(self, at_s: float) -> None:
        for lane, state in list(self.states.items()):
            self._enter(lane, state, at_s)

    def since(self, at_s: float) -> tuple[Span, ...]:
        """The spans from then on, counted from then."""
        return tuple(
            Span(
                lane=span.lane,
                state=span.state,
                begins_s=round(max(span.begins_s, at_s) - at_s, 4),
                ends_s=round(span.ends_s - at_s, 4),
            )
            for span in self.spans
            if span.ends_s > at_s
        )

    def _enter(self, lane: str, state: str, at_s: float) -> None:
        begun_s, left = self.since_s.get(lane, at_s), self.states.get(lane)
        if left is not None and at_s > begun_s:
            self.spans.append(Span(lane=lane, state=left, begins_s=begun_s, ends_s=at_s))
        self.begin(lane, state, at_s)


def counted(residency: Residency, labels: Labels) -> list[Measure]:
    """Wakes and demotions."""

    def count(name: str, number: int, **more: str) -> Measure:
        return Measure(
            name=name, unit="count", values=(number,), labels={**labels, **more}, better="lower"
        )

    wakes = [
        count("starts", n) if level == "stopped" else count("wakes", n, level=level)
        for level, n in sorted(residency.wakes.items())
    ]
    demoted = sorted(residency.demotions.items())
    return [
        *wakes,
        *(count("demotions", n, level=level, cause=cause) for (level, cause), n in demoted),
    ]


def device_time(spans: Iterable[Span], devices: Mapping[str, int], labels: Labels) -> list[Measure]:
    """Device-seconds by residency; ``devices``: how many each lane's engine is on, if not one."""
    total: dict[str, float] = {}
    for span in spans:
        seconds = (span.ends_s - span.begins_s) * devices.get(span.lane, 1)
        residency = _RESIDENCY.get(span.state, span.state)
        total[residency] = total.get(residency, 0.0) + seconds
    return [
        Measure(
            name="device_time",
            unit="s",
            values=(round(seconds, 2),),
            labels={**labels, "residency": residency},
        )
        for residency, seconds in sorted(total.items())
    ]
