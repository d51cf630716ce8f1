"""One conversation at a time that hibernates, and its next turn.

A repeat: a first turn (*computed*); the conversation hibernates, the model sleeps and wakes, so
that its device has forgotten too, and the prompt comes again (*rehydrated*: from the durable tier),
and at once a third time (*undisturbed*: from the engine's own cache). Once more, with the order to
rehydrate before the turn (*ordered*: from the host tier). The model is brought back by an order and
asked one short prompt before, so no first token has a wake in it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx

from benchmarks.conversations.options import Options
from benchmarks.kv.asking import Answer, Asker, Prompts
from benchmarks.kv.disturbing import bring_back, disturb, done
from benchmarks.result import Measure
from benchmarks.running import BenchError, Run
from controller.client import FleetClient

COMPUTED, UNDISTURBED, REHYDRATED, ORDERED = "computed", "undisturbed", "rehydrated", "ordered"
_WARM_UP_TOKENS = 256
_ASLEEP = "level_1"


@dataclass(frozen=True, slots=True)
class Fleet:
    client: FleetClient
    http: httpx.Client
    supervisor: int = 0


class Turns:
    def __init__(self, run: Run, options: Options, fleet: Fleet, model: str) -> None:
        self._run = run
        self._options = options
        self._fleet = fleet
        self._model = model
        self._asker = Asker(fleet.http, model)
        self._prompts = Prompts(run.seed or 0)

    def measure(self) -> None:
        """Raises BenchError, FleetError; what was measured before it stays in the run."""
        bring_back(self._fleet.client, self._model)
        self._asker.ask(self._prompts.fresh(_WARM_UP_TOKENS))
        for number in range(self._options.repeats):
            self._run.say(f"repeat {number + 1} of {self._options.repeats}")
            self._repeat(f"conversation-{number}")

    def _repeat(self, id: str) -> None:
        prompt = self._prompts.fresh(self._options.tokens)

        def turn(kv: str) -> Answer:
            answer = self._asker.ask(prompt, conversation=id)
            self._add("first_token", "s", answer.first_s, kv=kv, tier=answer.found.tier)
            return answer

        turn(COMPUTED)
        self._hibernate(id)
        self._compare(turn(REHYDRATED), turn(UNDISTURBED), REHYDRATED)
        self._hibernate(id)
        ordered = done(self._fleet.client.conversations.rehydrate(id))
        self._add("rehydrate", "s", ordered.seconds)
        self._compare(turn(ORDERED), turn(UNDISTURBED), ORDERED)

    def _hibernate(self, id: str) -> None:
        """And its engine forgets what lies on the device."""
        conversations = self._fleet.client.conversations
        began = time.perf_counter()
        conversations.hibernate(id, wait=False)
        self._add("hibernate_answer", "ms", 1000 * (time.perf_counter() - began))
        done(conversations.hibernate(id))
        self._add("hibernate", "s", time.perf_counter() - began)
        disturb(self._fleet.client, self._fleet.supervisor, self._model, _ASLEEP)
        bring_back(self._fleet.client, self._model)
        self._asker.ask(self._prompts.fresh(_WARM_UP_TOKENS))

    def _compare(self, answer: Answer, undisturbed: Answer, kv: str) -> None:
        if not answer.found.hit:
            raise BenchError(f"nothing was found of a conversation's {self._options.tokens} tokens")
        added_s = answer.first_s - undisturbed.first_s
        self._add("added_to_first_token", "s", added_s, kv=kv)
        self._add("found_tokens", "count", answer.found.hit, kv=kv, tier=answer.found.tier)
        self._add("same_answer", "ratio", float(answer.text == undisturbed.text), kv=kv)

    def _add(self, name: str, unit: str, value: float, **labels: str) -> None:
        better = "higher" if name in ("found_tokens", "same_answer") else "lower"
        told = {"model": self._model, "tokens": str(self._options.tokens), **labels}
        measure = {"name": name, "unit": unit, "values": (value,), "labels": told}
        self._run.add(Measure.model_validate(measure | {"better": better}))
