"""One request of a client and its answer, on one connection.

ASGI applications have ``receive`` and ``send``; the inference path, where a little costs every
request and every event of a stream, has ``whole_body``, ``begin``, ``say`` and ``when_gone``.
What goes out is checked where it could do harm: a header cannot end its line, an answer is no
longer and no shorter than its content length says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from starlette.types import Message

Headers = list[tuple[bytes, bytes]]

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_WITHOUT_BODY = (204, 304)


class Wire(Protocol):
    """What an exchange needs of its connection."""

    is_full: bool
    """What was written is not on its way yet, and is enough."""

    async def drained(self) -> None:
        """Returns when it is not full, or gone."""

    def write(self, data: bytes) -> None: ...

    def write_soon(self, data: bytes) -> None:
        """With what is written next, or at the end of this turn of the loop."""

    def untaken(self, size: int) -> None:
        """So many bytes of the request's body wait to be received."""

    def answered(self) -> None:
        """The answer is written to its end."""


class ClientExchange:
    """``more`` and ``end`` come from the connection, in the order of the request's bytes."""

    def __init__(
        self, wire: Wire, method: str, version: str, asked: Headers, always: Headers
    ) -> None:
        """``asked``: the request's headers; ``always``: what every answer has."""
        self.is_whole = False
        """The request is here to its last byte."""
        self.is_gone = False
        """The client left, or broke off."""
        self.is_kept = True
        """There may be another exchange on this connection."""
        self.has_begun = False
        self.is_answered = False
        self.when_gone: Callable[[], None] | None = None
        """Called when the client leaves."""
        self._wire = wire
        self._asked = asked
        self._always = always
        self._is_head = method == "HEAD"
        self._is_http_1_1 = version == "1.1"
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._was_all_received = False
        self._was_asked_for_body = False
        self._changed: asyncio.Event | None = None
        self._left: int | None = None
        """Bytes of the answer's body by its content length; None: it does not say."""
        self._is_chunked = False
        self._is_bodiless = False

    @property
    def ends_with_close(self) -> bool:
        """Nothing else tells the client where the answer ends."""
        is_told = self._is_chunked or self._is_bodiless or self._left is not None
        return self.has_begun and not is_told

    # from the connection

    def more(self, body: bytes) -> None:
        if self.is_answered:
            return
        self._parts.append(body)
        self._parts_bytes += len(body)
        self._wire.untaken(self._parts_bytes)
        self._wake()

    def end(self) -> None:
        self.is_whole = True
        self._wake()

    def leave(self) -> None:
        self.is_gone = True
        self._wake()
        if self.when_gone is not None:
            self.when_gone()

    # the inference path

    @property
    def is_full(self) -> bool:
        """The client does not take what was written as fast as it comes."""
        return self._wire.is_full

    async def drained(self) -> None:
        """Returns when it has taken some of it, or is gone."""
        await self._wire.drained()

    def whole_body(self) -> bytes | None:
        """Where all of it is here; it can still be received."""
        if not self.is_whole:
            return None
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """``headers``: their names in lower case. Raises RuntimeError and ValueError."""
        if self.is_gone:
            return
        if self.has_begun:
            raise RuntimeError("an answer has one head")
        lines = [b"%b: %b\r\n" % pair for pair in (*self._always, *headers)]
        for name, value in headers:
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection":
                self.is_kept &= value.lower() != b"close"
        lines += self._framing(status)
        head = _status_line(status) + b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) + 1 or b"\0" in head:
            raise ValueError("a header has the end of a line in it")
        self.has_begun = True
        self._wire.write_soon(head + b"\r\n")

    def say(self, body: bytes, is_last: bool) -> None:
        """Nothing happens once the client is gone. Raises RuntimeError."""
        if self.is_gone:
            return
        if not self.has_begun or self.is_answered:
            raise RuntimeError("a body comes after its head, and ends once")
        if self._is_bodiless:
            body = b""
        elif self._is_chunked:
            body = _chunk(body, is_last)
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (is_last and self._left):
                raise RuntimeError("the body is not as long as its content length says")
        self._wire.write(body)
        if is_last:
            self.is_answered = True
            self._wake()
            self._wire.answered()

    # ASGI

    async def receive(self) -> Message:
        while not (self.is_gone or self.is_answered):
            if self._parts or (self.is_whole and not self._was_all_received):
                return self._taken()
            self._ask_for_body()
            self._changed = self._changed or asyncio.Event()
            self._changed.clear()
            await self._changed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """As ``begin`` and ``say``."""
        if self._wire.is_full:
            await self._wire.drained()
        if message["type"] == "http.response.start":
            self.begin(message["status"], message.get("headers", ()))
        else:
            self.say(message.get("body", b""), not message.get("more_body", False))

    # inside

    def _framing(self, status: int) -> list[bytes]:
        """What tells the client where the answer ends, and whether it may ask again."""
        lines = []
        self._is_bodiless = self._is_head or status in _WITHOUT_BODY
        if self._left is None and not self._is_bodiless:
            self._is_chunked = self._is_http_1_1
            self.is_kept &= self._is_chunked
            if self._is_chunked:
                lines.append(b"transfer-encoding: chunked\r\n")
        if not (self.is_whole or self._was_asked_for_body) and self._waits_to_be_asked():
            self.is_kept = False
        if not self.is_kept:
            lines.append(b"connection: close\r\n")
        return lines

    def _taken(self) -> Message:
        body, self._parts, self._parts_bytes = b"".join(self._parts), [], 0
        self._was_all_received = self.is_whole
        self._wire.untaken(0)
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

    def _ask_for_body(self) -> None:
        if not (self._was_asked_for_body or self.is_whole or self.has_begun):
            self._was_asked_for_body = True
            if self._waits_to_be_asked():
                self._wire.write(_CONTINUE)

    def _waits_to_be_asked(self) -> bool:
        """What HTTP/1.0 expects is nothing."""
        return self._is_http_1_1 and any(
            n == b"expect" and v.lower() == b"100-continue" for n, v in self._asked
        )

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()


@lru_cache(maxsize=1024)
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()


def _chunk(body: bytes, is_last: bool) -> bytes:
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return chunk + b"0\r\n\r\n" if is_last else chunk
