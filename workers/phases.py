"""Seconds by phase of a start, a sleep, a wake."""

from __future__ import annotations

import time


class Phases:
    """In the order in which they came; a phase that comes twice is added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
