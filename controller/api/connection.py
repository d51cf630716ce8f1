"""One connection to an engine: a request goes out, the answer comes in as bytes.

llhttp (through httptools) parses. What it leaves open is settled here: where an answer without a
length ends, how long an engine may say nothing, how much it may say without saying anything.

An engine may be frozen: it has requests that it does not work on for a while. Whoever owns the
connection says so by ``excuse``, every now and then: the clock of the silence stands still, and
who waits for the body is given none of it, so that the client can be told.

An answer makes progress with its head and with each piece of its body. The clock of its silence
runs from one progress to the next, so headers or chunk extensions that drip in are silence, and
it stands still while nobody takes what is here (reading is paused then). ``look`` is called by
whoever owns the connection, every now and then; there is no timer for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

_BUFFERED_BYTES = 256 << 10
"""So much of a body may wait to be taken before reading is paused."""
_BARREN_BYTES = 64 << 10
"""So much may come without progress: a head, chunk extensions, trailers (and one read more)."""
_PIECE_BYTES = 256 << 10
"""Of a large request; the next goes out when the one before has."""

Take = Callable[[bytes, bool], bool]
"""Is given bytes, and whether they are the last; says whether there is room for more."""


class EngineBroken(Exception):
    """The engine did not answer as an engine would; ``is_silent``: it said nothing for too long."""

    def __init__(self, reason: str, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_silent = is_silent


class EngineConnection(asyncio.Protocol):
    """For one exchange at a time; ``lost`` is called when it is closed, by whichever side."""

    def __init__(self, lost: Callable[[EngineConnection], None]) -> None:
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self.is_closed = False
        self._is_idle = True
        self._is_aborted = False
        self.since = self._loop.time()
        """The time of the last progress; of an idle connection, since when it is."""
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        """0 until the head is here."""
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case."""
        self.is_whole = False
        self.has_begun = False
        """A byte of the answer has come."""
        self._body: list[bytes] = []
        self._buffered_bytes = 0
        self._barren_bytes = 0
        self._is_paused = False
        self._is_kept = False
        self._is_excused = False
        self._broken: EngineBroken | None = None
        self._take: Take | None = None

    # the exchange

    async def send(self, head: bytes, body: bytes) -> None:
        """Returns when all of it is on its way, or an answer or the end came before that."""
        self._is_idle = False
        self.since = self._loop.time()
        if len(body) <= _PIECE_BYTES:
            self._transport.write(head + body)
            return
        self._transport.write(head)
        view = memoryview(body)
        for begins in range(0, len(body), _PIECE_BYTES):
            if self.status or self.is_closed:
                self._is_kept = False
                return
            self._transport.write(view[begins : begins + _PIECE_BYTES])
            if self._writable is not None:
                await self._writable

    async def head(self) -> None:
        """Returns when status and headers are here. Raises EngineBroken."""
        while not self.status:
            if self._broken is not None:
                raise self._broken
            await self._news()

    async def chunk(self) -> bytes:
        """The next bytes of the body, as many as are here; none at the end, or where the engine
        is frozen. Raises EngineBroken."""
        while not self._body:
            if self.is_whole or self._is_excused:
                self._is_excused = False
                return b""
            if self._broken is not None:
                raise self._broken
            await self._news()
        return self._taken()

    async def pour(self, take: Take) -> bool:
        """What is here of the body, and what comes, is given to ``take`` as it comes, without a
        turn of the loop. Returns at the end, where there is no room, and where the engine is
        frozen: whether that is why. Raises EngineBroken."""
        self._take = take
        try:
            self._hand_over()
            while self._take is not None and not (self.is_whole or self._is_excused):
                if self._broken is not None:
                    raise self._broken
                await self._news()
            return self._is_excused and not self.is_whole
        finally:
            self._take = None
            self._is_excused = False

    def _hand_over(self) -> None:
        if self._take is not None and self._body and not self._take(self._taken(), self.is_whole):
            self._take = None
            self._wake()

    def _taken(self) -> bytes:
        body = self._body
        chunk = body[0] if len(body) == 1 else b"".join(body)
        self._body, self._buffered_bytes = [], 0
        if self._is_paused:
            self._is_paused = False
            self.since = self._loop.time()
            self._transport.resume_reading()
        return chunk

    @property
    def has_body(self) -> bool:
        """Some of it waits to be taken."""
        return bool(self._body)

    def release(self) -> bool:
        """The exchange is over. Whether there may be another one on this connection."""
        if not (self.is_whole and self._is_kept) or self.is_closed:
            self.abort()
            return False
        if self._is_paused:
            self._transport.resume_reading()
        self._begin()
        self._is_idle = True
        self.since = self._loop.time()
        return True

    def abort(self) -> None:
        if not self.is_closed:
            self._is_aborted = True
            self._transport.abort()

    def look(self, silence_s: float) -> None:
        """Gives up on an engine that made no progress for so long."""
        if self._is_paused or self.is_whole:
            return
        if self._loop.time() - self.since >= silence_s:
            self._break(f"nothing came for {silence_s:g} s", is_silent=True)

    def excuse(self) -> None:
        """Its silence is not the engine's fault."""
        self.since = self._loop.time()
        self._is_excused = bool(self.status) and not (self.is_whole or self._body)
        self._wake()

    async def _news(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ends_with_close(self) -> bool:
        """Nothing else tells where the answer ends."""
        return bool(self.status) and not any(
            name == b"content-length" or (name == b"transfer-encoding" and _is_chunked(value))
            for name, value in self.headers
        )

    def _break(self, reason: str, is_silent: bool = False) -> None:
        if self._broken is None and not self.is_whole:
            self._broken = EngineBroken(reason, is_silent)
        self.abort()
        self._wake()

    # what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if exc is None and not self._is_aborted and self._ends_with_close():
            self.is_whole = True
        self._break(
            f"the connection closed: {exc!r}" if exc else "the engine closed the connection"
        )
        self.resume_writing()
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        if self._is_idle:
            return self._transport.abort()
        self.has_begun = True
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._is_kept = False
            self._break(f"{type(error).__name__}: {error}")
        if self._barren_bytes > _BARREN_BYTES:
            self._break("a head or chunk header without an end")
        return self._hand_over()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # what llhttp tells

    def on_message_begin(self) -> None:
        if self.is_whole:
            self._is_kept = False
        else:
            self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self.is_whole:
            return
        self.status = status
        self._is_kept = self._parser.should_keep_alive()
        self._progressed()
        self.resume_writing()

    def on_body(self, body: bytes) -> None:
        if self.is_whole:
            return
        self._body.append(body)
        self._buffered_bytes += len(body)
        self._progressed()
        if self._buffered_bytes > _BUFFERED_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status:
            self.is_whole = True
            self._wake()

    def _progressed(self) -> None:
        self._barren_bytes = 0
        self._is_excused = False
        self.since = self._loop.time()
        if self._take is None:
            self._wake()


def _is_chunked(coding: bytes) -> bool:
    return coding.lower().rpartition(b",")[2].strip() == b"chunked"
