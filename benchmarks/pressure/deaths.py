"""Engines die, one after another, and the controller notices.

Each is awake and idle when one of its processes is killed. *Noticed* is what the controller says of
itself: the time, by its own clock, at which the story of the model says that the engine failed; it
and the kill are on the clock of one machine. Nobody asks meanwhile, so it is not a request that
finds it out. Only then the model is asked, until it is answered.

The kernel tells of a process's end when it has taken its memory back, so what it held is measured
beside it.
"""

from __future__ import annotations

import time

import psutil

from benchmarks.chaos.parts import Part, parts
from benchmarks.kv.asking import Asker, Prompt, Prompts
from benchmarks.kv.disturbing import bring_back
from benchmarks.pressure.grounds import Grounds
from benchmarks.result import Measure
from benchmarks.running import BenchError, Run

FAILED = "-> FAILED"
_NOTICED_S = 60.0
_LOOK_S = 0.05
_PROMPT_TOKENS = 32
_TOKENS = 8


class Deaths:
    def __init__(self, run: Run, grounds: Grounds, model: str) -> None:
        self._run = run
        self._grounds = grounds
        self._model = model
        self._asker = Asker(grounds.http, model)
        self._prompt: Prompt = Prompts(run.seed or 0).fresh(_PROMPT_TOKENS)

    def measure(self, kills: int) -> None:
        """Raises BenchError, FleetError; what was measured before it stays in the run."""
        bring_back(self._grounds.client, self._model)
        right = self._answer()
        for part in (Part.ENGINE, Part.CORE):
            if not parts(self._grounds.supervisor, part, self._model):
                continue
            for number in range(kills):
                self._run.say(f"{self._model}: {part.value} killed, {number + 1} of {kills}")
                self._one(part, right)

    def _one(self, part: Part, right: str) -> None:
        bring_back(self._grounds.client, self._model)
        victim = self._victim(part)
        held_bytes = victim.memory_info().rss
        killed_at = time.time()
        victim.kill()
        noticed_at = self._noticed(killed_at)
        is_right = self._answer() == right
        answered_at = time.time()
        self._add("noticed", "s", noticed_at - killed_at, part)
        self._add("held_when_killed", "bytes", held_bytes, part)
        self._add("answered_again", "s", answered_at - killed_at, part)
        self._add("right_after_death", "ratio", float(is_right), part)

    def _victim(self, part: Part) -> psutil.Process:
        """Of several processes below an engine the topmost: vLLM's EngineCore."""
        found = parts(self._grounds.supervisor, part, self._model)
        if not found:
            raise BenchError(f"no process of {self._model} was found: {part.value}")
        return found[0]

    def _noticed(self, killed_at: float) -> float:
        until = time.monotonic() + _NOTICED_S
        while time.monotonic() < until:
            for step in self._grounds.client.why(self._model):
                if step["at"] >= killed_at and FAILED in step["what"]:
                    return float(step["at"])
            time.sleep(_LOOK_S)
        raise BenchError(f"the fleet did not notice that {self._model} was killed")

    def _answer(self) -> str:
        return self._asker.ask(self._prompt, _TOKENS).text

    def _add(self, name: str, unit: str, value: float, part: Part) -> None:
        better = {"s": "lower", "ratio": "higher"}.get(unit)
        labels = {"model": self._model, "killed": part.value}
        self._run.add(
            Measure.model_validate(
                {"name": name, "unit": unit, "values": (value,), "labels": labels}
                | {"better": better}
            )
        )
