"""Everything that one run of chaos saw."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.chaos.crowd import Tally
from benchmarks.chaos.storm import Record
from benchmarks.chaos.witness import Memory


@dataclass(slots=True)
class Seen:
    tally: Tally = field(default_factory=Tally)
    record: Record = field(default_factory=Record)
    before: Memory | None = None
    after: Memory | None = None
    controller_bytes: list[float] = field(default_factory=list)
    """RSS of the controller while it was asked, of killed ones and their successors."""
    left_out: int = 0
    """Questions without a steady answer."""
