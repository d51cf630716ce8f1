"""What the clients ask: few questions, often, so that each has a recorded answer.

Greedy, a token or some dozens long, streamed or not, some of them within a conversation. The
recorded answer is what a fleet says before the first fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from random import Random
from typing import Any

_THINGS = ("the sun", "a river", "winter", "bread", "a ship", "the moon", "music", "a garden")
_ASKED = ("What is {}?", "Name a colour of {}.", "Write one sentence about {}.")
_CONVERSATIONS = 12
_EMBEDDING_TOLERANCE = 1e-3

Said = str | tuple[float, ...]
"""A text, or an embedding."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    name: str
    model: str
    path: str
    body: dict[str, Any]
    conversation: str = ""

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))


def questions(
    models: Sequence[str], embedding: Sequence[str], each: int, seed: int
) -> list[Question]:
    """So many of each model; ``embedding``: the models that answer with numbers."""
    dice = Random(f"questions {seed}")
    asked: list[Question] = []
    for model in models:
        for number in range(each):
            prompt = dice.choice(_ASKED).format(dice.choice(_THINGS)) + f" ({number})"
            name = f"{model} {number}"
            if model in embedding:
                asked.append(_embedding(name, model, prompt))
            else:
                asked.append(_text(name, model, prompt, number, dice))
    return asked


def agrees(said: Said, known: Said) -> bool:
    if isinstance(said, str) or isinstance(known, str):
        return said == known
    return len(said) == len(known) and all(
        isclose(one, other, abs_tol=_EMBEDDING_TOLERANCE)
        for one, other in zip(said, known, strict=True)
    )


def _embedding(name: str, model: str, prompt: str) -> Question:
    return Question(name, model, "/v1/embeddings", {"model": model, "input": prompt})


def _text(name: str, model: str, prompt: str, number: int, dice: Random) -> Question:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": dice.choice((4, 8, 16, 24)),
        "temperature": 0,
        "stream": number % 2 == 0,
    }
    conversation = f"chaos-{dice.randrange(_CONVERSATIONS)}" if number % 4 == 1 else ""
    if number % 3 == 0:
        return Question(name, model, "/v1/completions", body | {"prompt": prompt}, conversation)
    messages = [{"role": "user", "content": prompt}]
    return Question(
        name, model, "/v1/chat/completions", body | {"messages": messages}, conversation
    )
