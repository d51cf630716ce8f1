"""The faults: a seeded list of them, done one after another, sometimes two at a time.

A fault is over when the part does its work again: after a kill its successor, after a stop or a
slow stretch itself. What that work is depends on the part; an engine answers right, the
controller is ready, the KV server and the store answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

import psutil

from benchmarks.chaos.asking import Asking, Fate
from benchmarks.chaos.crowd import Tally
from benchmarks.chaos.faults import Deed, Kind, do
from benchmarks.chaos.grounds import Grounds
from benchmarks.chaos.health import LOOK_S, Health
from benchmarks.chaos.options import Options
from benchmarks.chaos.parts import OF_ENGINES
from benchmarks.chaos.questions import Question, Said
from benchmarks.running import Say

_AT_ONCE = 0.25
"""Share of the faults after which the next does not wait."""
_CONTROLLER_RESTS_S = 22.0
"""A supervisor gives up on a controller that dies again and again within a few seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``is_alone``: the next one waits until it is over."""

    kind: Kind
    model: str
    hold_s: float
    pause_s: float
    is_alone: bool


@dataclass(frozen=True, slots=True)
class Over:
    """``seconds``: to the recovery, from the kill or from the end of the stop; None: too long."""

    fault: Fault
    seconds: float | None


@dataclass(slots=True)
class Record:
    over: list[Over] = field(default_factory=list)
    rounds: int = 0


def faults(kinds: Mapping[Kind, Sequence[str]], options: Options, dice: Random) -> list[Fault]:
    """One round: each kind once, in a new order, on one of the models it may be done to."""
    return [
        Fault(
            kind,
            dice.choice(kinds[kind]),
            options.hold_s * dice.uniform(0.5, 1.5),
            dice.uniform(0.0, options.calm_s),
            dice.random() >= _AT_ONCE,
        )
        for kind in dice.sample(list(kinds), len(kinds))
    ]


class Storm:
    def __init__(
        self,
        grounds: Grounds,
        asking: Asking,
        health: Health,
        known: dict[Question, Said],
        options: Options,
        tally: Tally,
        say: Say,
    ) -> None:
        """Its own questions are entered into the tally too."""
        self.record = Record()
        self._grounds = grounds
        self._asking = asking
        self._health = health
        self._known = known
        self._options = options
        self._tally = tally
        self._say = say
        self._controller_rests_until = 0.0

    async def rage(self, kinds: Mapping[Kind, Sequence[str]]) -> None:
        """Round after round, until as many as were asked for are over, as many requests were
        answered, and every part has recovered."""
        async with asyncio.TaskGroup() as running:
            for number in count():
                dice = Random(f"storm {self._options.seed} {number}")
                for fault in faults(kinds, self._options, dice):
                    if self._is_enough():
                        return
                    one = running.create_task(self._one(fault))
                    if fault.is_alone:
                        await asyncio.wait({one})
                    await asyncio.sleep(fault.pause_s)
                self.record.rounds = number + 1
                await asyncio.sleep(LOOK_S)
                if self._is_enough():
                    return

    def _is_enough(self) -> bool:
        asked = self._options
        return self.record.rounds >= asked.rounds and self._tally.requests >= asked.requests

    async def _one(self, fault: Fault) -> None:
        if fault.kind.name == "kill-controller":
            await self._let_rest()
        try:
            async with asyncio.timeout(self._options.recovers_s + fault.hold_s):
                seconds: float | None = await self._done_and_over(fault)
        except TimeoutError:
            seconds = None
        self.record.over.append(Over(fault, seconds))

    async def _done_and_over(self, fault: Fault) -> float:
        """Seconds of the recovery."""
        kind, loop = fault.kind, asyncio.get_running_loop()
        victim = await self._victim(fault)
        self._say(f"{kind.name} {fault.model or ''} ({victim.pid})")
        await do(kind.deed, victim, fault.hold_s)
        began = loop.time()
        if kind.part in OF_ENGINES:
            await self._ask_one(fault.model)
        else:
            if kind.deed is Deed.KILL:
                await self._health.successor(kind.part, victim)
            await self._health.works(kind.part)
        return loop.time() - began

    async def _let_rest(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._controller_rests_until - loop.time()))
        self._controller_rests_until = loop.time() + _CONTROLLER_RESTS_S

    async def _victim(self, fault: Fault) -> psutil.Process:
        """An engine is taken as it is, asleep too; one that does not run is asked for first."""
        kind = fault.kind
        if kind.part in OF_ENGINES and not self._grounds.find(kind.part, fault.model):
            await self._ask_one(fault.model)
        return (await self._health.there(kind.part, fault.model))[0]

    async def _ask_one(self, model: str) -> None:
        """Until a question of that model is answered right."""
        question = next(question for question in self._known if question.model == model)
        while True:
            told = await self._asking.ask(question, self._known[question])
            self._tally.enter(told, self._known[question])
            if told.fate is Fate.RIGHT:
                return
            await asyncio.sleep(LOOK_S)
