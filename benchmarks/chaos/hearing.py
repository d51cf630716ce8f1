"""One answer as it comes over the wire: what was said, or which error.

An answer must be whole: a stream that ends as if nothing were wrong but without its last event
is an error of the fleet's, and so is anything that is neither an answer nor an OpenAI error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks.chaos.questions import Said
from controller.api.errors import STATUS

_AGAIN = (429, 503, 504)


@dataclass(frozen=True, slots=True)
class Trouble:
    """No answer. ``may_ask_again``: the client was told so, or its connection broke."""

    code: str
    may_ask_again: bool
    after_s: float | None = None


async def hear(response: aiohttp.ClientResponse) -> Said | Trouble:
    """Raises aiohttp.ClientError where the connection breaks."""
    if response.status != 200:
        return _refusal(response, await response.read())
    if response.content_type == "text/event-stream":
        return await _stream(response)
    try:
        return _whole(json.loads(await response.read()))
    except (ValueError, KeyError, IndexError, TypeError):
        return Trouble("not an answer", may_ask_again=False)


async def _stream(response: aiohttp.ClientResponse) -> Said | Trouble:
    said: list[str] = []
    async for line in response.content:
        if line.startswith(b"data: [DONE]"):
            return "".join(said)
        if line.startswith(b"data: {"):
            try:
                event = json.loads(line[len(b"data: ") :])
            except ValueError:
                return Trouble("cut within an event", may_ask_again=False)
            if "error" in event:
                return _error(event, 503)
            said.extend(_piece(choice) for choice in event.get("choices", ()))
    return Trouble("ended without its last event", may_ask_again=False)


def _whole(answer: Any) -> Said:
    if answer["object"] == "list":
        return tuple(answer["data"][0]["embedding"])
    choice = answer["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def _piece(choice: Any) -> str:
    return str(choice["text"] if "text" in choice else choice["delta"].get("content") or "")


def _refusal(response: aiohttp.ClientResponse, said: bytes) -> Trouble:
    try:
        trouble = _error(json.loads(said), response.status)
    except (ValueError, LookupError, TypeError, AttributeError):
        return Trouble(f"http {response.status} that is no error object", may_ask_again=False)
    if response.headers.get("x-should-retry") == "false" or response.status not in _AGAIN:
        return Trouble(trouble.code, may_ask_again=False)
    after = response.headers.get("retry-after")
    return Trouble(trouble.code, may_ask_again=True, after_s=float(after) if after else None)


def _error(said: Any, status: int) -> Trouble:
    code = str(said["error"].get("code") or said["error"].get("type"))
    return Trouble(code, STATUS.get(code, status) in _AGAIN)
