"""A run of chaos: recorded answers, then the crowd and the storm, then what is left of it all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import aiohttp
import psutil

from benchmarks.chaos.asking import Asking, Fate
from benchmarks.chaos.crowd import ask_on, record
from benchmarks.chaos.faults import Kind, parse
from benchmarks.chaos.grounds import Grounds, own_grounds
from benchmarks.chaos.health import Health
from benchmarks.chaos.options import Options
from benchmarks.chaos.parts import OF_ENGINES, Part
from benchmarks.chaos.questions import Question, Said, questions
from benchmarks.chaos.seen import Seen
from benchmarks.chaos.storm import Storm
from benchmarks.chaos.verdict import tell
from benchmarks.chaos.witness import Memory, memory
from benchmarks.running import BenchError, Run, Say
from controller.settings import Settings

_LOOK_S = 2.0
_QUIET_S = 1.0


def measure(run: Run, options: Options, settings: Settings, wrong: list[str]) -> None:
    """On a fleet of its own. ``wrong`` is given what may not be, in sentences."""
    seen, grounds = Seen(), None
    try:
        with own_grounds(settings, options.keeps_store, options.kept) as grounds:
            asyncio.run(rage(grounds, options, run.say, seen))
    finally:
        if grounds is not None:
            wrong += tell(run, seen, grounds.witness)


async def rage(grounds: Grounds, options: Options, say: Say, seen: Seen) -> None:
    """``seen`` is true of as much as happened, however this ends."""
    async with _session(grounds) as http:
        asking, health = Asking(http, options), Health(grounds, http)
        asked = questions(grounds.models, grounds.embedding, options.each, options.seed)
        say(f"recording the answers to {len(asked)} questions")
        known = await record(asking, asked, options.clients)
        seen.left_out = len(asked) - len(known)
        if {question.model for question in known} != set(grounds.models):
            raise BenchError("a model has no steady answer to any question")
        seen.before = await _measured(grounds, health, asking, known)
        kinds = _possible(grounds, options)
        tally = seen.tally
        storm = Storm(grounds, asking, health, known, options, tally, say)
        seen.record = storm.record
        async with asyncio.TaskGroup() as both:
            watching = both.create_task(_watch(grounds, seen))
            raging = both.create_task(storm.rage(kinds))
            both.create_task(
                ask_on(asking, known, options.clients, options.seed, raging.done, tally)
            ).add_done_callback(lambda _: watching.cancel())
        seen.after = await _measured(grounds, health, asking, known)


def _possible(grounds: Grounds, options: Options) -> dict[Kind, Sequence[str]]:
    """Kinds of faults, with the models that they may be done to (one without a name where it is
    not done to an engine); without those for which this fleet has no part."""
    found: dict[Kind, Sequence[str]] = {}
    for kind in parse(options.faults):
        models = grounds.models if kind.part in OF_ENGINES else ("",)
        having = [model for model in models if grounds.find(kind.part, model)]
        if having:
            found[kind] = having
        elif options.faults:
            raise BenchError(f"{kind.name}: this fleet has no {kind.part.value}")
    return found


async def _measured(
    grounds: Grounds, health: Health, asking: Asking, known: dict[Question, Said]
) -> Memory:
    """In peace, each model asked once, in their order: the same ones are awake each time."""
    async with _keeping(grounds):
        await health.all_work()
    for model in grounds.models:
        question = next(question for question in known if question.model == model)
        told = await asking.ask(question, known[question])
        if told.fate is not Fate.RIGHT:
            raise BenchError(f"in peace, {question.name} was {told.fate.value}")
    await asyncio.sleep(_QUIET_S)
    return await asyncio.to_thread(memory, grounds.supervisor, _controller(grounds))


async def _watch(grounds: Grounds, seen: Seen) -> None:
    """Until cancelled."""
    async with _keeping(grounds):
        while True:
            controller = _controller(grounds)
            with suppress(psutil.NoSuchProcess):
                if controller is not None:
                    seen.controller_bytes.append(controller.memory_info().rss)
            if grounds.witness is not None:
                await asyncio.to_thread(grounds.witness.look)
            await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def _keeping(grounds: Grounds) -> AsyncIterator[None]:
    """A store that dies comes back meanwhile."""
    if grounds.store is None:
        yield
        return
    keeping = asyncio.create_task(grounds.store.keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})


def _controller(grounds: Grounds) -> psutil.Process | None:
    found = grounds.find(Part.CONTROLLER)
    return found[0] if found else None


def _session(grounds: Grounds) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(grounds.url, connector=aiohttp.TCPConnector(limit=0))
