"""What a long series does over time: its first tenth against its last, and its slope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST = 10
"""Values, below which nothing is said."""


@dataclass(frozen=True, slots=True)
class Drift:
    first_tenth: float
    """Median."""
    last_tenth: float
    slope: float
    """A step of the series, by Theil and Sen: single outliers do not move it."""


def drift(series: Sequence[float]) -> Drift | None:
    """None for fewer than ``LEAST`` values."""
    if len(series) < LEAST:
        return None
    tenth = len(series) // 10
    first, last = (float(np.median(part)) for part in (series[:tenth], series[-tenth:]))
    return Drift(first, last, float(stats.theilslopes(series)[0]))
