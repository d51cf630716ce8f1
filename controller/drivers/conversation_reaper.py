"""Looks for conversations that nobody uses any more (``core.conversations.due``), and at the
configured times of day for all that nobody uses at that moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from controller.core.conversations import Act, due
from controller.core.names import Instant
from controller.drivers.conversation_entries import Entries, Entry
from controller.hours import has_come

Ask = Callable[[Entry, Act], asyncio.Future[str]]
"""The end of the act: why it failed, or empty."""
Wall = Callable[[], float]
"""Unix seconds."""

_LOOKED_AT_ONCE = 1000
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.05, 10.0


class Reaper:
    def __init__(self, entries: Entries, ask: Ask, wall: Wall = time.time) -> None:
        self._entries = entries
        self._ask = ask
        self._wall = wall
        self._looked_at = wall()

    async def reap(self) -> None:
        """For ever."""
        shortest_s = self._entries.limits.shortest_s
        every_s = max(_SHORTEST_LOOK_S, min(_LONGEST_LOOK_S, shortest_s / 4))
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Requests are served between one thousand and the next."""
        now, limits = self._wall(), self._entries.limits
        is_evening = has_come(limits.hibernate_at, limits.time_zone, self._looked_at, now)
        self._looked_at = now
        for number, entry in enumerate(self._entries, 1):
            self._reap_one(entry, now, is_evening)
            if number % _LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _reap_one(self, entry: Entry, now: float, is_evening: bool) -> None:
        last_use, of = entry.record.last_use_s, self._entries.limits.of_tenant(entry.key.tenant)
        act = due(entry.line, Instant(last_use), Instant(now), of, is_evening=is_evening)
        if act is None or not self._entries.has(entry):
            return
        counts = self._entries.counts(entry.key.tenant)

        def ended(end: asyncio.Future[str]) -> None:
            counts.expired += not end.result() and act is Act.DELETE
            counts.hibernated += not end.result() and act is Act.HIBERNATE

        self._ask(entry, act).add_done_callback(ended)
