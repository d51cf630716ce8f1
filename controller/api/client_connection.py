"""One connection of a client: HTTP/1.1 in, ASGI to the application, HTTP/1.1 out.

uvicorn listens, drains and leaves; this stands in the place of its own protocol
(``uvicorn.Config(http=ClientConnection)``), which takes several times as long over a request.
llhttp (through httptools) parses. What it leaves open is settled here: how large a head may be and
how long it may take; requests that come before the one before them was answered wait, and nothing
more is read meanwhile; what is no HTTP gets a 400, or, where an answer is on its way, the end of
the connection after it. An upgrade is declined as HTTP allows it: by answering the request.
Who ends its own half of the connection has left, as with uvicorn: an end that is half looks like
one that is whole, and requests hold engines.

The application finds its exchange in the scope (``torpor.exchange``), for what costs less without
ASGI. How long a body may take, and a client that takes nothing of its answer, is its to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import Scope
from uvicorn.server import ServerState

from controller.api.client_exchange import ClientExchange, Headers

log = logging.getLogger("torpor.api")

_UNTAKEN_BYTES = 64 << 10
"""So much of a body may wait to be received before reading is paused."""
_BARREN_BYTES = 64 << 10
"""So much may come without progress: a head, chunk extensions, trailers (and one read more)."""
_SLOW_S = 30.0
"""A head that takes longer ends the connection, or a body that nobody wants any more."""
_TAKEN_S = 300.0
"""A connection that is to close ends where so long nothing of the last answer is taken."""
_OF_UPGRADES = (b"connection", b"upgrade", b"http2-settings")
_REFUSALS = {
    code: f"HTTP/1.1 {code} {reason}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
    for code, reason in (
        (400, "Bad Request"),
        (431, "Request Header Fields Too Large"),
        (500, "Internal Server Error"),
    )
}


class ClientConnection(asyncio.Protocol):
    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.is_full = False
        self._app = config.loaded_app
        self._idle_s = float(config.timeout_keep_alive)
        self._state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        """Holds the connection, as the connection holds it: let go of at the end."""
        self._line: deque[tuple[ClientExchange, Scope]] = deque()
        """Requests that were not answered; the first one is with the application."""
        self._arriving: ClientExchange | None = None
        """Whose body comes; it may have been answered."""
        self._is_between = True
        """No request is arriving."""
        self._since = self._loop.time()
        """Since when that is so."""
        self._barren_bytes = 0
        self._is_deaf = False
        """What comes is not read as HTTP any more."""
        self._is_lost = False
        self._is_paused = False
        self._unsent = b""
        self._drained: asyncio.Event | None = None

    # what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client = _place(transport.get_extra_info("peername"))
        self._server = _place(transport.get_extra_info("sockname"))
        self._state.connections.add(cast(Any, self))
        self._timer = self._loop.call_later(self._idle_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(cast(Any, self))
        self._timer.cancel()
        self._is_deaf = self._is_lost = True
        self._unsent = b""
        self._parser = None
        for exchange, _ in self._line:
            exchange.leave()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrades(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(400)
        if self._barren_bytes > _BARREN_BYTES:
            self._refuse(431)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._drained is not None:
            self._drained.set()

    # what uvicorn tells

    def shutdown(self) -> None:
        """What was asked is answered, and nothing more."""
        if not self._line:
            return self._close()
        self._line[-1][0].is_kept = False
        return None

    # what llhttp tells

    def on_message_begin(self) -> None:
        self._is_between, self._since = False, self._loop.time()
        self._url = b""
        self._headers: Headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._arriving is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            return
        self._barren_bytes = 0
        method, version = parser.get_method().decode("ascii"), parser.get_http_version()
        headers, always = self._headers, self._state.default_headers
        exchange = ClientExchange(self, method, version, headers, always)
        exchange.is_kept = version == "1.1" and parser.should_keep_alive()
        self._arriving = exchange
        self._line.append((exchange, self._scope(method, version, exchange)))
        if len(self._line) == 1:
            self._start()
        else:
            self._pause()

    def on_body(self, body: bytes) -> None:
        self._barren_bytes = 0
        if self._arriving is not None:
            self._arriving.more(body)

    def on_message_complete(self) -> None:
        self._is_between, self._since = True, self._loop.time()
        self._barren_bytes = 0
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            arriving.end()

    # what exchanges ask

    async def drained(self) -> None:
        while self.is_full:
            self._drained = self._drained or asyncio.Event()
            self._drained.clear()
            await self._drained.wait()

    def write(self, data: bytes) -> None:
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        if data:
            self._transport.write(data)

    def write_soon(self, data: bytes) -> None:
        self._unsent += data
        self._loop.call_soon(self.write, b"")

    def untaken(self, size: int) -> None:
        if size > _UNTAKEN_BYTES:
            self._pause()
        elif not size and len(self._line) < 2:
            self._resume()

    def answered(self) -> None:
        exchange, _ = self._line.popleft()
        self._since = self._loop.time()
        self._state.total_requests += 1
        if not exchange.is_kept or (self._is_deaf and not self._line):
            return self._close()
        if self._line:
            self._start()
        if len(self._line) < 2:
            self._resume()
        return None

    # inside

    def _start(self) -> None:
        task = self._loop.create_task(self._carry_out(*self._line[0]))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _carry_out(self, exchange: ClientExchange, scope: Scope) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            log.exception("the application failed")
        finally:
            if not exchange.is_answered:
                self._break_off(exchange)

    def _break_off(self, exchange: ClientExchange) -> None:
        """So that no client takes what it has for a whole answer."""
        if not (exchange.has_begun or self._is_lost):
            self.write(_REFUSALS[400 if exchange.is_gone else 500])
        if exchange.ends_with_close or self.is_full:
            self._transport.abort()
        self._close()

    def _close(self) -> None:
        self._is_deaf = True
        if self._is_lost:
            return
        self.write(b"")
        self._transport.close()
        self._timer.cancel()
        self._timer = self._loop.call_later(_TAKEN_S, self._see_off, self._untaken_bytes())

    def _see_off(self, before_bytes: int) -> None:
        """Nobody is waited for who takes nothing of what was said last."""
        left_bytes = self._untaken_bytes()
        if left_bytes >= before_bytes:
            return self._transport.abort()
        self._timer = self._loop.call_later(_TAKEN_S, self._see_off, left_bytes)
        return None

    def _untaken_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def _refuse(self, code: int) -> None:
        """What comes is not for us to read; what was asked before it is answered."""
        if self._is_deaf:
            return
        self._is_deaf = True
        if not self._line:
            self.write(_REFUSALS[code])
            self._close()
        elif self._arriving is not None:
            self._arriving.leave()

    def _decline_upgrades(self, rest: memoryview) -> None:
        """The head is read again without its wish, and ``rest``, which came after it; as often as
        there is one more in it."""
        try:
            while not self._is_deaf:
                head = self._head_without_upgrade()
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(head)
                try:
                    self._parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    rest = rest[upgrade.args[0] :]
        except httptools.HttpParserError:
            self._refuse(400)

    def _head_without_upgrade(self) -> bytes:
        """Raises HttpParserError for what asks for a tunnel."""
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("no tunnels")
        kept = [pair for pair in self._headers if pair[0] not in _OF_UPGRADES]
        if not self._parser.should_keep_alive():
            kept.append((b"connection", b"close"))
        lines = [b"%b %b HTTP/%b" % (method, self._url, version), *(b"%b: %b" % p for p in kept)]
        return b"\r\n".join([*lines, b"", b""])

    def _scope(self, method: str, version: str, exchange: ClientExchange) -> Scope:
        path, _, query = self._url.partition(b"?")
        if path[:1] != b"/":
            parsed = httptools.parse_url(self._url)
            path, query = parsed.path or b"/", parsed.query or b""
        text = path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": method,
            "scheme": "http",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._client,
            "server": self._server,
            "state": self._app_state.copy(),
            "torpor.exchange": exchange,
        }

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _look(self) -> None:
        """One timer that is wound up again, so that a request touches none."""
        limit_s = self._idle_s if self._is_between else _SLOW_S
        left_s = self._idle_s if self._line else self._since + limit_s - self._loop.time()
        if left_s <= 0:
            return self._close()
        self._timer = self._loop.call_later(left_s, self._look)
        return None


def _place(address: Any) -> tuple[str, int] | None:
    """Of a TCP socket."""
    return (address[0], address[1]) if isinstance(address, tuple) else None
