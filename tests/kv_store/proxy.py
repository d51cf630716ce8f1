"""A TCP proxy that can be told to stand still, a store that is there and does not answer; or to
hold back whatever passes for a while.

With ``tls`` it is what clients speak TLS with.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from ssl import SSLContext

_READ_BYTES = 1 << 16


class Proxy:
    def __init__(self, host: str, port: int, *, tls: SSLContext | None = None) -> None:
        self._target = (host, port)
        self._tls = tls
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay_s = 0.0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return int(self._server.sockets[0].getsockname()[1])

    def stand_still(self) -> None:
        self._flowing.clear()

    def slow_down(self, delay_s: float) -> None:
        """By so much for each piece of at most 64 KiB, in either direction."""
        self._delay_s = delay_s

    def flow(self) -> None:
        self._flowing.set()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection(*self._target)
        except ConnectionError:
            writer.close()
            return
        for source, sink in ((reader, other_writer), (other_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while passing := await source.read(_READ_BYTES):
                await self._flowing.wait()
                await asyncio.sleep(self._delay_s)
                sink.write(passing)
                await sink.drain()
        except ConnectionError:
            pass
        except asyncio.CancelledError:
            sink.transport.abort()  # TLS would wait for the other end's farewell.
            raise
        finally:
            sink.close()
            with suppress(ConnectionError):
                await sink.wait_closed()
