"""Whether an engine hangs: it has work, and has taken no step for longer than any step takes.

Progress, not a ping, tells: an engine whose core is stopped answers every question about its
health. What is looked at is a count of steps that only grows while the engine works. A step may be
long: all that one may hold of a huge prompt is computed in one. How long, each engine tells from
the speed it was measured at; until it can, the most is waited. Who has no work need not step, and
who does not even answer the question is taken to have work and to stand still.

Only engines that serve are looked at; one that was out of sight (asleep, starting, frozen with its
streams) begins anew when it is back, since ``Pulse`` is of the time it has served without a break.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from controller.core.names import Instant


@dataclass(frozen=True, slots=True)
class HangTimes:
    factor: float = 10.0
    """So many times its longest step …"""
    least_s: float = 60.0
    """… and no less than this."""
    most_s: float = 600.0
    """At the most, and where its longest step is not known; inf: no engine is taken to hang."""

    def patience_s(self, longest_step_s: float | None) -> float:
        if longest_step_s is None or self.most_s == inf:
            return self.most_s
        return min(self.most_s, max(self.least_s, self.factor * longest_step_s))


@dataclass(slots=True)
class Pulse:
    """Of one engine while it serves."""

    since: Instant
    """It stands still, as far as is known."""
    steps: int = -1
    running: int = 0
    longest_step_s: float | None = None

    def beat(self, at: Instant, steps: int, running: int, longest_step_s: float | None) -> None:
        """The engine told how far it is."""
        if steps != self.steps or running == 0 or self.running == 0:
            self.since = at
        self.steps, self.running, self.longest_step_s = steps, running, longest_step_s

    def why_hung(self, at: Instant, times: HangTimes) -> str | None:
        still_s = at - self.since
        if still_s <= times.patience_s(self.longest_step_s):
            return None
        return f"no step for {still_s:.0f} s with {self.running} requests in it"
