"""Whether a part of the fleet does its work: asked from outside, as its users would find it."""

from __future__ import annotations

import asyncio

import aiohttp
import psutil

from benchmarks.chaos.grounds import Grounds
from benchmarks.chaos.parts import Part

LOOK_S = 0.05
_ANSWERS_S = 2.0
_ALWAYS = (Part.CONTROLLER, Part.KV, Part.STORE, Part.AGENT)


class Health:
    def __init__(self, grounds: Grounds, http: aiohttp.ClientSession) -> None:
        self._grounds = grounds
        self._http = http

    async def there(self, part: Part, model: str = "") -> list[psutil.Process]:
        """Waits until there is one."""
        while True:
            found = await asyncio.to_thread(self._grounds.find, part, model)
            if found:
                return found
            await asyncio.sleep(LOOK_S)

    async def successor(self, part: Part, victim: psutil.Process) -> None:
        while True:
            if victim not in await self.there(part):
                return
            await asyncio.sleep(LOOK_S)

    async def works(self, part: Part) -> None:
        """Waits until it does."""
        while True:
            if await self._does_its_work(part):
                return
            await asyncio.sleep(LOOK_S)

    async def all_work(self) -> None:
        """But for engines, which may sleep or be stopped."""
        for part in _ALWAYS:
            if self._grounds.find(part):
                await self.works(part)

    async def _does_its_work(self, part: Part) -> bool:
        store = self._grounds.store
        match part:
            case Part.CONTROLLER | Part.CARRIER:
                return await self._answers("/readyz")
            case Part.KV:
                [server, *_] = await self.there(part)
                return await self._answers(f"http://127.0.0.1:{_http_port(server)}/healthcheck")
            case Part.STORE if store is not None:
                return await store.is_up()
        return bool(await self.there(part))

    async def _answers(self, url: str) -> bool:
        try:
            async with self._http.get(url, timeout=aiohttp.ClientTimeout(_ANSWERS_S)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


def _http_port(server: psutil.Process) -> str:
    try:
        arguments = server.cmdline()
        return arguments[arguments.index("--http-port") + 1]
    except (psutil.Error, ValueError, IndexError):
        return "0"
