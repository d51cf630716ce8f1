"""A prompt of so many tokens, streamed and timed to its first token as a client sees it."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.running import BenchError
from benchmarks.wake.asking import Clock, Told, Unanswered

_PATH = "/v1/completions"
_FOUND = re.compile(r"(?:: torpor kv )?hit=(?P<hit>\d+) of \d+ tier=(?P<tier>\w+)\b")
_IDS = range(1_000, 20_000)
"""Ordinary tokens of any vocabulary."""
_NO_LIMIT = httpx.Timeout(None, connect=5.0)

Prompt = list[int]


@dataclass(frozen=True, slots=True)
class Found:
    """``hit`` tokens of the prompt, in ``tier`` at the deepest."""

    hit: int
    tier: str


@dataclass(frozen=True, slots=True)
class Answer:
    first_s: float
    text: str
    found: Found


@dataclass(slots=True)
class Prompts:
    """Never the same one twice, and none that begins as another one."""

    seed: int
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def fresh(self, tokens: int) -> Prompt:
        return [self._chance.choice(_IDS) for _ in range(tokens)]


class Asker:
    """Asks one model of a fleet. Every method raises BenchError where there is no answer."""

    def __init__(self, http: httpx.Client, model: str, clock: Clock = time.perf_counter) -> None:
        self._http = http
        self._model = model
        self._clock = clock

    def ask(self, prompt: Prompt, tokens: int = 8, conversation: str = "") -> Answer:
        body = self._greedy(prompt, tokens) | {"stream": True}
        headers = {"x-conversation-id": conversation} if conversation else {}
        began = self._clock()
        with self._streamed(body, headers) as response:
            return self._read(response, began)

    def pieces(self, prompt: Prompt, tokens: int) -> Generator[str]:
        """The text of a greedy answer as it comes. Whoever closes this ends the answer."""
        body = self._greedy(prompt, tokens) | {"stream": True}
        with self._streamed(body, {}) as response:
            yield from _pieces(response)

    @contextmanager
    def _streamed(self, body: dict[str, Any], headers: dict[str, str]) -> Iterator[httpx.Response]:
        try:
            with self._http.stream("POST", _PATH, json=body, headers=headers) as response:
                _check(response)
                yield response
        except (Unanswered, httpx.TransportError) as error:
            reason = error or type(error).__name__
            raise BenchError(f"{self._model} did not answer: {reason}") from error

    def tokens(self, prompt: str, tokens: int) -> tuple[Found, tuple[int, ...]]:
        """Of a greedy answer as a whole."""
        body = self._greedy(prompt, tokens) | {"return_token_ids": True}
        try:
            response = self._http.post(_PATH, json=body)
        except httpx.TransportError as error:
            raise BenchError(f"{self._model} did not answer: {type(error).__name__}") from error
        if response.status_code != 200:
            raise BenchError(f"{self._model} did not answer: {response.text[:200]}")
        found = _FOUND.match(response.headers.get("x-torpor-kv", ""))
        (choice,) = response.json()["choices"]
        return _found(found), tuple(choice["token_ids"])

    def _greedy(self, prompt: Prompt | str, tokens: int) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
        }

    def _read(self, response: httpx.Response, began: float) -> Answer:
        lines = _Lines()
        told = Told()
        told.read(lines.passed(response.iter_lines()), self._clock)
        found = _FOUND.match(response.headers.get("x-torpor-kv", "")) or lines.found
        return Answer(told.heard(began).first_s, "".join(lines.text), _found(found))


def _check(response: httpx.Response) -> None:
    if response.status_code != 200:
        response.read()
        raise Unanswered(f"{response.status_code} {response.text[:200]}")


def _pieces(response: httpx.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise Unanswered(str(event["error"])[:200])
            yield _text(event)


def _text(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    return str(choices[0].get("text") or "")


@dataclass(slots=True)
class _Lines:
    """What of a stream is not its times."""

    text: list[str] = field(default_factory=list)
    found: re.Match[str] | None = None

    def passed(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            yield line
            if line.startswith(": "):
                self.found = _FOUND.match(line) or self.found
            elif line.startswith("data: {"):
                self.text.append(_text(json.loads(line.removeprefix("data: "))))


def _found(told: re.Match[str] | None) -> Found:
    return Found(int(told["hit"]), told["tier"]) if told else Found(0, "none")


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=_NO_LIMIT, trust_env=False)
