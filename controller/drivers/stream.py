"""The fleet's public events: a bounded memory of them, and who listens."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from controller.ports import FleetEvent

_KEPT = 2000
_LISTENER_QUEUE = 2000


class EventStream:
    """Numbers and keeps events; ids grow, also over a restart of the controller, because
    they start at the Unix time in milliseconds."""

    def __init__(self, first_id: int) -> None:
        self._next_id = first_id
        self._kept: deque[FleetEvent] = deque(maxlen=_KEPT)
        self._listeners: set[asyncio.Queue[FleetEvent]] = set()

    def publish(self, type_: str, payload: dict[str, object]) -> None:
        event = FleetEvent(self._next_id, type_, payload)
        self._next_id += 1
        self._kept.append(event)
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    async def listen(self, after: int | None) -> AsyncIterator[FleetEvent]:
        """What is kept from after ``after``, then what comes. A listener that falls more
        than 2,000 events behind loses the oldest and can tell from the ids."""
        queue: asyncio.Queue[FleetEvent] = asyncio.Queue(_LISTENER_QUEUE)
        if after is not None:
            for event in self._kept:
                if event.id > after:
                    queue.put_nowait(event)
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)
