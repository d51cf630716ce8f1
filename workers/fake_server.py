"""The fake engine's own OpenAI-like server: plain ASGI, bearer key demanded but for /health.

Asleep, it treats a generating request as vLLM's paused scheduler does: the request waits until
somebody wakes the engine, and is counted. A client that goes away aborts its generation.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from workers import fake_answers as answers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class Counts:
    """What befell the server; read at ``GET /fake/counts``."""

    requests: int = 0
    running: int = 0
    aborted: int = 0
    while_asleep: int = 0
    """Requests that a correct controller would not have sent."""


@dataclass(slots=True)
class Voice:
    """The state that engine and server share."""

    model: str
    key: str
    max_model_len: int
    token_delay_s: float
    hang_asleep: bool
    fault: Callable[[], str | None]
    """What shall go wrong with the next request, if anything."""
    die: Callable[[], None]
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Counts = field(default_factory=Counts)


class FakeApp:
    """The ASGI application."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == "/health":
            await _json(send, 200, {})
        elif dict(scope["headers"]).get(b"authorization") != f"Bearer {self._voice.key}".encode():
            await _json(send, 401, _error("Unauthorized"))
        elif path == "/fake/counts":
            await _json(send, 200, asdict(self._voice.counts))
        else:
            await self._answer(path, receive, send)

    async def _answer(self, path: str, receive: Receive, send: Send) -> None:
        try:
            body = json.loads(await _body(receive))
        except ValueError:
            return await _json(send, 400, _error("The body is not JSON."))
        voice = self._voice
        match path:
            case "/tokenize":
                return await _json(send, 200, answers.tokenized(body, voice.max_model_len))
            case "/v1/embeddings" | "/v1/chat/completions" | "/v1/completions" | "/v1/messages":
                return await self._until_disconnect(self._generate(path, body, send), receive)
        return await _json(send, 404, _error(f"Not Found: {path}"))

    async def _until_disconnect(self, work: Awaitable[None], receive: Receive) -> None:
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_disconnected(receive))
        self._voice.counts.requests += 1
        self._voice.counts.running += 1
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            self._voice.counts.aborted += 1
        finally:
            self._voice.counts.running -= 1
            working.cancel()
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await working

    async def _generate(self, path: str, body: dict[str, Any], send: Send) -> None:
        voice = self._voice
        if not voice.awake.is_set():
            voice.counts.while_asleep += 1
            if voice.hang_asleep:
                await voice.awake.wait()
        fault = voice.fault()
        if fault == "fail":
            return await _json(send, 500, _error("The fake engine was told to fail."))
        if fault == "hang":
            await asyncio.get_running_loop().create_future()
        if path == "/v1/embeddings":
            return await _json(send, 200, answers.embeddings(voice.model, body))
        said = answers.answer(voice.model, body)
        if body.get("stream"):
            return await self._stream(_chunks(path, said, body), fault, send)
        await asyncio.sleep(voice.token_delay_s * len(said.tokens))
        if fault == "die":
            voice.die()
        return await _json(send, 200, _whole(path, said))

    async def _stream(self, chunks: Iterator[bytes], fault: str | None, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for i, chunk in enumerate(chunks):
            if i == 1 and fault == "die":
                self._voice.die()
            if i == 1 and fault in ("die", "drop"):
                raise ConnectionAbortedError("The fake engine was told to drop the stream.")
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(self._voice.token_delay_s)
        await send({"type": "http.response.body", "body": b""})


def _chunks(path: str, said: answers.Answer, body: dict[str, Any]) -> Iterator[bytes]:
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    match path:
        case "/v1/chat/completions":
            return answers.chat_chunks(said, with_usage)
        case "/v1/completions":
            return answers.completion_chunks(said, with_usage)
    return answers.message_chunks(said)


def _whole(path: str, said: answers.Answer) -> dict[str, Any]:
    match path:
        case "/v1/chat/completions":
            return answers.chat(said)
        case "/v1/completions":
            return answers.completion(said)
    return answers.message(said)


async def _body(receive: Receive) -> bytes:
    parts = []
    while (event := await receive())["type"] == "http.request":
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            break
    return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _json(send: Send, status: int, payload: dict[str, Any]) -> None:
    raw = json.dumps(payload).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "fake_engine", "code": None}}
