"""One streamed request to a fleet, timed as its client sees it (aiohttp)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import aiohttp

from benchmarks.workload.arrivals import Arrival
from benchmarks.workload.score import Outcome

PATH = "/v1/completions"
_COMMENT = re.compile(rb"^: torpor state=\w+ queue_ms=(\d+)")
_QUEUE_HEADER = "x-torpor-queue-ms"
_WORDS = ("one", "two", "red", "sun", "and", "the", "old", "new", "day", "men")
"""A token each, for about every tokenizer."""

Clock = Callable[[], float]


def body(arrival: Arrival, model: str, most_tokens: int | None, seed: int) -> dict[str, Any]:
    """A prompt of about as many tokens, the conversation's own at its beginning, so that later
    turns share a prefix. Cut to what the model takes."""
    answer, prompt = arrival.answer_tokens, arrival.prompt_tokens
    if most_tokens is not None:
        answer = min(answer, most_tokens // 4)
        prompt = min(prompt, int((most_tokens - answer) * 0.8))
    dice = Random(f"words {arrival.conversation} {seed}")
    words = [str(arrival.conversation), *dice.choices(_WORDS, k=max(1, prompt - 1))]
    return {
        "model": model,
        "prompt": " ".join(words),
        "max_tokens": max(1, answer),
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }


@dataclass(slots=True)
class Heard:
    """What a stream has said so far."""

    queue_s: float | None = None
    tokens_at: list[float] = field(default_factory=list)
    error: str = ""

    def line(self, line: bytes, at: float) -> None:
        """A comment with the wait's figures, a token, or an error."""
        if found := _COMMENT.match(line):
            self.queue_s = int(found[1]) / 1e3
        elif line.startswith(b"data: {"):
            event = json.loads(line[len(b"data: ") :])
            if "error" in event:
                self.error = _code(event)
            elif any(choice.get("text") for choice in event.get("choices", ())):
                self.tokens_at.append(at)


async def ask(
    http: aiohttp.ClientSession,
    arrival: Arrival,
    asked: dict[str, Any],
    max_wait_s: float,
    clock: Clock,
    granted: Callable[[], None] = lambda: None,
) -> Outcome:
    """``clock`` reads 0 at the run's beginning; times count from when the request was due.
    ``granted`` is called once an answer tells that it begins, perhaps again and again."""
    heard, due_s = Heard(), arrival.at_s
    headers = {"x-torpor-max-wait-s": f"{max_wait_s:.3f}"}
    try:
        async with http.post(PATH, json=asked, headers=headers) as response:
            if _QUEUE_HEADER in response.headers:
                heard.queue_s = float(response.headers[_QUEUE_HEADER]) / 1e3
            if response.status != 200:
                heard.error = _refusal(response.status, await response.read())
            else:
                async for line in response.content:
                    if heard.queue_s is not None:
                        granted()
                    heard.line(line, clock())
    except (aiohttp.ClientError, TimeoutError) as error:
        heard.error = f"connection: {type(error).__name__}"
    except ValueError:
        heard.error = "not_json"
    return _outcome(arrival, str(asked["model"]), heard, due_s, clock())


def _outcome(arrival: Arrival, model: str, heard: Heard, due_s: float, ended_s: float) -> Outcome:
    name, times = f"r{arrival.number}", heard.tokens_at
    if heard.error or not times:
        return Outcome(name, model, due_s, heard.queue_s, shed=heard.error or "no_answer")
    gaps = tuple(later - earlier for earlier, later in pairwise(times))
    return Outcome(
        name,
        model,
        due_s,
        heard.queue_s,
        ttft_s=times[0] - due_s,
        e2e_s=ended_s - due_s,
        inter_token_s=gaps,
    )


def _refusal(status: int, said: bytes) -> str:
    try:
        return _code(json.loads(said))
    except ValueError:
        return f"http_{status}"


def _code(said: Any) -> str:
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return "error"
    return str(error.get("code") or error.get("type") or "error")
