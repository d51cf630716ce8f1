"""The HTTP client to engines: one connection pool, bodies as bytes, streamed.

Everything that can go wrong with an engine becomes EngineBroken here and nowhere else.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

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
"""Below the 5 s after which vLLM's uvicorn closes: the race is lost by neither."""
_LARGE_BODY_BYTES = 1 << 20
"""From here on aiohttp wants a file instead of bytes."""


class EngineBroken(Exception):
    """The engine did not answer as an engine would; ``is_silent``: it said nothing for too long."""

    def __init__(self, reason: str, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_silent = is_silent


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    connect_s: float = 5.0
    silence_s: float = 600.0
    """Longest time without a byte; a long answer that is not streamed is silent until its end."""


class Answer:
    """An engine's answer, its head already here."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.is_sse = response.content_type == "text/event-stream"
        self.headers = [
            (name.lower(), text)
            for name, text in response.raw_headers
            if name.lower() not in _HOP_BY_HOP
        ]

    async def chunk(self) -> bytes:
        """The next bytes, as many as are here; none at the end."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _broken(error) from error

    async def rest(self) -> bytes:
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return b"".join(chunks)


class Upstream:
    """Connections to every engine; open while its context is."""

    def __init__(self, limits: UpstreamLimits) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_s, sock_read=limits.silence_s
        )
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[tuple[str, int, str], URL] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=self._timeout,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    @asynccontextmanager
    async def post(
        self, endpoint: Endpoint, path: str, body: bytes, headers: dict[str, str]
    ) -> AsyncIterator[Answer]:
        """Leaving the context before the end of the body aborts the engine's work."""
        assert self._session is not None, "the API's lifespan has not begun"
        sent = {**headers, "Authorization": f"Bearer {endpoint.key}"}
        large = len(body) >= _LARGE_BODY_BYTES
        if large:
            sent["Content-Length"] = str(len(body))
        try:
            response = await self._session.post(
                self._url(endpoint, path),
                data=io.BytesIO(body) if large else body,
                headers=sent,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _broken(error) from error
        try:
            yield Answer(response)
        finally:
            response.close()

    def _url(self, endpoint: Endpoint, path: str) -> URL:
        place = (endpoint.host, endpoint.port, path)
        url = self._urls.get(place)
        if url is None:
            if len(self._urls) > 10_000:
                self._urls.clear()
            url = URL.build(scheme="http", host=endpoint.host, port=endpoint.port, path=path)
            self._urls[place] = url
        return url


def _broken(error: Exception) -> EngineBroken:
    is_silent = isinstance(error, aiohttp.SocketTimeoutError)
    return EngineBroken(f"{type(error).__name__}: {error}", is_silent)
