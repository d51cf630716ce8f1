"""Who of a pool's engines is alive, and the news of those that are not.

A death is told once: by EngineGone from the order that was open when it was noticed, or else
through ``deaths``. It is fenced by the incarnation, and no news once the engine was ordered
to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from workers.engine import EngineGone, OrderTimedOut
from workers.pool_values import EngineDied

T = TypeVar("T")


@dataclass(slots=True)
class Watched:
    """One engine believed alive."""

    replica: str
    incarnation: int
    died: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    orders: int = 0


class Register:
    def __init__(self) -> None:
        self._alive: dict[str, Watched] = {}
        self._news: asyncio.Queue[EngineDied | None] = asyncio.Queue()

    def enter(self, replica: str, incarnation: int) -> None:
        self._alive[replica] = Watched(replica, incarnation)

    def incarnation(self, replica: str) -> int:
        """Raises EngineGone where no engine of that replica is believed alive."""
        return self._get(replica).incarnation

    def leave(self, replica: str, incarnation: int) -> None:
        """It is about to be stopped: its death is no news, its open orders end."""
        watched = self._alive.get(replica)
        if watched is not None and watched.incarnation == incarnation:
            del self._alive[replica]
            watched.reason = f"{replica} was ordered to stop"
            watched.died.set()

    def died(self, replica: str, incarnation: int, reason: str) -> None:
        watched = self._alive.get(replica)
        if watched is None or watched.incarnation != incarnation:
            return
        del self._alive[replica]
        watched.reason = reason
        watched.died.set()
        if not watched.orders:
            self._news.put_nowait(EngineDied(replica, incarnation, reason))

    async def carried_out(self, replica: str, order: Awaitable[T], limit_s: float) -> T:
        """What ``order`` returns or raises; EngineGone, OrderTimedOut."""
        working = asyncio.ensure_future(order)
        dying: asyncio.Task[bool] | None = None
        watched: Watched | None = None
        try:
            watched = self._get(replica)
            watched.orders += 1
            dying = asyncio.ensure_future(watched.died.wait())
            ends = {working, dying}
            await asyncio.wait(ends, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return self._result(watched, working)
            if watched.died.is_set():
                raise EngineGone(watched.reason)
            raise OrderTimedOut(f"{replica} did not answer within {limit_s:g} s")
        finally:
            working.cancel()
            if dying is not None and watched is not None:
                watched.orders -= 1
                dying.cancel()

    async def deaths(self) -> AsyncIterator[EngineDied]:
        while (died := await self._news.get()) is not None:
            yield died

    def close(self) -> None:
        """Forget all; who listens to ``deaths`` comes to its end."""
        self._alive.clear()
        self._news.put_nowait(None)

    def _result(self, watched: Watched, working: asyncio.Future[T]) -> T:
        try:
            return working.result()
        except EngineGone as gone:
            watched.reason = str(gone)
            if self._alive.get(watched.replica) is watched:
                del self._alive[watched.replica]
            raise

    def _get(self, replica: str) -> Watched:
        watched = self._alive.get(replica)
        if watched is None:
            raise EngineGone(f"{replica} is not running")
        return watched
