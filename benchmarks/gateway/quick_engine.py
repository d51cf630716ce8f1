"""An engine's port that costs next to nothing: fixed answers on a raw protocol.

It demands the engine's key, as vLLM does, and answers a chat completion: whole, or as a stream
of events at an interval. It takes only requests that arrive whole with a content length, and JSON
without spaces, as the gateway and official clients write it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

from workers import fake_answers

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Script:
    """What the engine says."""

    key: str
    model: str
    events: int
    event_interval_s: float

    def whole(self) -> bytes:
        said = fake_answers.answer(self.model, {"messages": []})
        body = fake_answers.sse(fake_answers.chat(said)).removeprefix(b"data: ").strip()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%b%d\r\n\r\n"
        return head % (_LENGTH, len(body)) + body

    def chunks(self) -> list[bytes]:
        said = fake_answers.answer(self.model, {"messages": [], "max_tokens": self.events - 1})
        events = fake_answers.chat_chunks(said, with_usage=False)
        return [b"%x\r\n%b\r\n" % (len(event), event) for event in events]


class QuickEngine(asyncio.Protocol):
    """One connection."""

    def __init__(self, script: Script, whole: bytes, chunks: list[bytes]) -> None:
        self._bearer = f"bearer {script.key}".lower().encode()
        self._interval_s = script.event_interval_s
        self._whole = whole
        self._chunks = chunks
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        head_end = data.find(_HEAD_END)
        if head_end >= 0:
            head = data[:head_end].lower()
            length = int(head.partition(_LENGTH)[2].partition(b"\r\n")[0])
            if len(data) >= head_end + len(_HEAD_END) + length:
                self._buffer = b""
                return self._answer(head, data[head_end:])
        self._buffer = data
        return None

    def _answer(self, head: bytes, body: bytes) -> None:
        if self._bearer not in head:
            self._transport.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
        elif b'"stream":true' in body:
            self._transport.write(_STREAM_HEAD)
            tokens = int(body.partition(b'"max_tokens":')[2].partition(b",")[0])
            self._say(len(self._chunks) - 1 - tokens)
        else:
            self._transport.write(self._whole)

    def _say(self, index: int) -> None:
        if index == len(self._chunks):
            self._transport.write(b"0\r\n\r\n")
            return
        self._transport.write(self._chunks[index])
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval_s, self._say, index + 1)
