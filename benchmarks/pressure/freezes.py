"""A model waits behind a long answer of another, which is frozen for it.

*One switch* is measured first, in the same run: both idle, one awake and the other asleep in its
place, a request to the sleeper, by turns; seconds from asking to the first token, so the one falls
asleep in them, the other wakes, passes its canary and reads the prompt. Then, again and again, the
first model has a long answer going and the second is asked: it has to wait for the maximum, and for
a switch. The long answer is read a little further, cut off, and compared with what the same prompt
is answered undisturbed.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from statistics import median

from benchmarks.kv.asking import Answer, Asker, Prompt, Prompts
from benchmarks.kv.disturbing import bring_back
from benchmarks.pressure.grounds import Grounds
from benchmarks.pressure.options import Options
from benchmarks.result import Measure
from benchmarks.running import BenchError, Run

_FROZEN = "frozen with"
_PROMPT_TOKENS = 32
_TOKENS = 8
_FIRST_PIECES = 4
_MORE_TOKENS = 32
_ROOM_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A long answer as far as it was read. ``length``: of what came before it was frozen, or a
    little more."""

    pieces: list[str]
    length: int

    def agrees(self, undisturbed: str) -> bool:
        """As far as both go. Raises BenchError if that is not beyond the freeze."""
        said = "".join(self.pieces)
        both = min(len(said), len(undisturbed))
        if both <= self.length:
            raise BenchError("nothing was read of the answer after it had been frozen")
        return said[:both] == undisturbed[:both]


class Freezes:
    def __init__(
        self, run: Run, options: Options, grounds: Grounds, running: str, waiting: str
    ) -> None:
        """``running``'s answers are frozen for ``waiting``."""
        self._run = run
        self._options = options
        self._client = grounds.client
        self._turn_s = grounds.turn_s
        self._running = running
        self._waiting = waiting
        self._askers = {name: Asker(grounds.http, name) for name in (running, waiting)}
        self._prompts = Prompts(run.seed or 0)

    def measure(self) -> None:
        """Raises BenchError, FleetError; what was measured before it stays in the run."""
        for model in (self._running, self._waiting):
            self._run.say(f"{model}: up, to take turns")
            bring_back(self._client, model)
        self._take_turns()
        switch_s = self._switch()
        for number in range(self._options.freezes):
            self._run.say(f"{self._running}: frozen, {number + 1} of {self._options.freezes}")
            self._one(switch_s)

    def _take_turns(self) -> None:
        """A first turn that is not counted, so that both have slept before."""
        for model in (self._running, self._waiting):
            self._have_turn(model)

    def _switch(self) -> float:
        """The median of those to the model that will wait. The other is awake and idle then."""
        switches: list[float] = []
        for number in range(self._options.freezes):
            self._run.say(f"switch {number + 1} of {self._options.freezes}")
            for model in (self._running, self._waiting):
                first_s = self._have_turn(model)
                self._add("switch", "s", first_s, to=model)
            switches.append(first_s)
            if self._client.model(self._running).state == "awake":
                raise BenchError("there is room for both models: lower memory.device_budget_gib")
        return median(switches)

    def _one(self, switch_s: float) -> None:
        prompt, maximum_s = self._prompts.fresh(_PROMPT_TOKENS), self._options.maximum_s
        first_s, interrupted = self._interrupted(prompt)
        self._add("first_token", "s", first_s)
        self._add("after_maximum", "s", first_s - maximum_s)
        self._add("of_maximum_and_switch", "ratio", first_s / (maximum_s + switch_s))
        longer = len(interrupted.pieces) + _MORE_TOKENS
        undisturbed = self._askers[self._running].ask(prompt, longer).text
        same = float(interrupted.agrees(undisturbed))
        self._add("same_answer", "ratio", same, better="higher")

    def _interrupted(self, prompt: Prompt) -> tuple[float, Interrupted]:
        """Seconds to the first token of the model that waits, and what the other said before,
        and some more."""
        self._have_turn(self._running)
        pieces = self._askers[self._running].pieces(prompt, self._most_tokens())
        with closing(pieces), ThreadPoolExecutor(1) as pool:
            said = [*islice(pieces, _FIRST_PIECES)]
            asked_at = time.time()
            other = pool.submit(self._ask, self._waiting)
            for piece in pieces:
                said.append(piece)
                if other.done():
                    break
            length = len("".join(said))
            said += islice(pieces, _MORE_TOKENS)
            first_s = other.result().first_s
        self._add("frozen_after", "s", self._frozen_at(asked_at) - asked_at)
        return first_s, Interrupted(said, length)

    def _most_tokens(self) -> int:
        """Of an answer that goes on until it is cut off."""
        room = self._client.model(self._running).max_model_len or _ROOM_TOKENS
        return room - _PROMPT_TOKENS - 1

    def _frozen_at(self, since: float) -> float:
        """By the controller's clock. Raises BenchError if it was not."""
        for step in self._client.why(self._running):
            if step["at"] >= since and _FROZEN in step["what"]:
                return float(step["at"])
        raise BenchError(f"{self._running} had answered before it was frozen: a smaller --maximum")

    def _have_turn(self, model: str) -> float:
        """Seconds to its first token. Returns when it may be made to go: it is not spared any more
        for having just been woken."""
        first_s = self._ask(model).first_s
        time.sleep(max(self._turn_s, first_s))
        return first_s

    def _ask(self, model: str) -> Answer:
        return self._askers[model].ask(self._prompts.fresh(_PROMPT_TOKENS), _TOKENS)

    def _add(
        self, name: str, unit: str, value: float, better: str = "lower", **labels: str
    ) -> None:
        told = labels or {"frozen": self._running, "waiting": self._waiting}
        measure = {"name": name, "unit": unit, "values": (value,), "labels": told}
        self._run.add(Measure.model_validate(measure | {"better": better}))
