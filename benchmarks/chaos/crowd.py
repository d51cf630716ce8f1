"""The clients: they record what a fleet in peace answers, then ask until told to stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

from benchmarks.chaos.asking import Asking, Fate, Told
from benchmarks.chaos.hearing import Trouble
from benchmarks.chaos.questions import Question, Said, agrees
from benchmarks.running import BenchError

_KEPT = 20
_RECORDED_TIMES = 2


@dataclass(slots=True)
class Tally:
    """What became of all requests."""

    fates: Counter[Fate] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    """Of attempts that were told to ask again."""
    asked_again: int = 0
    """Requests that needed more than one attempt and got their answer."""
    seconds: list[float] = field(default_factory=list)
    """Of the right ones, their waits and repetitions included."""
    bad: list[str] = field(default_factory=list)
    """The first few that were neither right nor refused, each in a sentence."""

    @property
    def requests(self) -> int:
        return self.fates.total()

    def enter(self, told: Told, known: Said) -> None:
        self.fates[told.fate] += 1
        self.codes.update(trouble.code for trouble in told.troubles if trouble.may_ask_again)
        if told.fate is Fate.RIGHT:
            self.asked_again += bool(told.troubles)
            self.seconds.append(told.seconds)
        elif told.fate is not Fate.REFUSED and len(self.bad) < _KEPT:
            self.bad.append(_sentence(told, known))


async def record(
    asking: Asking, questions: Sequence[Question], clients: int
) -> dict[Question, Said]:
    """What each is answered, alone and in company. Questions without a steady answer are left
    out: a batch of another shape may round otherwise, and that is nobody's fault."""
    alone = [await _answer(asking, question) for question in questions]
    steady = dict(zip(questions, alone, strict=True))
    gate = asyncio.Semaphore(clients)

    async def again(question: Question) -> Said:
        async with gate:
            return await _answer(asking, question)

    for _ in range(_RECORDED_TIMES):
        answers = await asyncio.gather(*(again(question) for question in questions))
        for question, said in zip(questions, answers, strict=True):
            if question in steady and not agrees(said, steady[question]):
                del steady[question]
    return steady


async def ask_on(
    asking: Asking,
    known: dict[Question, Said],
    clients: int,
    seed: int,
    is_enough: Callable[[], bool],
    tally: Tally,
) -> None:
    """Everybody asks one question after another until it is enough."""
    questions, numbers = list(known), count()

    async def client() -> None:
        while not is_enough():
            question = Random(f"{seed} {next(numbers)}").choice(questions)
            tally.enter(await asking.ask(question, known[question]), known[question])

    async with asyncio.TaskGroup() as crowd:
        for _ in range(clients):
            crowd.create_task(client())


async def _answer(asking: Asking, question: Question) -> Said:
    told = await asking.ask(question, None)
    if told.said is None:
        raise BenchError(f"{question.name}: no answer in peace: {_reasons(told.troubles)}")
    return told.said


def _sentence(told: Told, known: Said) -> str:
    what = f"{told.question.name} ({told.question.path}): {told.fate.value} after "
    what += f"{told.seconds:.1f} s"
    if told.fate is Fate.WRONG:
        return f"{what}: {told.said!r} instead of {known!r}"
    return f"{what}: {_reasons(told.troubles)}"


def _reasons(troubles: Sequence[Trouble]) -> str:
    return ", ".join(trouble.code for trouble in troubles)
