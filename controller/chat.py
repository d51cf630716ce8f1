"""``torpor chat``: a streamed conversation, with what happens before the first word in sight.

A request that waits gets SSE comments, ``: torpor phase=… estimate_ms=…``; when the wait is over
the last of them has its figures, ``: torpor state=… queue_ms=… wake_ms=…``. Where the wait was
short there are no comments and the same figures stand in the response's headers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from rich.text import Text

from controller.client import FleetClient, FleetError
from controller.terminal import err, out, seconds


@dataclass(frozen=True, slots=True)
class Answer:
    model: str
    text: str
    state: str | None
    """Of the model when it was asked: ``awake``, ``woken`` or ``cold``."""
    queue_ms: int
    wake_ms: int
    first_token_s: float | None
    seconds: float
    finish_reason: str | None


@dataclass(slots=True)
class _Reading:
    """What a stream has told so far."""

    figures: dict[str, str]
    text: str = ""
    first_token_at: float | None = None
    finish_reason: str | None = None


class Chat:
    """The turns so far and one stream at a time."""

    def __init__(
        self,
        fleet: FleetClient,
        model: str,
        system: str | None,
        max_tokens: int,
        temperature: float | None,
        conversation: str | None = None,
        store: bool = False,
    ) -> None:
        """``store``: the fleet keeps what is said in that conversation, and goes on from what was
        said there before."""
        self._fleet = fleet
        self._model = model
        self._options: dict[str, Any] = {"max_tokens": max_tokens, "stream": True}
        if temperature is not None:
            self._options["temperature"] = temperature
        if store:
            self._options["store"] = True
        self._headers = {"x-conversation-id": conversation} if conversation else {}
        self._turns = [{"role": "system", "content": system}] if system else []

    def ask(self, message: str) -> Answer:
        """Print the answer as it comes. Raises FleetError; the turn is then forgotten."""
        with err.status(Text(f"{self._model}: asked")) as status:

            def write(text: str) -> None:
                status.stop()
                out.print(Text(text), end="", soft_wrap=True)

            answer = self.ask_silently(
                message, lambda doing: status.update(Text(f"{self._model}: {doing}")), write
            )
        out.print()
        err.print(Text(_summary(answer), "dim"), soft_wrap=True)
        return answer

    def ask_silently(
        self,
        message: str,
        waiting: Callable[[str], None] = lambda _: None,
        writing: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        turns = [*self._turns, {"role": "user", "content": message}]
        body = {"model": self._model, "messages": turns, **self._options}
        began = time.monotonic()
        asked = {"json": body, "headers": self._headers}
        with self._fleet.stream("POST", "/v1/chat/completions", **asked) as response:
            reading = _Reading(_figures_in(response.headers))
            _read(response.iter_lines(), reading, waiting, writing)
        self._turns = [*turns, {"role": "assistant", "content": reading.text}]
        first = reading.first_token_at
        return Answer(
            model=self._model,
            text=reading.text,
            state=reading.figures.get("state"),
            queue_ms=int(reading.figures.get("queue_ms", 0)),
            wake_ms=int(reading.figures.get("wake_ms", 0)),
            first_token_s=None if first is None else first - began,
            seconds=time.monotonic() - began,
            finish_reason=reading.finish_reason,
        )


def converse(chat: Chat) -> None:
    """Turn by turn until end of input."""
    err.print(Text("Ctrl-D ends the conversation.", "dim"))
    while True:
        try:
            message = out.input("[bold]> [/bold]").strip()
        except EOFError:
            out.print()
            return
        if message:
            _turn(chat, message)


def _turn(chat: Chat, message: str) -> None:
    try:
        chat.ask(message)
    except FleetError as error:
        if not error.status:
            raise
        err.print(Text(f"{error.message} ({error.code})", "red"), soft_wrap=True)


def _figures_in(headers: httpx.Headers) -> dict[str, str]:
    names = {"model-state": "state", "queue-ms": "queue_ms", "wake-ms": "wake_ms"}
    found = {short: headers.get(f"x-torpor-{name}") for name, short in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _read(
    lines: Iterator[str],
    reading: _Reading,
    waiting: Callable[[str], None],
    writing: Callable[[str], None],
) -> None:
    event = ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.strip()
        if line.startswith(": torpor "):
            told = dict(word.partition("=")[::2] for word in value.split()[1:])
            reading.figures.update(told)
            if "phase" in told:
                waiting(_doing(told))
        elif name == "event":
            event = value
        elif name == "data" and value != "[DONE]":
            _take(json.loads(value), event, reading, writing)
            event = ""


def _doing(told: dict[str, str]) -> str:
    left = float(told.get("estimate_ms", 0)) / 1e3
    return f"{told['phase']}, about {seconds(left)} to go" if left else told["phase"]


def _take(
    chunk: dict[str, Any], event: str, reading: _Reading, writing: Callable[[str], None]
) -> None:
    if event == "error" or "error" in chunk:
        error = chunk.get("error", chunk)
        raise FleetError(200, str(error.get("code") or error.get("type")), str(error["message"]))
    for choice in chunk.get("choices", ()):
        text = choice.get("delta", {}).get("content") or ""
        if text:
            reading.first_token_at = reading.first_token_at or time.monotonic()
            reading.text += text
            writing(text)
        reading.finish_reason = choice.get("finish_reason") or reading.finish_reason


def _summary(answer: Answer) -> str:
    words = [answer.state] if answer.state else []
    if answer.state and answer.wake_ms:
        words = [f"{answer.state}: up in {answer.wake_ms / 1e3:.2f} s"]
    if answer.first_token_s is not None:
        words.append(f"first token after {answer.first_token_s:.2f} s")
    words.append(f"{answer.seconds:.2f} s in all")
    if answer.finish_reason == "length":
        words.append("cut at --max-tokens")
    return f"({', '.join(words)})"
