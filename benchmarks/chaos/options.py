"""What one run of chaos is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """Requests go on until at least so many were sent and so many rounds of faults are over."""

    requests: int = 200
    rounds: int = 1
    clients: int = 16
    """As many requests at a time."""
    each: int = 12
    """Questions of each model."""
    faults: tuple[str, ...] = ()
    """Names as ``kill-engine``; none: every one that the fleet has a part for."""
    hold_s: float = 2.0
    """About how long a part is stopped or slowed."""
    calm_s: float = 1.0
    """From one fault to the next, at most."""
    max_wait_s: float = 60.0
    """For a grant; told to the fleet with every request."""
    recovers_s: float = 120.0
    """A part that does not do its work again by then, after a fault, is taken for broken."""
    keeps_store: bool = True
    """KV and records lie in a store beside the fleet, not in a directory and the fleet's own."""
    kept: Path | None = None
    """Where the fleet's journal and logs stay."""
    seed: int = 0

    @property
    def lost_s(self) -> float:
        """One attempt that got no answer for so long hangs."""
        return self.max_wait_s + self.recovers_s

    @property
    def patience_s(self) -> float:
        """A client that was told to ask again does so for this long."""
        return 2 * self.recovers_s
