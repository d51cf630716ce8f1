"""Looks for conversations that nobody uses any more (``core.conversations.due``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from controller.core.conversations import Act, due
from controller.core.names import Instant
from controller.drivers.conversation_entries import Entries, Entry

Ask = Callable[[Entry, Act], asyncio.Future[str]]
"""The end of the act: why it failed, or empty."""

_LOOKED_AT_ONCE = 1000
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.05, 10.0


async def reap(entries: Entries, ask: Ask) -> None:
    """For ever. Requests are served between one thousand and the next."""
    lifetimes = entries.limits.lifetimes
    shortest_s = min(lifetimes.hibernate_after_s, lifetimes.expire_after_s)
    every_s = max(_SHORTEST_LOOK_S, min(_LONGEST_LOOK_S, shortest_s / 4))
    while True:
        for number, entry in enumerate(entries, 1):
            _reap_one(entries, entry, ask)
            if number % _LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(every_s)


def _reap_one(entries: Entries, entry: Entry, ask: Ask) -> None:
    last_use, now = Instant(entry.record.last_use_s), Instant(time.time())
    act = due(entry.line, last_use, now, entries.limits.lifetimes)
    if act is None or not entries.has(entry):
        return
    counts = entries.counts

    def ended(end: asyncio.Future[str]) -> None:
        counts.expired += not end.result() and act is Act.DELETE
        counts.hibernated += not end.result() and act is Act.HIBERNATE

    ask(entry, act).add_done_callback(ended)
