"""What must be looked at when: one moment a key, the earliest found without a scan."""

from __future__ import annotations

from collections.abc import KeysView
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from controller.core.names import NEVER, Instant

K = TypeVar("K", bound=str)
SLACK = 64
"""So many outdated entries are kept beyond as many as there are good ones."""


class Agenda(Generic[K]):
    def __init__(self) -> None:
        self._moments: dict[K, Instant] = {}
        self._ahead: list[tuple[Instant, K]] = []
        """A heap; entries that no longer agree with the moments are passed over."""
        self._late: dict[K, None] = {}

    def put(self, key: K, at: Instant) -> None:
        """In place of what was noted for the key; NEVER strikes it out."""
        if self.at(key) == at:
            return
        self._late.pop(key, None)
        if at == NEVER:
            del self._moments[key]
            return
        self._moments[key] = at
        heappush(self._ahead, (at, key))
        if len(self._ahead) > 2 * len(self._moments) + SLACK:
            self._ahead = [(moment, one) for one, moment in self._moments.items()]
            heapify(self._ahead)

    def at(self, key: K) -> Instant:
        return self._moments.get(key, NEVER)

    def late(self, now: Instant) -> KeysView[K]:
        """Whose moment has come, in no particular order; they stay until put elsewhere."""
        while self._ahead and self._ahead[0][0] <= now:
            at, key = heappop(self._ahead)
            if self.at(key) == at:
                self._late[key] = None
        return self._late.keys()

    def next_after(self, now: Instant) -> Instant:
        self.late(now)
        while self._ahead and self.at(self._ahead[0][1]) != self._ahead[0][0]:
            heappop(self._ahead)
        return self._ahead[0][0] if self._ahead else NEVER
