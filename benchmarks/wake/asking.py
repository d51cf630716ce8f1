"""One short request to an engine or a fleet, timed to its first token as a client sees it.

The same bytes go to every side. Each question begins with another number, so that no prefix cache
answers in the model's place. A model that does not chat is asked to complete, one that does not
generate to embed; then the whole answer counts as the first token.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from benchmarks.running import BenchError

MAX_TOKENS = 16
SHORT = "In a word: what is the capital of France?"
LONG = "What do these have in common? " + "mountain river city harbour forest " * 80
"""Some hundred tokens, to see how fast a prompt is read."""
_WAKE_HEADER = "x-torpor-wake-ms"
_COMMENT = re.compile(r"^: torpor state=(?P<state>\w+) .*wake_ms=(?P<wake_ms>\d+)")

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Heard:
    """``state`` and ``wake_s`` are the fleet's figures: empty and 0 of a bare engine."""

    first_s: float
    last_s: float
    events: int
    """That carried text."""
    state: str = ""
    wake_s: float = 0.0
    prompt_tokens: int = 0
    """As the answer's usage tells; 0: it tells none."""

    @property
    def tokens_per_s(self) -> float | None:
        """Decoding, at a token an event; None of an answer in one piece."""
        took_s = self.last_s - self.first_s
        return (self.events - 1) / took_s if self.events > 2 and took_s > 0 else None


@dataclass(frozen=True, slots=True)
class Dialect:
    path: str
    body: Callable[[str, int], dict[str, Any]]
    generates: bool = True


def _chat(question: str, tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], **_generation(tokens)}


def _completion(question: str, tokens: int) -> dict[str, Any]:
    return {"prompt": question, **_generation(tokens)}


def _generation(tokens: int) -> dict[str, Any]:
    return {
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _embedding(question: str, tokens: int) -> dict[str, Any]:
    return {"input": question}


CHAT = Dialect("/v1/chat/completions", _chat)
DIALECTS = (
    CHAT,
    Dialect("/v1/completions", _completion),
    Dialect("/v1/embeddings", _embedding, generates=False),
)


class Unanswered(Exception):
    """Another status than 200: the model does not speak this dialect, or the server erred."""


@dataclass(slots=True)
class Asker:
    """Asks one server about any of its models; remembers how each is spoken to."""

    http: httpx.Client
    clock: Clock = time.perf_counter
    dialects: dict[str, Dialect] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def learn(self, model: str) -> None:
        """Which dialect an awake model speaks. Raises BenchError if none."""
        failures = []
        for dialect in DIALECTS:
            try:
                self._ask(dialect, self._body(model, dialect, SHORT, 1), self.clock())
            except Unanswered as error:
                failures.append(f"{dialect.path}: {error}")
            else:
                self.dialects[model] = dialect
                return
        raise BenchError(f"{model} answers no request: {'; '.join(failures)}")

    def ask(
        self,
        model: str,
        *,
        says: str = SHORT,
        tokens: int = MAX_TOKENS,
        since: float | None = None,
    ) -> Heard:
        """Seconds count from ``since``, by the clock, or from here. Raises BenchError."""
        began = self.clock() if since is None else since
        dialect = self.dialects.get(model, CHAT)
        try:
            return self._ask(dialect, self._body(model, dialect, says, tokens), began)
        except (Unanswered, httpx.TransportError) as error:
            raise BenchError(f"{model} did not answer: {error or type(error).__name__}") from error

    def _body(self, model: str, dialect: Dialect, says: str, tokens: int) -> dict[str, Any]:
        return {"model": model, **dialect.body(f"{next(self._numbers)}. {says}", tokens)}

    def _ask(self, dialect: Dialect, body: dict[str, Any], began: float) -> Heard:
        with self.http.stream("POST", dialect.path, json=body) as response:
            if response.status_code != 200:
                response.read()
                raise Unanswered(f"{response.status_code} {response.text[:200]}")
            told = Told(
                response.headers.get("x-torpor-model-state", ""),
                float(response.headers.get(_WAKE_HEADER, 0)) / 1e3,
            )
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                response.read()
                told.heard_at(self.clock())
            else:
                told.read(response.iter_lines(), self.clock)
        return told.heard(began)


@dataclass(slots=True)
class Told:
    """What an answer has said so far."""

    state: str = ""
    wake_s: float = 0.0
    first_at: float | None = None
    last_at: float = 0.0
    events: int = 0
    prompt_tokens: int = 0

    def heard_at(self, at: float) -> None:
        self.first_at = at if self.first_at is None else self.first_at
        self.last_at = at
        self.events += 1

    def read(self, lines: Iterator[str], clock: Clock) -> None:
        """A stream, line by line; after a long wait the figures come in a comment."""
        for line in lines:
            at = clock()
            if found := _COMMENT.match(line):
                self.state, self.wake_s = found["state"], int(found["wake_ms"]) / 1e3
            elif line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise Unanswered(str(event["error"])[:200])
                self.prompt_tokens = (event.get("usage") or {}).get("prompt_tokens", 0)
                if _text(event):
                    self.heard_at(at)

    def heard(self, began: float) -> Heard:
        if self.first_at is None:
            raise Unanswered("the answer has no text")
        first_s, last_s = self.first_at - began, self.last_at - began
        return Heard(first_s, last_s, self.events, self.state, self.wake_s, self.prompt_tokens)


def _text(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    return str(choices[0].get("text") or delta.get("content") or "")
