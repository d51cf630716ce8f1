"""Listening to what a pool tells by itself, whatever becomes of one connection to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

log = logging.getLogger("torpor.driver")

T = TypeVar("T")

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


async def watch(
    what: str, listen: Callable[[], AsyncIterator[T]], heard: Callable[[T], None]
) -> None:
    """To the end of what is told; whoever fails in telling it is asked again, after a pause
    that doubles until something was heard."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            async for news in listen():
                pause_s = _FIRST_PAUSE_S
                heard(news)
            return
        except Exception:
            log.exception("the watch over %s failed; again in %g s", what, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
