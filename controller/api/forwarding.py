"""What a carrier does not answer itself: the deciding process does, over a Unix socket.

Bodies and answers pass as they are, streams as they arrive. Who left is not asked for any longer.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from controller.api.errors import ApiError

_CONNECT_S = 5.0
_NOT_ASKED = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-request-id",
    }
)
_NOT_ANSWERED = frozenset({b"connection", b"date", b"keep-alive", b"server", b"transfer-encoding"})
_AWAY = "The process that decides does not answer; it is being started."

Headers = list[tuple[bytes, bytes]]


class Forwarding:
    """An ASGI application; open while its context is."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def __aenter__(self) -> Self:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._transport = httpx.AsyncHTTPTransport(uds=str(self._socket), limits=limits)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whoever stands before it gives the answer its request's id."""
        target = scope["raw_path"]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        headers = [pair for pair in scope["headers"] if pair[0] not in _NOT_ASKED]
        headers.append((b"x-request-id", scope["torpor.request_id"].encode()))
        headers.append((b"x-forwarded-proto", scope["scheme"].encode()))
        if scope.get("client"):
            headers.append((b"x-forwarded-for", scope["client"][0].encode()))
        body = await Request(scope, receive).body()
        await self._while_there(
            _request(scope["method"], target, headers, body), {b"x-request-id"}, receive, send
        )

    async def hand_over(
        self, path: str, headers: Headers, body: bytes, receive: Receive, send: Send
    ) -> None:
        """An inference request that only the deciding process can answer."""
        kept = [pair for pair in headers if pair[0] not in _NOT_ASKED - {b"x-request-id"}]
        await self._while_there(_request("POST", path.encode(), kept, body), set(), receive, send)

    async def _while_there(
        self, request: httpx.Request, without: set[bytes], receive: Receive, send: Send
    ) -> None:
        asking = asyncio.ensure_future(self._ask(request, without, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
            leaving.cancel()
            await asyncio.wait({asking, leaving})
        if not asking.cancelled():
            asking.result()

    async def _ask(self, request: httpx.Request, without: set[bytes], send: Send) -> None:
        try:
            answer = await self._transport.handle_async_request(request)
        except httpx.TransportError as error:
            raise ApiError("not_ready", _AWAY) from error
        try:
            dropped = _NOT_ANSWERED | without
            headers = [(name.lower(), value) for name, value in answer.headers.raw]
            headers = [pair for pair in headers if pair[0] not in dropped]
            start = {"type": "http.response.start", "status": answer.status_code}
            await send({**start, "headers": headers})
            async for chunk in answer.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _request(method: str, target: bytes, headers: Headers, body: bytes) -> httpx.Request:
    """``target`` is asked for as it is: no URL is made of it, which would resolve its dots."""
    timeout = httpx.Timeout(None, connect=_CONNECT_S).as_dict()
    extensions = {"timeout": timeout, "target": target}
    url = "http://controller/"
    return httpx.Request(method, url, headers=headers, content=body, extensions=extensions)
