"""What the demos share: a fleet in another process, a question timed, figures as text."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
from rich.console import Console

READY, LISTENING = "torpor is ready", "torpor: listening on"

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@contextmanager
def serving(config: str, port: int, until: str = READY) -> Iterator[subprocess.Popen[str]]:
    """``torpor serve``, entered when it has said ``until``; it may be dead when it is left."""
    command = [sys.executable, "-c", "from controller.cli import main; main()", "serve"]
    fleet = subprocess.Popen(
        [*command, config, "--port", str(port)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert fleet.stderr is not None
    try:
        for line in fleet.stderr:
            console.print(line, end="", markup=False, style="dim")
            if until in line:
                break
        else:
            raise SystemExit("the fleet did not come up")
        yield fleet
    finally:
        fleet.send_signal(signal.SIGINT)
        fleet.communicate()


def kill(fleet: subprocess.Popen[str]) -> None:
    """Its whole process group, as nobody would ask it to end."""
    os.killpg(fleet.pid, signal.SIGKILL)
    fleet.wait()


@dataclass(slots=True)
class Heard:
    """``first_s``: to the first token, the wake included; ``wake_s``: of the wake alone."""

    first_s: float = 0.0
    wake_s: float = 0.0
    kv: str = ""
    """``hit=1792 of 1834 tier=host``, or nothing."""
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.words)


def ask(
    client: openai.OpenAI, model: str, messages: list[Any], headers: Mapping[str, str], tokens: int
) -> Heard:
    """Read line by line: what the fleet tells is in a header or, after a longer wait, a comment."""
    began = time.perf_counter()
    heard = Heard()
    with client.chat.completions.with_streaming_response.create(
        model=model,
        messages=messages,
        temperature=0,
        max_tokens=tokens,
        stream=True,
        extra_headers=headers,
    ) as response:
        heard.wake_s = float(response.headers.get("x-torpor-wake-ms", 0)) / 1000
        heard.kv = response.headers.get("x-torpor-kv", "")
        for line in response.iter_lines():
            if told := re.match(r": torpor .*wake_ms=(\d+)", line):
                heard.wake_s = float(told[1]) / 1000
            elif told := re.match(r": torpor kv (.*)", line):
                heard.kv = told[1]
            elif line.startswith("data: {") and (text := _spoken(line)):
                heard.first_s = heard.first_s or time.perf_counter() - began
                heard.words.append(text)
    return heard


def _spoken(line: str) -> str:
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return choices[0]["delta"].get("content") or "" if choices else ""


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
