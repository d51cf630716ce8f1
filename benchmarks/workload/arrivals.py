"""Who asks what, and when: the requests of a scenario, the same for the same seed.

Each source of luck has dice of its own, so that changing the token distribution does not move
the arrivals.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from benchmarks.result import ResultError
from benchmarks.workload.scenario import (
    Bursty,
    Conversations,
    Diurnal,
    Poisson,
    Replay,
    Scenario,
    draw,
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request. ``prompt_tokens`` is the whole prompt, ``context_tokens`` the part of it that
    earlier turns of the conversation said."""

    number: int
    at_s: float
    model: str
    conversation: int
    turn: int
    context_tokens: int
    prompt_tokens: int
    answer_tokens: int


def arrivals(scenario: Scenario, seed: int) -> list[Arrival]:
    """Of the whole scenario, in order of time. Raises ResultError for a bad replay file."""
    if isinstance(scenario.arrivals, Replay):
        found = list(_replayed(scenario, scenario.arrivals, seed))
    else:
        dice = Random(f"conversations {seed}")
        found = [
            arrival
            for number, (at_s, model) in enumerate(_begins(scenario, seed))
            for arrival in _turns(scenario.conversations, number, at_s, model, dice)
        ]
    found = [arrival for arrival in found if arrival.at_s < scenario.duration_s]
    found.sort(key=lambda arrival: (arrival.at_s, arrival.conversation, arrival.turn))
    return [replace(arrival, number=number) for number, arrival in enumerate(found)]


def _begins(scenario: Scenario, seed: int) -> list[tuple[float, str]]:
    """When conversations begin, and with which model."""
    dice, length = Random(f"arrivals {seed}"), scenario.duration_s
    names, weights = list(scenario.shares), list(scenario.shares.values())
    match scenario.arrivals:
        case Poisson(per_s=per_s):
            times = list(_poisson(dice, per_s, 0.0, length))
        case Diurnal() as diurnal:
            times = list(_diurnal(dice, diurnal, length))
        case Bursty(together=True) as bursty:
            times = list(_bursty(dice, bursty, bursty.per_s, length))
        case Bursty() as bursty:
            return sorted(
                (at_s, name)
                for name, share in scenario.shares.items()
                for at_s in _bursty(Random(f"{name} {seed}"), bursty, bursty.per_s * share, length)
            )
        case Replay():
            raise AssertionError("a replay lists requests, not conversations")
    return [(at_s, dice.choices(names, weights)[0]) for at_s in times]


def _poisson(dice: Random, per_s: float, begins_s: float, ends_s: float) -> Iterator[float]:
    at_s = begins_s
    while (at_s := at_s + dice.expovariate(per_s)) < ends_s:
        yield at_s


def _bursty(dice: Random, bursty: Bursty, per_s: float, length: float) -> Iterator[float]:
    """Begins at a random point of its cycle."""
    cycle_s = bursty.on_s + bursty.off_s
    while_on = per_s * cycle_s / bursty.on_s
    begins_s = -dice.uniform(0.0, cycle_s)
    while begins_s < length:
        ends_s = begins_s + _lasts(dice, bursty.on_s, bursty.regular)
        yield from _poisson(dice, while_on, max(0.0, begins_s), min(ends_s, length))
        begins_s = ends_s + _lasts(dice, bursty.off_s, bursty.regular)


def _lasts(dice: Random, mean_s: float, is_regular: bool) -> float:
    return mean_s if is_regular else dice.expovariate(1 / mean_s)


def _diurnal(dice: Random, diurnal: Diurnal, length: float) -> Iterator[float]:
    """By thinning a stream at the peak's rate."""
    peak = diurnal.per_s * (1 + diurnal.swing)
    for at_s in _poisson(dice, peak, 0.0, length):
        angle = 2 * math.pi * (at_s - diurnal.peak_at_s) / diurnal.period_s
        if dice.random() * peak < diurnal.per_s * (1 + diurnal.swing * math.cos(angle)):
            yield at_s


def _turns(
    conversations: Conversations, number: int, at_s: float, model: str, dice: Random
) -> Iterator[Arrival]:
    context = 0
    for turn in range(max(1, round(draw(conversations.turns, dice)))):
        adds = max(1, round(draw(conversations.prompt_tokens, dice)))
        answer = max(1, round(draw(conversations.answer_tokens, dice)))
        yield Arrival(0, at_s, model, number, turn, context, context + adds, answer)
        context += adds + answer
        at_s += draw(conversations.think_s, dice)


def _replayed(scenario: Scenario, replay: Replay, seed: int) -> Iterator[Arrival]:
    path = Path(scenario.directory) / replay.file
    dice, models = Random(f"replay {seed}"), [model.name for model in scenario.models]
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines)):
                yield _of_row(row, number, models, scenario.conversations, dice)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError(f"{path}: line {number + 2}: {error}") from error


def _of_row(
    row: dict[str, str], number: int, models: Sequence[str], usual: Conversations, dice: Random
) -> Arrival:
    at_s, model = float(row["at_s"]), row["model"]
    if model not in models:
        raise ValueError(f"the scenario has no model {model!r}")
    if not 0 <= at_s < math.inf:
        raise ValueError("at_s must be ≥ 0")
    prompt = int(row.get("prompt_tokens") or round(draw(usual.prompt_tokens, dice)))
    answer = int(row.get("answer_tokens") or round(draw(usual.answer_tokens, dice)))
    return Arrival(number, at_s, model, number, 0, 0, max(1, prompt), max(1, answer))
