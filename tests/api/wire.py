"""Engines and clients on the wire: what they send is written by hand, to the byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from controller.api.upstream import Upstream, UpstreamLimits
from workers.engine import Endpoint

KEY = "engine-key"


class Pipe(asyncio.Transport):
    """A transport without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_aborted = False
        self.is_closed = False
        self.is_paused = False
        self.untaken = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.untaken

    def abort(self) -> None:
        self.is_aborted = self.is_closed = True

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[a:b] for a, b in pairwise(bounds) if a < b]


@dataclass
class Wire:
    """Each request is answered by the next list of pieces; one without pieces by hanging up."""

    answers: list[Sequence[bytes]]
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """A connection was closed."""
    endpoint: Endpoint = field(default=Endpoint("127.0.0.1", 0, KEY))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                pieces = self.answers.pop(0)
                if not pieces:
                    return
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.ended.set()


@asynccontextmanager
async def a_wire(*answers: Sequence[bytes]) -> AsyncIterator[Wire]:
    """Whoever asks it closes the connections first."""
    wire = Wire(list(answers))
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    try:
        wire.endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], KEY)
        yield wire
        await asyncio.wait_for(wire.ended.wait(), 10)
    finally:
        server.close()


async def asked(
    upstream: Upstream, wire: Wire, body: bytes = b"{}"
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and the whole body."""
    async with upstream.post(wire.endpoint, "/v1/x", body, b"accept: */*\r\n") as answer:
        return answer.status, answer.headers, await answer.rest()


def limits(silence_s: float = 20.0) -> UpstreamLimits:
    return UpstreamLimits(connect_s=5.0, silence_s=silence_s)
