"""First tokens of long prefixes: undisturbed, restored, recomputed.

A repeat: prompts of every length that nobody has seen (*recomputed*), the same ones again
(*undisturbed*: the engine's own prefix cache); then sleeps, a killed engine, a restart of
everything, after each of which the prompts are asked again (*restored*), in turns with others of
the same length that nobody has seen (*recomputed*). The model is brought back by an order and
asked one short prompt before, so no first token has a wake in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.kv.asking import Answer, Asker, Prompt, Prompts, client_of
from benchmarks.kv.disturbing import AFTER, RESTARTED, bring_back, disturb
from benchmarks.kv.fleets import arranged
from benchmarks.kv.options import Options
from benchmarks.kv.ratios import AWAKE, NAME, RECOMPUTED, RESTORED, UNDISTURBED, ratios
from benchmarks.result import Measure
from benchmarks.running import BenchError, Run
from benchmarks.wake.own_fleet import own_fleet
from controller.client import FleetClient
from controller.settings import Settings

_WARM_UP_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Fleet:
    client: FleetClient
    asker: Asker
    supervisor: int


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt whose KV lies in the tier, and the undisturbed answer to it."""

    prompt: Prompt
    answer: Answer


class FirstTokens:
    def __init__(self, run: Run, options: Options, settings: Settings) -> None:
        self._run = run
        self._options = options
        self._settings = settings
        self._model = settings.models[0].engine.model
        self._prompts = Prompts(run.seed or 0)

    def measure(self) -> None:
        """Raises BenchError; what was measured before it stays in the run."""
        known: list[Known] = []
        with TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as kept:
            for number in range(self._options.repeats + 1):
                with self._fleet(Path(kept)) as fleet:
                    if number:
                        self._again(fleet, known, RESTARTED)
                    if number < self._options.repeats:
                        self._run.say(f"repeat {number + 1} of {self._options.repeats}")
                        known = self._repeat(fleet, is_started=number > 0)
        self._run.add(*ratios(self._run.measures))

    def _repeat(self, fleet: Fleet, *, is_started: bool) -> list[Known]:
        if not is_started:
            bring_back(fleet.client, self._model)
            self._room(fleet)
        fleet.asker.ask(self._prompts.fresh(_WARM_UP_TOKENS))
        known = [self._learn(fleet, length) for length in self._options.lengths]
        for after in AFTER:
            disturb(fleet.client, fleet.supervisor, self._model, after)
            self._again(fleet, known, after)
        return known

    def _room(self, fleet: Fleet) -> None:
        room = fleet.client.model(self._model).max_model_len or 0
        if max(self._options.lengths) >= room:
            raise BenchError(f"{self._model} has room for {room} tokens: give shorter --lengths")

    def _learn(self, fleet: Fleet, length: int) -> Known:
        prompt = self._prompts.fresh(length)
        self._add(fleet.asker.ask(prompt), AWAKE, length, RECOMPUTED)
        undisturbed = fleet.asker.ask(prompt)
        self._add(undisturbed, AWAKE, length, UNDISTURBED)
        return Known(prompt, undisturbed)

    def _again(self, fleet: Fleet, known: list[Known], after: str) -> None:
        self._run.say(f"  {after}")
        back_s = bring_back(fleet.client, self._model)
        self._seconds("wake", back_s, after=after)
        fleet.asker.ask(self._prompts.fresh(_WARM_UP_TOKENS))
        for each in known:
            length = len(each.prompt)
            restored = fleet.asker.ask(each.prompt)
            self._add(restored, after, length, RESTORED)
            self._found(restored, after, length)
            self._same(restored, each.answer, after)
            self._add(fleet.asker.ask(self._prompts.fresh(length)), after, length, RECOMPUTED)

    def _add(self, answer: Answer, after: str, length: int, kv: str) -> None:
        if kv == RECOMPUTED and answer.found.hit:
            raise BenchError(f"{answer.found.hit} tokens of a fresh prompt were found")
        self._seconds(NAME, answer.first_s, after=after, tokens=str(length), kv=kv)

    def _found(self, answer: Answer, after: str, length: int) -> None:
        labels = {"after": after, "tokens": str(length), "tier": answer.found.tier}
        self._put("found_tokens", "count", answer.found.hit, labels, "higher")

    def _same(self, answer: Answer, undisturbed: Answer, after: str) -> None:
        is_same = float(answer.text == undisturbed.text)
        self._put("same_answer", "ratio", is_same, {"after": after}, "higher")

    def _seconds(self, name: str, seconds: float, **labels: str) -> None:
        self._put(name, "s", seconds, labels, "lower")

    def _put(self, name: str, unit: str, value: float, labels: dict[str, str], better: str) -> None:
        self._run.add(
            Measure.model_validate(
                {
                    "name": name,
                    "unit": unit,
                    "values": (value,),
                    "labels": {"model": self._model, **labels},
                    "better": better,
                }
            )
        )

    @contextmanager
    def _fleet(self, kept: Path) -> Iterator[Fleet]:
        self._run.say("starting a fleet")
        with (
            own_fleet(self._settings, lambda told, place: arranged(told, place, kept)) as own,
            FleetClient(own.url) as client,
            closing(client_of(own.url)) as http,
        ):
            yield Fleet(client, Asker(http, self._model), own.process.pid)
