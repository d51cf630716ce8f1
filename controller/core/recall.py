"""Whether KV in the durable tier is fetched for a waiting request, or computed again.

Theory of operation. A turn of a conversation has a prefix whose KV lies somewhere: in the host
tier, or in the durable one. While its engine wakes, fetching it costs nobody anything, so the wake
is a head start: computing is sooner only if it takes less than what is left of the fetch when the
engine is awake. Without a head start the two are simply compared.

Both are known from what was measured lately: bytes a second of fetches to a node, tokens a second
of a model's prefill, bytes a token of its KV; each the median of the last few. What was never
measured, or too long ago, is not known, and then KV is fetched: only a measurement may speak
against it. So a store that was slow once is tried again before long.

The doubt: prefill is measured at the first token of a stream, so what the request waited inside
the engine counts as computing. That errs towards fetching.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeVar

from controller.core.names import Instant, ModelName, NodeId

K = TypeVar("K")

_REMEMBERED = 5
_KNOWN_FOR_S = 600.0
_LEAST_COMPUTED_TOKENS = 256
"""Fewer say more of the engine's other work than of its prefill."""
_LEAST_HEAD_START_S = 0.05
"""A wake that is over sooner is no time to fetch in; the engine fetches itself."""

Rate = tuple[Instant, float]


@dataclass(slots=True)
class Rates:
    """What was measured of fetching and of computing."""

    _fetches: dict[NodeId, deque[Rate]] = field(default_factory=dict)
    """Bytes a second."""
    _prefills: dict[ModelName, deque[Rate]] = field(default_factory=dict)
    """Tokens a second."""
    _sizes: dict[ModelName, float] = field(default_factory=dict)
    """Bytes a token."""

    def fetched(self, node: NodeId, size: int, seconds: float, at: Instant) -> None:
        if size > 0 and seconds > 0:
            _learn(self._fetches, node, size / seconds, at)

    def computed(self, model: ModelName, tokens: int, seconds: float, at: Instant) -> None:
        if tokens >= _LEAST_COMPUTED_TOKENS and seconds > 0:
            _learn(self._prefills, model, tokens / seconds, at)

    def sized(self, model: ModelName, size: int, tokens: int) -> None:
        if size > 0 and tokens > 0:
            self._sizes[model] = size / tokens

    def fetch_s(self, node: NodeId, model: ModelName, tokens: int, at: Instant) -> float | None:
        rate, size = _known(self._fetches, node, at), self._sizes.get(model)
        return tokens * size / rate if rate is not None and size is not None else None

    def compute_s(self, model: ModelName, tokens: int, at: Instant) -> float | None:
        rate = _known(self._prefills, model, at)
        return tokens / rate if rate is not None else None


def is_computed_sooner(
    fetch_s: float | None, compute_s: float | None, head_start_s: float = 0.0
) -> bool:
    if fetch_s is None or compute_s is None:
        return False
    return compute_s < fetch_s - head_start_s


def is_worth_fetching(fetch_s: float | None, compute_s: float | None, head_start_s: float) -> bool:
    """Ahead of its engine's wake, which takes ``head_start_s``."""
    if head_start_s < _LEAST_HEAD_START_S:
        return False
    return not is_computed_sooner(fetch_s, compute_s, head_start_s)


def _learn(rates: dict[K, deque[Rate]], of: K, rate: float, at: Instant) -> None:
    rates.setdefault(of, deque(maxlen=_REMEMBERED)).append((at, rate))


def _known(rates: dict[K, deque[Rate]], of: K, at: Instant) -> float | None:
    lately = sorted(rate for when, rate in rates.get(of, ()) if at - when < _KNOWN_FOR_S)
    return lately[len(lately) // 2] if lately else None
