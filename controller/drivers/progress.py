"""Asking engines that serve how far they are, so that one that hangs is noticed.

The core names who is to be asked: whoever serves and has leases. The seam for streams that are
held still on purpose is ``_at_work``: a replica that is not named here is not taken to hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controller.core.fleet import Fleet
from controller.core.hanging import HangTimes, Pulse
from controller.core.lifecycle import SERVING, Replica
from controller.core.names import Instant, OpId, ReplicaId
from controller.ports import Pool
from workers.engine import EngineError

Found = Callable[[ReplicaId, OpId, str], None]
"""An engine hangs: replica, incarnation, why."""

LOOK_S = 5.0


class ProgressWatch:
    def __init__(self, fleet: Fleet, pool: Pool, times: HangTimes, found: Found) -> None:
        self._fleet = fleet
        self._pool = pool
        self._times = times
        self._found = found
        self._pulses: dict[tuple[ReplicaId, OpId], Pulse] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """At everybody at once; nobody is waited for longer than until the next look."""
        began = _now()
        asked = {(r.id, r.incarnation): r for r in self._at_work() if r.incarnation is not None}
        self._pulses = {
            engine: self._pulses.get(engine) or Pulse(began, running=len(replica.leases))
            for engine, replica in asked.items()
        }
        await asyncio.gather(*(self._ask(*engine) for engine in asked))
        for engine in asked:
            pulse = self._pulses[engine]
            if why := pulse.why_hung(_now(), self._times):
                del self._pulses[engine]
                self._found(*engine, why)

    def _at_work(self) -> list[Replica]:
        return [r for r in self._fleet.replicas.values() if r.phase in SERVING and r.leases]

    async def _ask(self, replica: ReplicaId, incarnation: OpId) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                told = await self._pool.progress(replica)
        except (EngineError, TimeoutError):
            return
        pulse = self._pulses[replica, incarnation]
        pulse.beat(_now(), told.steps, told.running, told.longest_step_s)


def _now() -> Instant:
    return Instant(asyncio.get_running_loop().time())
