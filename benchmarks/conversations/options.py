"""What ``torpor bench conversations`` measures, and how often."""

from __future__ import annotations

from dataclasses import dataclass

PARTS = ("records", "turns")


@dataclass(frozen=True, slots=True)
class Options:
    model: str | None = None
    """None: the first of the fleet that keeps its KV."""
    tokens: int = 2000
    """Of each conversation."""
    many: int = 100_000
    """Conversations on record."""
    repeats: int = 5
    parts: tuple[str, ...] = PARTS
