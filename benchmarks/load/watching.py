"""The fleet's own events while it is under load: residency, wakes, demotions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp

from benchmarks.load.client import Clock
from benchmarks.workload.residency import Residency
from controller.ports import FleetView

_EVENTS = "/fleet/events"


def seen(view: FleetView) -> Residency:
    """Where its replicas are before the load begins."""
    residency = Residency()
    for model in view.models:
        for replica in model.replicas:
            state = "stopped" if replica.phase == "COLD" else replica.phase.lower()
            residency.begin(replica.replica, replica.depth or state, 0.0)
    return residency


async def watch(
    http: aiohttp.ClientSession, residency: Residency, clock: Clock, ready: asyncio.Event
) -> None:
    """Until cancelled. ``ready`` is set once nothing can be missed any more."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with http.get(_EVENTS, timeout=timeout) as response:
        response.raise_for_status()
        async for kind, payload in _events(response.content, ready):
            if kind == "replica":
                after, why = str(payload["after"]), str(payload["why"])
                residency.changed(str(payload["replica"]), after, why, max(0.0, clock()))


async def _events(
    lines: aiohttp.StreamReader, ready: asyncio.Event
) -> AsyncIterator[tuple[str, dict[str, object]]]:
    kind = ""
    async for line in lines:
        ready.set()  # the fleet greets with a comment
        if line.startswith(b"event: "):
            kind = line.removeprefix(b"event: ").decode().strip()
        elif line.startswith(b"data: "):
            yield kind, json.loads(line.removeprefix(b"data: "))
