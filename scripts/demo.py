"""``make demo``: boots the fleet, asks every model, puts it to sleep at each level, asks again,
switches, and prints a table of what it took. Exit code 0 only if every answer was the same.

    python scripts/demo.py examples/laptop.yaml
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import openai
from demonstration import ask, console, seconds, serving
from rich.table import Table

from controller.client import FleetClient

QUESTION = "What is the capital of France?"
LEVELS = {0: "KV released", 1: "level 1", 2: "level 2"}
EMBEDDER = "minilm"


@dataclass(frozen=True, slots=True)
class Row:
    model: str
    slept: str
    sleep_s: float | None
    wake_s: float | None
    first_token_s: float
    answer: str
    is_same: bool


def main() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(sys.argv[1], port), FleetClient(f"http://127.0.0.1:{port}") as fleet:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        rows = [row for model in fleet.models() for row in tour(fleet, client, model.model)]
        switch_s = fleet.switch("smollm2", "smollm2-f32", 1).seconds
    console.print(table(rows))
    console.print(f"switch smollm2-f32 -> smollm2: {switch_s:.2f} s")
    return 0 if all(row.is_same for row in rows) else 1


def tour(fleet: FleetClient, client: openai.OpenAI, model: str) -> Iterator[Row]:
    asked = embedding if model == EMBEDDER else first_words
    fleet.wake(model)
    before, first_s, _ = asked(client, model)
    yield Row(model, "awake", None, None, first_s, before, True)
    for level, name in LEVELS.items():
        sleep_s = fleet.sleep(model, level).seconds
        after, first_s, wake_s = asked(client, model)
        yield Row(model, name, sleep_s, wake_s, first_s, after, after == before)


Asked = tuple[str, float, float]
"""The answer, seconds to its first token with the wake, and those of the wake alone."""


def first_words(client: openai.OpenAI, model: str) -> Asked:
    heard = ask(client, model, [{"role": "user", "content": QUESTION}], {}, 16)
    return heard.text, heard.first_s, heard.wake_s


def embedding(client: openai.OpenAI, model: str) -> Asked:
    began = time.perf_counter()
    response = client.embeddings.with_raw_response.create(model=model, input=QUESTION)
    vector = response.parse().data[0].embedding
    shown = " ".join(f"{x:+.4f}" for x in vector[:4])
    wake_s = float(response.headers["x-torpor-wake-ms"]) / 1000
    return f"[{shown} …]", time.perf_counter() - began, wake_s


def table(rows: list[Row]) -> Table:
    result = Table("model", "was", "sleep", "wake", "first token", "answer", "same")
    for row in rows:
        result.add_row(
            row.model,
            row.slept,
            seconds(row.sleep_s),
            seconds(row.wake_s),
            seconds(row.first_token_s),
            row.answer,
            "yes" if row.is_same else "NO",
        )
    return result


if __name__ == "__main__":
    sys.exit(main())
