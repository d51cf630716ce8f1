"""Tells the core when a model's fixed hours begin and end, by the clock on the wall.

It looks at the wall each time one of its minutes begins, and feeds what differs from what the core
was told: a clock that jumps, a machine that was suspended, a file that was read again need no rule
of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from controller.core.events import RegimeBegan
from controller.drivers.live import LiveDriver
from controller.hours import regime_at

_MINUTE_S = 60.0

Wall = Callable[[], float]
"""Unix seconds."""


async def keep_hours(driver: LiveDriver, wall: Wall = time.time) -> None:
    """For ever."""
    while True:
        tell_hours(driver, wall())
        await asyncio.sleep(_MINUTE_S - wall() % _MINUTE_S)


def tell_hours(driver: LiveDriver, unix_s: float) -> None:
    for record in list(driver.fleet.models.values()):
        regime = regime_at(record.spec.schedule, unix_s)
        if record.regime is not regime and not record.is_removed:
            driver.feed(RegimeBegan(driver.now(), record.spec.name, regime))
