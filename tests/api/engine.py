"""Engines for the API's tests: one that answers by a script, one that is rude on the wire."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from workers.engine import Endpoint

KEY = "engine-key"


@dataclass
class Seen:
    """One request as the engine got it."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


Turn = Callable[["ScriptedEngine", Seen, Any], Awaitable[None]]


@dataclass
class ScriptedEngine:
    """Takes one turn of the script for each request; ``echo`` when it is used up."""

    script: list[Turn] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    busy: asyncio.Event = field(default_factory=asyncio.Event)
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    endpoint: Endpoint = field(default=Endpoint("127.0.0.1", 0, KEY))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        seen = Seen(scope["path"], headers, body)
        self.seen.append(seen)
        turn = self.script.pop(0) if self.script else echo
        work = asyncio.ensure_future(turn(self, seen, send))
        leaving = asyncio.ensure_future(receive())
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            self.aborted.set()
        work.cancel()
        leaving.cancel()
        await asyncio.wait({work, leaving})


async def answer(
    send: Any, status: int, body: bytes, kind: str = "application/json", **more: str
) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(name.replace("_", "-").encode(), text.encode()) for name, text in more.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(engine: ScriptedEngine, seen: Seen, send: Any) -> None:
    body = json.dumps({"path": seen.path, "bytes": len(seen.body)}).encode()
    await answer(send, 200, body, x_engine="yes")


def says(status: int, body: bytes, kind: str = "application/json") -> Turn:
    async def turn(engine: ScriptedEngine, seen: Seen, send: Any) -> None:
        await answer(send, status, body, kind)

    return turn


def streams(*chunks: bytes, then: str = "end") -> Turn:
    """``then``: ``end``, ``cut`` (the connection), ``hang`` or ``go_on`` (when told, then end)."""

    async def turn(engine: ScriptedEngine, seen: Seen, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        engine.busy.set()
        if then == "hang":
            await asyncio.get_running_loop().create_future()
        if then == "go_on":
            await engine.go_on.wait()
        if then != "cut":
            await send({"type": "http.response.body", "body": b""})

    return turn


async def hangs(engine: ScriptedEngine, seen: Seen, send: Any) -> None:
    engine.busy.set()
    await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def running_engine(*script: Turn) -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine(list(script))
    async with running(engine, lifespan="off") as port:
        engine.endpoint = Endpoint("127.0.0.1", port, KEY)
        yield engine


@asynccontextmanager
async def rude_engine() -> AsyncIterator[Endpoint]:
    """Takes a request and hangs up."""

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    async with server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], KEY)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self.over = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def main_loop(self) -> None:
        await self.over.wait()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def running(app: Any, lifespan: Any = "on", http: Any = "auto") -> AsyncIterator[int]:
    """A real server on a free port, until the context is left; its port."""
    config = uvicorn.Config(
        app,
        http=http,
        lifespan=lifespan,
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    # With the protocol named asyncio sets TCP_NODELAY; else every answer takes 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await asyncio.wait_for(server.up.wait(), 20)
        yield listening.getsockname()[1]
    finally:
        server.over.set()
        server.force_exit = True
        await serving
        listening.close()
