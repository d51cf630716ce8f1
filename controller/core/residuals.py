"""What a sleeper keeps that it did not keep before: leaks, by the trend and not by one measure.

After each sleep what is still held is noted, by depth. The median of the last few is compared with
that of the first few since the engine started, so that one odd measure says nothing, nor does the
settling after the very first sleep. Where it grew by more than is allowed, the engine is restarted
when nobody waits for anything and nothing runs on it: memory that leaks away for good is given back
by nothing else, and a fleet that waits too long wakes into memory that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FEW = 3


@dataclass(slots=True)
class Residuals:
    """Of one engine at one depth, bytes of each of its devices."""

    first: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)

    def note(self, held_bytes: int) -> None:
        if len(self.first) < FEW:
            self.first.append(held_bytes)
        else:
            self.last = [*self.last, held_bytes][-FEW:]

    @property
    def growth_bytes(self) -> int:
        """0 until there is enough to tell."""
        return _median(self.last) - _median(self.first) if len(self.last) == FEW else 0


def _median(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]
