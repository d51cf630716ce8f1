"""The HTTP client to engines: a pool of connections for each, bodies as bytes, streamed.

Everything that can go wrong with an engine becomes EngineBroken here and nowhere else.

Engines close connections that nothing was asked on for 5 s (vLLM's uvicorn). They are kept for
less, but that race can still be lost: a reused connection that closes at once and without a byte
was closing before it was asked. The request is asked again, once, on a fresh one. A connection
that closes later has been worked on: that is a broken engine.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self

from controller.api.connection import EngineBroken, EngineConnection, Take
from controller.api.errors import ApiError
from workers.engine import Endpoint

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"proxy-authenticate",
        b"date",
        b"server",
        b"x-request-id",
        b"set-cookie",
    }
)
"""Not the engine's to say; the last two are ours."""
_KEPT_ALIVE_S = 3.0
_LOST_RACE_S = 1.0
"""A connection that closes within so long of being asked lost the race; one that took longer
was worked on."""
_LOOK_S = 0.9
"""Silent, frozen and idle connections are looked for at this interval, or oftener. A frozen stream
is told so at each look: every second at least."""

_OUR_OWN_LACK = (
    errno.EMFILE,
    errno.ENFILE,
    errno.EADDRNOTAVAIL,
    errno.ENOMEM,
    errno.ENOBUFS,
)
"""Says nothing of the engine."""

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    connect_s: float = 5.0
    silence_s: float = 600.0
    """Longest time without a byte; a long answer that is not streamed is silent until its end."""


class Answer:
    """An engine's answer, its head already here."""

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_sse = False
        self.kv = b""
        """What the engine tells of the prompt's KV (``x-torpor-kv``), or nothing."""
        for name, value in connection.headers:
            if name in _HOP_BY_HOP:
                continue
            self.headers.append((name, value))
            if name == b"content-type":
                self.is_sse |= value.startswith(b"text/event-stream")
            elif name == b"x-torpor-kv":
                self.kv = value

    @property
    def is_over(self) -> bool:
        """Known to be at its end; where this is False the next chunk may still be none."""
        return self._connection.is_whole and not self._connection.has_body

    async def chunk(self) -> bytes:
        """The next bytes, as many as are here; none at the end, or where the engine is frozen."""
        return await self._connection.chunk()

    async def pour(self, take: Take) -> bool:
        """To its end, until there is no room, or the engine is frozen: whether that is why."""
        return await self._connection.pour(take)

    def replaced(self, whole: bytes) -> None:
        """What the client is told instead of a body that was read to its end."""
        headers = [pair for pair in self.headers if pair[0] != b"content-length"]
        self.headers = [*headers, (b"content-length", b"%d" % len(whole))]

    async def rest(self) -> bytes:
        chunks = [await self.chunk()]
        while not self.is_over:
            chunks.append(await self.chunk())
        return b"".join(chunks)


class Upstream:
    """Connections to every engine; open while its context is."""

    def __init__(
        self, limits: UpstreamLimits, frozen: Callable[[], Collection[Endpoint]] = tuple
    ) -> None:
        """``frozen``: engines that may be silent for as long as they are."""
        self._limits = limits
        self._frozen = frozen
        self._look_s = min(_LOOK_S, limits.silence_s / 2)
        self._idle: dict[Place, list[EngineConnection]] = {}
        """Those that were used last stand last."""
        self._busy: dict[EngineConnection, Place] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._look()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self._timer = None
        for connection in [*self._busy, *(one for kept in self._idle.values() for one in kept)]:
            connection.abort()

    def post(self, endpoint: Endpoint, path: str, body: bytes, headers: bytes) -> Posted:
        """A context, of the Answer. ``headers``: as they go over the wire. Leaving it before
        the end of the body aborts the engine's work."""
        assert self._timer is not None, "the API's lifespan has not begun"
        return Posted(self, endpoint, path, body, headers)

    async def answering(self, place: Place, head: bytes, body: bytes) -> EngineConnection:
        """A connection on which the head of the answer has come."""
        connection = self._kept(place)
        if connection is not None:
            try:
                return await self._asked(place, connection, head, body)
            except EngineBroken:
                lasted_s = asyncio.get_running_loop().time() - connection.since
                if connection.has_begun or lasted_s > _LOST_RACE_S:
                    raise
        return await self._asked(place, await self._fresh(place), head, body)

    async def _asked(
        self, place: Place, connection: EngineConnection, head: bytes, body: bytes
    ) -> EngineConnection:
        self._busy[connection] = place
        try:
            await connection.send(head, body)
            await connection.head()
        except BaseException:
            self.let_go(place, connection)
            raise
        return connection

    def _kept(self, place: Place) -> EngineConnection | None:
        kept = self._idle.get(place)
        while kept:
            connection = kept.pop()
            if not connection.is_closed:
                return connection
        return None

    async def _fresh(self, place: Place) -> EngineConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.connect_s):
                _, connection = await loop.create_connection(
                    lambda: EngineConnection(self._closed), *place
                )
        except (OSError, TimeoutError) as error:
            if isinstance(error, OSError) and error.errno in _OUR_OWN_LACK:
                raise ApiError("no_sockets", f"No connection to spare: {error.strerror}.") from None
            raise EngineBroken(f"{type(error).__name__}: {error}") from error
        return connection

    def let_go(self, place: Place, connection: EngineConnection) -> None:
        self._closed(connection)
        if connection.release() and self._timer is not None:
            self._idle.setdefault(place, []).append(connection)

    def _closed(self, connection: EngineConnection) -> None:
        self._busy.pop(connection, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        frozen = {(engine.host, engine.port) for engine in self._frozen()}
        for connection, place in list(self._busy.items()):
            if place in frozen:
                connection.excuse()
            else:
                connection.look(self._limits.silence_s)
        stale = loop.time() - _KEPT_ALIVE_S
        for place, kept in list(self._idle.items()):
            for connection in kept:
                if connection.since <= stale:
                    connection.abort()
            kept[:] = [one for one in kept if one.since > stale and not one.is_closed]
            if not kept:
                del self._idle[place]
        self._timer = loop.call_later(self._look_s, self._look)


class Posted:
    """A request to an engine, while its context lasts."""

    def __init__(
        self, upstream: Upstream, endpoint: Endpoint, path: str, body: bytes, headers: bytes
    ) -> None:
        self._upstream = upstream
        self._place = (endpoint.host, endpoint.port)
        first_lines = _first_lines(endpoint, path)
        self._head = b"%b%bContent-Length: %d\r\n\r\n" % (first_lines, headers, len(body))
        self._body = body

    async def __aenter__(self) -> Answer:
        self._connection = await self._upstream.answering(self._place, self._head, self._body)
        return Answer(self._connection)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._upstream.let_go(self._place, self._connection)


@lru_cache(maxsize=4096)
def _first_lines(endpoint: Endpoint, path: str) -> bytes:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{endpoint.port}\r\n"
        f"Authorization: Bearer {endpoint.key}\r\n"
    ).encode("latin-1")
