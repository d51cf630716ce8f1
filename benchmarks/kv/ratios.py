"""Restored first tokens beside recomputed ones in the same state, and beside undisturbed ones."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.result import Measure
from benchmarks.statistics import ratio

UNDISTURBED, RESTORED, RECOMPUTED = "undisturbed", "restored", "recomputed"
AWAKE = "awake"
NAME = "first_token"


def ratios(measures: list[Measure]) -> Iterator[Measure]:
    """Of the medians, for each length after each disturbance."""
    found = [measure for measure in measures if measure.name == NAME]
    for measure in found:
        if measure.labels["kv"] == RESTORED:
            labels = {name: told for name, told in measure.labels.items() if name != "kv"}
            recomputed = _beside(found, **labels, kv=RECOMPUTED)
            undisturbed = _beside(found, **{**labels, "after": AWAKE}, kv=UNDISTURBED)
            sooner = ratio(recomputed.values, measure.values).value
            yield Measure(
                name="sooner_than_recomputed",
                unit="ratio",
                values=(sooner,),
                labels=labels,
                better="higher",
            )
            slower = ratio(measure.values, undisturbed.values).value
            yield Measure(
                name="against_undisturbed",
                unit="ratio",
                values=(slower,),
                labels=labels,
                better="lower",
            )


def _beside(measures: list[Measure], **labels: str) -> Measure:
    return next(measure for measure in measures if measure.labels == labels)
