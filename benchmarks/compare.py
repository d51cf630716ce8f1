"""``torpor bench compare``: the measures that two results share, as ratios with their spread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.result import Measure, Result
from benchmarks.statistics import Ratio, ratio, summary


@dataclass(frozen=True, slots=True)
class Compared:
    """``ratio`` is the second result's median over the first's."""

    measure: Measure
    before: float
    after: float
    ratio: Ratio

    @property
    def verdict(self) -> str:
        """``better`` and ``worse`` only where the spread allows no other reading."""
        if self.measure.better is None or not self.ratio.is_clear:
            return ""
        grew = self.ratio.value > 1
        return "better" if grew == (self.measure.better == "higher") else "worse"


def compare(first: Result, second: Result) -> list[Compared]:
    """In the first result's order; what only one of them has is left out."""
    others = {measure.key: measure for measure in second.measures}
    return [
        Compared(
            measure,
            summary(measure.values).median,
            summary(other.values).median,
            ratio(other.values, measure.values),
        )
        for measure in first.measures
        if (other := others.get(measure.key)) is not None and other.unit == measure.unit
    ]


def differences(first: Result, second: Result) -> Iterator[str]:
    """What makes the two hard to compare, a sentence each."""
    if first.kind != second.kind:
        yield f"one is of {first.kind}, the other of {second.kind}"
    if first.machine != second.machine:
        yield "they were measured on different machines"
    if first.settings != second.settings:
        keys = sorted(
            key
            for key in first.settings.keys() | second.settings.keys()
            if first.settings.get(key) != second.settings.get(key)
        )
        yield f"their settings differ: {', '.join(keys)}"
    if not (first.is_complete and second.is_complete):
        yield "one of them was interrupted"
