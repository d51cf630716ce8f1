"""What is measured, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from benchmarks.running import BenchError


@dataclass(frozen=True, slots=True)
class Options:
    engine: str = "quick"
    """``quick``: fixed bytes on a raw protocol, so that the engine is no bottleneck; ``fake``:
    the fake engine's own server on uvicorn; a fleet.yaml, of which stock vLLM starts ``model``;
    else the URL of a running engine."""
    engine_key: str = ""
    model: str = "bench"
    connections: tuple[int, ...] = (1, 16, 64, 256)
    rounds: int = 5
    """Of each side, by turns."""
    round_s: float = 2.0
    warm_up: int = 2_000
    """Requests, before anything is measured."""
    requests: int = 3_000
    """To each side, one at a time, by turns; all rounds together."""
    streams: tuple[int, ...] = (1, 16, 64, 256)
    events: int = 200
    """Of each stream."""
    event_interval_s: float = 0.02
    """So far apart that events do not coalesce."""
    workers: tuple[int, ...] = ()
    """Carriers before the controller, each number against the others; 0: it carries itself."""
    workers_connections: int = 64
    memory_requests: int = 100_000
    """0: memory is not measured."""

    @property
    def own_engine(self) -> Literal["quick", "fake"] | None:
        """Which engine is started; None: a running one is asked."""
        match self.engine:
            case "quick" | "fake":
                return self.engine
            case _:
                return None

    @property
    def config(self) -> Path | None:
        return Path(self.engine) if self.engine.endswith((".yaml", ".yml")) else None

    def place(self) -> tuple[str, int]:
        """Host and port of the running engine. Raises BenchError."""
        try:
            parts = urlsplit(self.engine)
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port = None, 0
        if host is None or not self.engine.startswith("http://"):
            raise BenchError(
                f"--engine: quick, fake, a fleet.yaml or http://HOST:PORT, not {self.engine!r}"
            )
        return host, port


def parse_counts(text: str, least: int = 1) -> tuple[int, ...]:
    """``1,16``; nothing: none. Raises BenchError."""
    counts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(count.isdecimal() and int(count) >= least for count in counts):
        raise BenchError(f"numbers from {least}, with commas between them, not {text!r}")
    return tuple(int(count) for count in counts)
