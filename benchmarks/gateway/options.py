"""What is measured, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Options:
    engine: Literal["quick", "fake"] = "quick"
    """``quick``: fixed bytes on a raw protocol, so that the engine is no bottleneck; ``fake``:
    the fake engine's own server on uvicorn."""
    connections: tuple[int, ...] = (1, 16, 64, 256)
    rounds: int = 5
    """Of each side, by turns."""
    round_s: float = 2.0
    sequential_pairs: int = 3_000
    """Requests of each side, one at a time, by turns."""
    streams: tuple[int, ...] = (1, 16, 64, 256)
    events: int = 200
    """Of each stream."""
    event_interval_s: float = 0.02
    """So far apart that events do not coalesce."""
    memory_requests: int = 100_000
    """0: memory is not measured."""
