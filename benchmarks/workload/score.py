"""How well requests were answered, as measures: the same for the live load and the simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.result import Labels, Measure, thinned
from benchmarks.workload.scenario import Objective

_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request. Times count from its arrival."""

    request: str
    model: str
    arrived_s: float
    queue_s: float | None = None
    """Until a replica was its to use; None: it never was, or nobody told."""
    ttft_s: float | None = None
    e2e_s: float | None = None
    shed: str = ""
    """Why it was refused or broke off; empty: it was answered."""
    replica: str = ""
    inter_token_s: tuple[float, ...] = ()


def is_well_served(outcome: Outcome, objective: Objective) -> bool:
    """An objective whose figure nobody could take is not met."""
    if outcome.shed:
        return False
    return _within(outcome.ttft_s, objective.ttft_s) and _within(outcome.e2e_s, objective.e2e_s)


def _within(figure: float | None, limit: float | None) -> bool:
    return limit is None or (figure is not None and figure <= limit)


def good_share(outcomes: Sequence[Outcome], objective: Objective) -> float:
    """Of all requests, refused ones included; 1 where nobody asked."""
    if not outcomes:
        return 1.0
    return sum(is_well_served(outcome, objective) for outcome in outcomes) / len(outcomes)


def score(
    outcomes: Sequence[Outcome], objective: Objective, duration_s: float, labels: Labels
) -> list[Measure]:
    """``duration_s``: over which the requests arrived."""

    def one(name: str, unit: str, value: float, **more: str) -> Measure:
        better = {"1/s": "higher", "ratio": "higher"}.get(unit)
        return Measure.model_validate(
            {
                "name": name,
                "unit": unit,
                "values": (round(value, _DIGITS),),
                "labels": {**labels, **more},
                "better": "lower" if name == "shed" else better,
            }
        )

    good = sum(is_well_served(outcome, objective) for outcome in outcomes)
    sheds = Counter(outcome.shed for outcome in outcomes if outcome.shed)
    return [
        one("requests", "count", len(outcomes)),
        one("goodput", "1/s", good / duration_s),
        one("goodput_share", "ratio", good_share(outcomes, objective)),
        *_series("ttft", (o.ttft_s for o in outcomes if not o.shed), labels),
        *_series("e2e", (o.e2e_s for o in outcomes if not o.shed), labels),
        *_series("queue_wait", (o.queue_s for o in outcomes if not o.shed), labels),
        *_series("inter_token", (s for o in outcomes for s in o.inter_token_s), labels),
        one("shed", "count", sheds.total()),
        *(one("shed_because", "count", n, reason=r) for r, n in sorted(sheds.items())),
    ]


def _series(name: str, values: Iterable[float | None], labels: Labels) -> list[Measure]:
    known = [round(value, _DIGITS) for value in values if value is not None]
    if not known:
        return []
    return [Measure(name=name, unit="s", values=thinned(known), labels=labels, better="lower")]
