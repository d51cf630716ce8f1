"""What storing costs an awake model: its throughput beside that of a twin that keeps no KV.

The two take turns, each alone: the other one sleeps, and what it had stored was exported before.
*prompts*: long ones, for one token each; *answers*: long ones, to short prompts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.kv.asking import Asker, Prompts, client_of
from benchmarks.kv.disturbing import bring_back, done
from benchmarks.kv.fleets import arranged, only, twin_of
from benchmarks.result import Measure
from benchmarks.running import Run
from benchmarks.wake.options import LEVELS
from benchmarks.wake.own_fleet import own_fleet
from controller.client import FleetClient
from controller.settings import Settings

_AT_ONCE = 4
_ROUNDS = 4
"""In each repeat, so that neither side is always the first."""


@dataclass(frozen=True, slots=True)
class Work:
    name: str
    prompt: int
    answer: int

    @property
    def tokens(self) -> int:
        return _AT_ONCE * (self.prompt + self.answer)


WORK = (Work("prompts", 512, 1), Work("answers", 64, 96))


def measure(run: Run, settings: Settings, repeats: int) -> None:
    model = settings.models[0]
    sides = {"stored": model.engine.model, "not stored": twin_of(model).engine.model}
    prompts = Prompts(-1 - (run.seed or 0))
    with (
        TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as kept,
        own_fleet(
            only(settings, model, twin_of(model)),
            lambda told, place: arranged(told, place, Path(kept)),
        ) as own,
        FleetClient(own.url) as client,
        closing(client_of(own.url)) as http,
    ):
        order = list(sides)
        for number in range(_ROUNDS * repeats):
            run.say(f"the cost of storing: round {number + 1} of {_ROUNDS * repeats}")
            for side in order:
                bring_back(client, sides[side])
                _round(run, Asker(http, sides[side]), prompts, side, model.engine.model)
                done(client.sleep(sides[side], LEVELS["level_1"]))
            order.reverse()
    _costs(run)


def _round(run: Run, asker: Asker, prompts: Prompts, side: str, model: str) -> None:
    _burst(asker, prompts, WORK[0])
    for work in WORK:
        labels = {"model": model, "work": work.name, "kv": side}
        speed = work.tokens / _burst(asker, prompts, work)
        run.add(_higher("throughput", "1/s", speed, labels))


def _burst(asker: Asker, prompts: Prompts, work: Work) -> float:
    """Seconds until all are answered, so many at once."""
    asked = [prompts.fresh(work.prompt) for _ in range(_AT_ONCE)]
    began = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as hands:
        for answered in [hands.submit(asker.ask, prompt, work.answer) for prompt in asked]:
            answered.result()
    return time.perf_counter() - began


def _costs(run: Run) -> None:
    """By rounds: the share of throughput that storing takes."""
    told = {measure.key: measure for measure in run.measures if measure.name == "throughput"}
    for measure in told.values():
        if measure.labels["kv"] == "stored":
            labels = {**measure.labels, "kv": "not stored"}
            beside = told["throughput", tuple(sorted(labels.items()))]
            cost = costs(measure.values, beside.values)
            labels.pop("kv")
            run.add(
                Measure(
                    name="cost_of_storing", unit="ratio", values=cost, labels=labels, better="lower"
                )
            )


def costs(stored: Sequence[float], not_stored: Sequence[float]) -> tuple[float, ...]:
    return tuple(1 - with_it / without for with_it, without in zip(stored, not_stored, strict=True))


def _higher(name: str, unit: str, value: float, labels: dict[str, str]) -> Measure:
    return Measure(name=name, unit=unit, values=(value,), labels=labels, better="higher")
