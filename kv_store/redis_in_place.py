"""Chunks between LMCache's memory and a Redis without a copy on the way.

Stock, redis-py copies a chunk twice to send it and three times to read it, under Python's lock,
so that no other hand works meanwhile. Here, by what redis-py lets its users replace: commands go
out piece by piece from where the pieces lie, and a parser of its protocol's second version reads
strings straight into the buffers that wait for them. Connecting, TLS, passwords, time-outs and
what an error means stay redis-py's.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis._parsers import BaseParser, Encoder
from redis.connection import PythonRespSerializer
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import InvalidResponse

_AHEAD_BYTES = 16 << 10
"""Are read at once where nobody knows yet where they go."""
_SENT_ALONE_BYTES = 4 << 10
_END = b"\r\n"
_CLOSED = "the server has closed the connection"

Place = memoryview | None
"""Where a string goes; None: it is handed out."""


class InPlaceParser(BaseParser):
    def __init__(self, socket_read_size: int = _AHEAD_BYTES) -> None:
        self.places: deque[Place] = deque()
        """Of the strings of the next answer, in their order."""
        self._socket: Any = None
        self._ahead = bytearray(_AHEAD_BYTES)
        self._begin = self._end = 0

    def on_connect(self, connection: Any) -> None:
        self._socket = connection._sock
        self._begin = self._end = 0

    def on_disconnect(self) -> None:
        self._socket = None

    def can_read(self, timeout: float = 0) -> bool:
        """That somebody has hung up can be read, too."""
        if self._begin < self._end:
            return True
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return bool(poller.poll(timeout * 1000))

    def read_response(self, **_: object) -> Any:
        """A string that has a place is told by its length, and is there if that is not longer
        than the place. Raises redis-py's errors, and socket errors."""
        raw = self._line()
        kind, told = raw[:1], raw[1:]
        if kind == b"$":
            return self._string(int(told))
        if kind == b"*":
            return [self.read_response() for _ in range(int(told))]
        if kind == b":":
            return int(told)
        if kind == b"+":
            return told
        if kind == b"-":
            return self._error(told.decode(errors="replace"))
        raise InvalidResponse(f"{raw!r} is no answer")

    def _error(self, told: str) -> Exception:
        meant: Callable[[str], Exception] = self.parse_error
        error = meant(told)
        if isinstance(error, Unreachable):
            raise error
        return error

    def _string(self, size: int) -> bytes | int | None:
        place = self.places.popleft() if self.places else None
        if size < 0:
            return None
        own = bytearray(0 if place is not None and size <= len(place) else size)
        self._fill(memoryview(own) if own or place is None else place[:size])
        self._line()
        return size if place is not None else bytes(own)

    def _line(self) -> bytes:
        while (at := self._ahead.find(_END, self._begin, self._end)) < 0:
            self._read_ahead()
        line = bytes(self._ahead[self._begin : at])
        self._begin = at + len(_END)
        return line

    def _read_ahead(self) -> None:
        left = self._end - self._begin
        self._ahead[:left] = self._ahead[self._begin : self._end]
        self._begin, self._end = 0, left
        if left == len(self._ahead):
            raise InvalidResponse("a line without an end")
        with memoryview(self._ahead) as ahead:
            self._end += self._received(ahead[left:])

    def _fill(self, place: memoryview) -> None:
        filled = min(len(place), self._end - self._begin)
        place[:filled] = self._ahead[self._begin : self._begin + filled]
        self._begin += filled
        while filled < len(place):
            filled += self._received(place[filled:])

    def _received(self, place: memoryview) -> int:
        size = int(self._socket.recv_into(place))
        if not size:
            raise Unreachable(_CLOSED)
        return size


def options() -> dict[str, Any]:
    """Of a pool whose connections do so."""
    encoder: Any = Encoder
    packer = PythonRespSerializer(_SENT_ALONE_BYTES, encoder("utf-8", "strict", False).encode)
    return {"protocol": 2, "parser_class": InPlaceParser, "command_packer": packer}


def read_into(connection: Any, places: Sequence[Place]) -> list[Any]:
    """The answer to the command that was sent last, a string for each place."""
    waiting: deque[Place] = connection._parser.places
    waiting.extend(places)
    try:
        return list(connection.read_response())
    finally:
        waiting.clear()
