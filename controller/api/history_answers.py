"""What an engine answered, gathered from the bytes as they pass to the client.

A stream is over when its closing event has come: ``[DONE]`` of a chat, ``response.completed`` of
the Responses API. One that broke, or tells of an error, never is, and nothing of it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

_DONE = b"[DONE]"
_RESPONSE_ENDS = (b"response.completed", b"response.incomplete")


class Hearing(Protocol):
    """One streamed answer."""

    def hear(self, chunk: bytes) -> None: ...

    def whole(self) -> dict[str, Any] | None:
        """The answer as one that is not streamed; None: it is not over."""
        ...


class _Events:
    """Server-sent events, whole ones."""

    def __init__(self) -> None:
        self._rest = b""

    def of(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Name and data of each; comments have neither."""
        *whole, self._rest = (self._rest + chunk).split(b"\n\n")
        for event in whole:
            name = data = b""
            for line in event.splitlines():
                field, _, value = line.partition(b":")
                if field == b"event":
                    name = value.strip()
                elif field == b"data":
                    data += value.strip()
            if data:
                yield name, data


class ChatHearing:
    def __init__(self) -> None:
        self._events = _Events()
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._has_finished = self._is_over = self._has_failed = False

    def hear(self, chunk: bytes) -> None:
        for name, data in self._events.of(chunk):
            if data == _DONE:
                self._is_over = True
            else:
                self._one(name, json.loads(data))

    def whole(self) -> dict[str, Any] | None:
        if not self._is_over or not self._has_finished or self._has_failed:
            return None
        message: dict[str, Any] = {name: "".join(said) for name, said in self._texts.items()}
        calls = [call for _, call in sorted(self._calls.items())]
        message |= {"role": "assistant"} | ({"tool_calls": calls} if calls else {})
        return {"choices": [{"message": message}]}

    def _one(self, name: bytes, said: Mapping[str, Any]) -> None:
        self._has_failed |= name == b"error" or "error" in said
        for choice in said.get("choices") or ():
            self._has_finished |= choice.get("finish_reason") is not None
            for name_, value in (choice.get("delta") or {}).items():
                if name_ == "tool_calls":
                    self._called(value or ())
                elif isinstance(value, str) and name_ != "role":
                    self._texts.setdefault(name_, []).append(value)

    def _called(self, deltas: Any) -> None:
        for delta in deltas:
            function = delta.get("function") or {}
            call = self._calls.setdefault(
                delta.get("index", 0),
                {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
            )
            call["id"] = call["id"] or delta.get("id") or ""
            call["function"]["name"] = call["function"]["name"] or function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""


class ResponseHearing:
    def __init__(self) -> None:
        self._events = _Events()
        self._response: dict[str, Any] | None = None

    def hear(self, chunk: bytes) -> None:
        for name, data in self._events.of(chunk):
            if name in _RESPONSE_ENDS:
                self._response = json.loads(data)["response"]

    def whole(self) -> dict[str, Any] | None:
        return self._response
