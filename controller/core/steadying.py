"""What of a memory's ups and downs becomes a budget: cut at once, grown only after calm.

Others' memory is never at rest, and each change of a budget may send an engine to sleep or wake
one. So a change smaller than a step is none; a cut counts at once, since the kernel does not wait;
and what comes free counts when it has stayed free for a while, and then only as much as was free
all that time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from controller.core.names import Instant


@dataclass(frozen=True, slots=True)
class FollowPolicy:
    follows_devices: bool = True
    follows_host: bool = True
    headroom_fraction: float = 0.05
    """Of a resource, kept free."""
    stall_percent: float = 10.0
    """Tasks that wait for memory for so much of the time are stalled."""
    calm_s: float = 30.0
    """What came free counts after so long."""
    reserved_bytes: int = 0
    """For the KV tier of each node: on its host, or where that is one memory on its device."""
    least_of_tier: float = 0.25
    """Of that, left to the tier whatever others hold."""


class SteadyBudget:
    """Of one resource."""

    def __init__(self, step_bytes: int, calm_s: float) -> None:
        self.cut_to: int | None = None
        """None: all that was named."""
        self._step_bytes = step_bytes
        self._calm_s = calm_s
        self._seen: deque[tuple[Instant, int]] = deque()
        """Since the last cut; of what is older than ``calm_s``, the last."""
        self._since: Instant | None = None

    def look(self, at: Instant, to_be_had: int, named: int) -> bool:
        """Whether ``cut_to`` has changed."""
        can_have = min(to_be_had, named)
        budget = named if self.cut_to is None else min(self.cut_to, named)
        if can_have < budget - self._step_bytes:
            self.cut_to = can_have
            self._begin_anew(at, can_have)
            return True
        self._note(at, can_have)
        return self.cut_to is not None and self._grow(at, budget, named)

    def _grow(self, at: Instant, budget: int, named: int) -> bool:
        assert self._since is not None
        lowest = min([seen for _, seen in self._seen])
        if at < self._since + self._calm_s or not (
            lowest >= named or lowest > budget + self._step_bytes
        ):
            return False
        self.cut_to = None if lowest >= named else lowest
        return True

    def _note(self, at: Instant, can_have: int) -> None:
        if self._since is None:
            self._since = at
        self._seen.append((at, can_have))
        while len(self._seen) > 1 and self._seen[1][0] <= at - self._calm_s:
            self._seen.popleft()

    def _begin_anew(self, at: Instant, can_have: int) -> None:
        self._since = at
        self._seen.clear()
        self._seen.append((at, can_have))
