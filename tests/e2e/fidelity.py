"""What a model said, token by token, and where two tellings part."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import openai

BOUND = 0.5
"""Of log-probability between the two best tokens, where bfloat16 may choose either: logits of 16
to 32 are 0.125 apart in it, and a prompt that is computed in other pieces rounds otherwise in
every layer."""


@dataclass(frozen=True, slots=True)
class Said:
    tokens: tuple[str, ...]
    margins: tuple[float, ...]
    """Between the best and the second best, at each token."""
    hit: int


def say(client: openai.OpenAI, model: str, text: str, conversation: str) -> Said:
    answer = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=24,
        logprobs=True,
        top_logprobs=2,
        extra_headers={"x-conversation-id": conversation},
    )
    told = re.match(r"hit=(\d+) of ", answer.headers["x-torpor-kv"])
    logprobs: Any = answer.parse().choices[0].logprobs
    assert told
    return Said(
        tokens=tuple(each.token for each in logprobs.content),
        margins=tuple(_margin(each.top_logprobs) for each in logprobs.content),
        hit=int(told[1]),
    )


def parting(one: Said, other: Said) -> float:
    """The smaller margin where they first differ; 0: nowhere."""
    pairs = zip(one.tokens, other.tokens, one.margins, other.margins, strict=True)
    return next((min(margins) for a, b, *margins in pairs if a != b), 0.0)


def _margin(best: list[Any]) -> float:
    first, second = sorted((each.logprob for each in best), reverse=True)
    return float(first - second)
