"""What a series of values says: percentiles, and a ratio with its spread (numpy and scipy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

_RESAMPLES = 2000
_SEED = 0

Series = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """``low`` and ``high`` are the extremes; percentiles interpolate linearly."""

    count: int
    mean: float
    median: float
    p95: float
    p99: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median over median; ``low`` to ``high`` is the bootstrapped 95 % interval, and both are
    the ratio itself where a side has a single value."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """The interval does not contain 1."""
        return self.low > 1 or self.high < 1


def summary(values: Sequence[float]) -> Summary:
    """Of at least one value."""
    series = np.asarray(values, dtype=float)
    median, p95, p99 = (float(p) for p in np.percentile(series, (50, 95, 99)))
    low, high = float(series.min()), float(series.max())
    return Summary(series.size, float(series.mean()), median, p95, p99, low, high)


def statistic(values: Sequence[float], name: str) -> float:
    """``median``, ``mean``, ``p95``, ``p99``, ``min``, ``max``. Raises KeyError for another."""
    said = summary(values)
    named = {
        "median": said.median,
        "mean": said.mean,
        "p95": said.p95,
        "p99": said.p99,
        "min": said.low,
        "max": said.high,
    }
    return named[name]


def ratio(values: Sequence[float], base: Sequence[float]) -> Ratio:
    """Of the medians; nan where the base's median is 0."""
    over, under = np.asarray(values, dtype=float), np.asarray(base, dtype=float)
    value = _quotient(over, under)
    if min(over.size, under.size) < 2 or not np.isfinite(value):
        return Ratio(value, value, value)
    sampled = stats.bootstrap(
        (over, under),
        _quotient,
        vectorized=False,
        paired=False,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Ratio(value, float(sampled.low), float(sampled.high))


def _quotient(over: Series, under: Series) -> float:
    base = float(np.median(under))
    return float(np.median(over)) / base if base else float("nan")
