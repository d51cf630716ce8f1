"""What ``torpor bench kv`` measures, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.running import BenchError, parts_of

PARTS = ("transfer", "storing", "first_token")
ON_REQUEST = ("agreement",)


@dataclass(frozen=True, slots=True)
class Options:
    model: str | None = None
    """None: the first of the fleet that keeps its KV."""
    lengths: tuple[int, ...] = (500, 1000, 2000, 4000)
    repeats: int = 3
    parts: tuple[str, ...] = PARTS


def parse_lengths(written: str) -> tuple[int, ...]:
    """``500,4000``: tokens, at least one, the shortest first. Raises BenchError."""
    try:
        lengths = {int(word) for word in written.split(",") if word.strip()}
    except ValueError:
        raise BenchError(f"--lengths are numbers of tokens, not {written!r}") from None
    if not lengths or min(lengths) < 1:
        raise BenchError("--lengths names no number of tokens")
    return tuple(sorted(lengths))


def parse_parts(written: str | None) -> tuple[str, ...]:
    """In the order in which they are measured. Raises BenchError."""
    return PARTS if written is None else parts_of(written, (*PARTS, *ON_REQUEST))
