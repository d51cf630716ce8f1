"""``make demo-conversations``: many conversations in turn over three engines with room for one.

    python scripts/demo_conversations.py examples/round-robin.yaml [CONVERSATIONS] [TURNS] [AT_ONCE]

AT_ONCE conversations are in a turn at a time; with one, the default, every turn makes its model
take the room of another. Each conversation has a number of its own to keep in mind, and asks for it
again in every turn. The same conversations are held once more under other names, each of them from
beginning to end, model by model. Exit code 0 only if every answer is there and is the one that was
given there, and every later turn found KV.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import openai
from demonstration import Heard, ask, console, seconds, serving

from controller.client import FleetClient

ANSWER_TOKENS = 24
_DEFAULTS = ("30", "2", "1")
SUBJECTS = ("a lighthouse", "a railway station", "an orchard", "a harbour", "a library")
QUESTIONS = (
    "Which number did I tell you?",
    "Say it once more, and nothing else.",
    "What did I tell you the number of?",
    "Name something else that has numbers.",
)
BACKGROUND = (
    "We are taking stock of a small town, house by house, and every house in it has a number. "
    "Listen closely, because I shall ask about it later, and short answers are the best ones. "
) * 8


@dataclass(slots=True)
class Conversation:
    client: openai.OpenAI
    number: int
    model: str
    name: str
    messages: list[Any] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)

    def turn(self) -> None:
        index = len(self.heard)
        question = QUESTIONS[index % len(QUESTIONS)]
        if not index:
            subject = SUBJECTS[self.number % len(SUBJECTS)]
            question = f"{BACKGROUND}Number {1000 + self.number} is {subject}. {question}"
        self.messages.append({"role": "user", "content": question})
        headers = {"x-conversation-id": self.name}
        self.heard.append(ask(self.client, self.model, self.messages, headers, ANSWER_TOKENS))
        self.messages.append({"role": "assistant", "content": self.heard[-1].text})

    @property
    def answers(self) -> list[str]:
        return [one.text for one in self.heard]


def main() -> int:
    config = sys.argv[1]
    many, turns, at_once = _counts(sys.argv[2:])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300)
    with serving(config, port), FleetClient(url) as fleet:
        models = [model.model for model in fleet.fleet().models]
        talks = _conversations(client, models, many, "round")
        began = time.perf_counter()
        for number in range(turns):
            with ThreadPoolExecutor(at_once) as clients:
                list(clients.map(Conversation.turn, talks))
            console.print(f"turn {number + 1} of {turns}: {time.perf_counter() - began:.0f} s")
        took_s = time.perf_counter() - began
        alone = _conversations(client, models, many, "alone")
        for talk in sorted(alone, key=lambda one: models.index(one.model)):
            for _ in range(turns):
                talk.turn()
        statistics = fleet.conversations.list(limit=1).statistics
    return _told(talks, alone, took_s, statistics.total)


def _counts(told: list[str]) -> list[int]:
    return [int(text) for text in [*told, *_DEFAULTS[len(told) :]]]


def _conversations(
    client: openai.OpenAI, models: list[str], many: int, name: str
) -> list[Conversation]:
    return [
        Conversation(client, number, models[number % len(models)], f"{name}-{number}")
        for number in range(many)
    ]


def _told(talks: list[Conversation], alone: list[Conversation], took_s: float, known: int) -> int:
    first = [one.heard[0] for one in talks]
    later = [one for talk in talks for one in talk.heard[1:]]
    wrong = sum(
        one != other
        for talk, twin in zip(talks, alone, strict=True)
        for one, other in zip(talk.answers, twin.answers, strict=True)
    )
    lost = sum(not one.text for one in [*first, *later])
    missed = sum(not _found(one.kv) for one in later)
    woken = [one.wake_s for one in [*first, *later] if one.wake_s]
    console.print(
        f"{len(talks)} conversations, {len(first) + len(later)} turns in {took_s:.0f} s; "
        f"on record: {known} with those that were not disturbed"
    )
    console.print(f"answers lost: {lost}, other than undisturbed: {wrong}, KV not found: {missed}")
    _figures("wakes", woken)
    _figures("first token of a later turn, apart from the wake", [_apart_s(one) for one in later])
    _figures("first token of a first turn, apart from the wake", [_apart_s(one) for one in first])
    return 0 if not (lost or wrong or missed) else 1


def _figures(what: str, values: list[float]) -> None:
    if len(values) > 1:
        p95 = quantiles(values, n=20)[-1]
        middle, most = seconds(median(values)), seconds(max(values))
        console.print(f"{what}: {len(values)}, median {middle}, p95 {seconds(p95)}, most {most}")


def _apart_s(heard: Heard) -> float:
    return max(0.0, heard.first_s - heard.wake_s)


def _found(kv: str) -> int:
    told = re.match(r"hit=(\d+)", kv)
    return int(told[1]) if told else 0


if __name__ == "__main__":
    sys.exit(main())
