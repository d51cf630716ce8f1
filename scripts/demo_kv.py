"""``make demo-kv``: a long conversation goes on as if nothing had happened, after its model slept
at each level, after its engine was stopped, and after the whole service was killed and started
again. Beside each turn, what the same turn takes where its KV is computed again.

    python scripts/demo_kv.py examples/conversations.yaml

Exit code 0 only if every later turn found its KV and every answer is that of a conversation which
nobody disturbed. The conversations are told apart by ``x-conversation-id``: what one computed, no
other one finds, so one that was never heard of computes everything.
"""

from __future__ import annotations

import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from demonstration import LISTENING, Heard, ask, console, kill, seconds, serving
from rich.table import Table

from controller.client import FleetClient

MODEL = "smollm2"
ANSWER_TOKENS = 32
DOCUMENT_CHARACTERS = 17_000
DOCUMENTS = ("architecture.md", "operations.md", "api.md")
QUESTIONS = (
    "What is this document about?",
    "What does it say about memory?",
    "Who decides which model is awake?",
    "What happens to a request that waits?",
    "What is stored on disk?",
    "What happens when a process dies?",
)


@dataclass(slots=True)
class Conversation:
    client: openai.OpenAI
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    messages: list[Any] = field(default_factory=list)

    def turn(self, number: int) -> Heard:
        question = QUESTIONS[number]
        self.messages.append(_said("user", question if number else f"{document()}\n\n{question}"))
        heard = self._ask(self.id)
        self.messages.append(_said("assistant", heard.text))
        return heard

    def recomputed(self) -> Heard:
        """The last turn, asked where nothing of it is known."""
        return self._ask(uuid.uuid4().hex, self.messages[:-1])

    def _ask(self, id: str, messages: list[Any] | None = None) -> Heard:
        headers = {"x-conversation-id": id}
        return ask(self.client, MODEL, messages or self.messages, headers, ANSWER_TOKENS)


@dataclass(frozen=True, slots=True)
class Row:
    before: str
    took_s: float | None
    heard: Heard
    recomputed: Heard | None
    is_same: bool

    @property
    def is_found(self) -> bool:
        """The first turn has nothing to find."""
        return self.recomputed is None or found_tokens(self.heard.kv) > 0


Disturbance = Callable[[FleetClient], float]
"""Seconds that it took."""


def sleep(level: int) -> Disturbance:
    return lambda fleet: fleet.sleep(MODEL, level).seconds


def stop(fleet: FleetClient) -> float:
    return fleet.stop(MODEL).seconds


BEFORE: tuple[tuple[str, Disturbance | None], ...] = (
    ("nothing: the first turn", None),
    ("nothing", None),
    ("slept at level 1", sleep(1)),
    ("slept at level 2", sleep(2)),
    ("engine stopped", stop),
)
AT_LAST = "service killed, started again"


def main() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    rows = list(conversed(sys.argv[1], port, client))
    console.print(table(rows))
    return 0 if all(row.is_found and row.is_same for row in rows) else 1


def conversed(config: str, port: int, client: openai.OpenAI) -> Iterator[Row]:
    talk = Conversation(client)
    with serving(config, port) as service, FleetClient(f"http://127.0.0.1:{port}") as fleet:
        undisturbed = Conversation(client)
        expected = [undisturbed.turn(number).text for number in range(len(QUESTIONS))]
        for number, (before, disturb) in enumerate(BEFORE):
            took_s = disturb(fleet) if disturb else None
            heard = talk.turn(number)
            again = talk.recomputed() if number else None
            yield Row(before, took_s, heard, again, heard.text == expected[number])
        kill(service)
    began = time.perf_counter()
    with serving(config, port, LISTENING):
        took_s = time.perf_counter() - began
        heard = talk.turn(len(BEFORE))
        yield Row(AT_LAST, took_s, heard, talk.recomputed(), heard.text == expected[-1])


def document() -> str:
    docs = Path(__file__).parents[1] / "docs"
    text = "\n".join((docs / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    return text[:DOCUMENT_CHARACTERS]


def found_tokens(kv: str) -> int:
    told = re.match(r"hit=(\d+)", kv)
    return int(told[1]) if told else 0


def table(rows: list[Row]) -> Table:
    result = Table(
        "turn", "before it", "took", "KV", "wake", "first token", "computed anew", "same"
    )
    for number, row in enumerate(rows, 1):
        anew, apart_s = row.recomputed, row.heard.first_s - row.heard.wake_s
        result.add_row(
            str(number),
            row.before,
            seconds(row.took_s),
            row.heard.kv or "-",
            seconds(row.heard.wake_s),
            seconds(apart_s),
            f"{seconds(anew.first_s)}, {anew.first_s / apart_s:.0f}x" if anew else "-",
            "yes" if row.is_same else "NO",
        )
    result.caption = "wake or start, and the first token apart from it; each answer in full, greedy"
    return result


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


if __name__ == "__main__":
    sys.exit(main())
