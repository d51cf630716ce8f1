"""A light HTTP client: one request after the other on one connection, times by callback.

It reads of an answer no more than where it ends. An answer that is no 200 ends the measurement.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import cast

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    port: int
    key: str
    model: str
    host: str = "127.0.0.1"

    def request(self, is_stream: bool, max_tokens: int) -> bytes:
        """A chat completion, as official clients send it."""
        asked = {
            "model": self.model,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": max_tokens,
            "stream": is_stream,
        }
        body = json.dumps(asked, separators=(",", ":")).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Accept: application/json\r\nContent-Type: application/json\r\n"
            f"User-Agent: bench\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Connection(asyncio.Protocol):
    """``answered`` is called at the end of each answer, and may ask again."""

    def __init__(self, request: bytes, answered: Callable[[Connection], None]) -> None:
        self._request = request
        self._answered = answered
        self._reset()
        self.asked_at = 0.0
        self.is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_closed:
            raise ConnectionError("the server closed a connection")

    def close(self) -> None:
        self.is_closed = True
        self.transport.close()

    def ask(self) -> None:
        self._reset()
        self.asked_at = perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._has_head:
            self._seen += data
            head, found, data = self._seen.partition(_HEAD_END)
            if not found:
                return
            self._read_head(head)
        if data:
            self._read_body(data)

    def _reset(self) -> None:
        self._has_head = False
        self._seen = b""
        """The head so far; in a chunked body its last bytes."""
        self._left: int | None = None
        self.first_at = 0.0
        """When the body's first bytes came."""
        self.events = 0
        self.reads = 0

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"the answer was {head[:200]!r}")
        self._has_head = True
        self._seen = b""
        _, is_bounded, rest = head.lower().partition(_LENGTH)
        self._left = int(rest.partition(b"\r\n")[0]) if is_bounded else None

    def _read_body(self, data: bytes) -> None:
        if not self.reads:
            self.first_at = perf_counter()
        self.reads += 1
        if self._left is not None:
            self._left -= len(data)
            is_whole = self._left == 0
        else:
            self.events += data.count(b"data: ")
            self._seen = (self._seen + data)[-len(_LAST_CHUNK) :]
            is_whole = self._seen == _LAST_CHUNK
        if is_whole:
            self._answered(self)
