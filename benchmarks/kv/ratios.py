"""Restored first tokens beside recomputed ones in the same state, and beside undisturbed ones:
out of the engine's own prefix cache, and out of the host tier by an engine whose weights stayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from benchmarks.kv.disturbing import KV_RELEASED
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
            from_host = _beside(found, **{**labels, "after": KV_RELEASED}, kv=RESTORED)
            yield _ratio("sooner_than_recomputed", recomputed, measure, labels, "higher")
            yield _ratio("against_undisturbed", measure, undisturbed, labels, "lower")
            if measure is not from_host:
                yield _ratio("against_host_tier", measure, from_host, labels, "lower")


def _ratio(
    name: str, of: Measure, to: Measure, labels: dict[str, str], better: Literal["higher", "lower"]
) -> Measure:
    value = ratio(of.values, to.values).value
    return Measure(name=name, unit="ratio", values=(value,), labels=labels, better=better)


def _beside(measures: list[Measure], **labels: str) -> Measure:
    return next(measure for measure in measures if measure.labels == labels)
