"""The fake engine's own OpenAI-like server: plain ASGI, bearer key demanded but for /health.

Asleep, it treats a generating request as vLLM's paused scheduler does: the request waits until
somebody wakes the engine, and is counted. What was running says no further word until then. A
client that goes away aborts its generation.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from kv_store.turns import PATH as TURN
from workers import fake_answers as answers
from workers.fake_responses import response, response_chunks
from workers.fake_tier import FakeKV

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Counts:
    """What befell the server; read at ``GET /fake/counts``."""

    requests: int = 0
    running: int = 0
    aborted: int = 0
    steps: int = 0
    """Tokens."""
    frozen: int = 0
    """In the middle of an answer while asleep, and waiting for their next token."""
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
    is_stalled: bool = False
    """It takes no step any more."""
    kv: FakeKV | None = None
    """None: it keeps no KV."""
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Counts = field(default_factory=Counts)


class FakeApp:
    """The ASGI application."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path, headers = scope["path"], dict(scope["headers"])
        if path == "/health":
            await _json(send, 200, {})
        elif headers.get(b"authorization") != f"Bearer {self._voice.key}".encode():
            await _json(send, 401, _error("Unauthorized"))
        elif path == "/fake/counts":
            await _json(send, 200, asdict(self._voice.counts))
        elif path == TURN:
            await self._tell_turn((await _body(receive)).decode(), send)
        else:
            request = headers.get(b"x-request-id", b"").decode()
            await self._answer(path, request, receive, send)

    async def _tell_turn(self, request: str, send: Send) -> None:
        kv = self._voice.kv
        told = await kv.turn(request) if kv is not None else None
        if told is None:
            return await _json(send, 404, _error("no such turn"))
        return await _whole_body(send, 200, told.packed(), b"application/octet-stream")

    async def _answer(self, path: str, request: str, receive: Receive, send: Send) -> None:
        try:
            body = json.loads(await _body(receive))
        except ValueError:
            return await _json(send, 400, _error("The body is not JSON."))
        voice = self._voice
        match path:
            case "/tokenize":
                return await _json(send, 200, answers.tokenized(body, voice.max_model_len))
            case (
                "/v1/embeddings"
                | "/v1/chat/completions"
                | "/v1/completions"
                | "/v1/messages"
                | "/v1/responses"
            ):
                return await self._until_disconnect(
                    self._generate(path, request, body, send), receive
                )
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

    async def _generate(self, path: str, request: str, body: dict[str, Any], send: Send) -> None:
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
        found = self._kept(request, body, said)
        if body.get("stream"):
            return await self._stream(_chunks(path, said, body), fault, found, send)
        for i in range(len(said.tokens)):
            await self._step(fault if i == 1 else None)
        if fault == "die":
            voice.die()
        return await _json(send, 200, _whole(path, said, body), found)

    def _kept(self, request: str, body: dict[str, Any], said: answers.Answer) -> RawHeaders:
        kv, salt = self._voice.kv, body.get("cache_salt")
        if kv is None or not salt:
            return []
        heard = answers.words_of(answers.prompt_of(body))
        told = kv.answered(request, str(salt), heard, said.text.split())
        return [(b"x-torpor-kv", told.encode())]

    async def _step(self, fault: str | None) -> None:
        voice = self._voice
        if fault == "stall":
            voice.is_stalled = True
        if voice.token_delay_s:
            await asyncio.sleep(voice.token_delay_s)
        if voice.is_stalled:
            await asyncio.get_running_loop().create_future()
        await self._thaws()
        voice.counts.steps += 1

    async def _stream(
        self, chunks: Iterator[bytes], fault: str | None, found: RawHeaders, send: Send
    ) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *found]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for i, chunk in enumerate(chunks):
            if i == 1 and fault == "die":
                self._voice.die()
            if i == 1 and fault in ("die", "drop"):
                raise ConnectionAbortedError("The fake engine was told to drop the stream.")
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await self._step(fault if i == 1 else None)
        await send({"type": "http.response.body", "body": b""})

    async def _thaws(self) -> None:
        """Asleep there is no token: who is in the middle of an answer is frozen."""
        if not self._voice.awake.is_set():
            self._voice.counts.frozen += 1
            try:
                await self._voice.awake.wait()
            finally:
                self._voice.counts.frozen -= 1


def _chunks(path: str, said: answers.Answer, body: dict[str, Any]) -> Iterator[bytes]:
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    match path:
        case "/v1/chat/completions":
            return answers.chat_chunks(said, with_usage)
        case "/v1/completions":
            return answers.completion_chunks(said, with_usage)
        case "/v1/responses":
            return response_chunks(said, body)
    return answers.message_chunks(said)


def _whole(path: str, said: answers.Answer, body: dict[str, Any]) -> dict[str, Any]:
    match path:
        case "/v1/chat/completions":
            return answers.chat(said)
        case "/v1/completions":
            return answers.completion(said)
        case "/v1/responses":
            return response(said, body)
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


async def _json(
    send: Send, status: int, payload: dict[str, Any], more: RawHeaders | None = None
) -> None:
    await _whole_body(send, status, json.dumps(payload).encode(), b"application/json", more)


async def _whole_body(
    send: Send, status: int, raw: bytes, kind: bytes, more: RawHeaders | None = None
) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(raw)), *(more or ())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "fake_engine", "code": None}}
