"""The requests of one load, each sent when it is due, while the fleet's events are followed.

In order of arrival (``turns``), a request is sent when it is due and the one before it was
granted, or refused; its time runs meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from benchmarks.load.client import Clock, ask, body
from benchmarks.load.watching import watch
from benchmarks.workload.arrivals import Arrival
from benchmarks.workload.residency import Residency
from benchmarks.workload.score import Outcome
from controller.core.names import ModelName

_ANSWER_S = 600.0
"""A request that was granted and takes longer is given up."""
_CONNECT_S = 10.0
_TOO_LATE = "deadline_passed"


@dataclass(slots=True)
class Load:
    """One load while it runs."""

    arrivals: Sequence[Arrival]
    named: dict[str, ModelName]
    most_tokens: dict[str, int | None]
    max_wait_s: float
    seed: int
    residency: Residency
    outcomes: list[Outcome] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    turns: asyncio.Lock | None = None
    """Held from before a request is sent until it was granted; who asks first has it first."""


async def run_load(load_: Load, url: str, key: str | None) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()

    def clock() -> float:
        return loop.time() - began

    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=load_.max_wait_s + _ANSWER_S, sock_connect=_CONNECT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        url, headers=headers, timeout=timeout, connector=connector
    ) as http:
        ready = asyncio.Event()
        watching = asyncio.create_task(watch(http, load_.residency, clock, ready))
        greeted = asyncio.create_task(ready.wait())
        await asyncio.wait({watching, greeted}, return_when=asyncio.FIRST_COMPLETED)
        greeted.cancel()
        began = loop.time()
        try:
            await send_all(load_, http, clock)
        finally:
            load_.ended_s = clock()
            watching.cancel()
            with suppress(asyncio.CancelledError, aiohttp.ClientError):
                await watching


async def send_all(load_: Load, http: aiohttp.ClientSession, clock: Clock) -> None:
    """Each when it is due, however many are still being answered."""
    async with asyncio.TaskGroup() as requests:
        for arrival in load_.arrivals:
            await asyncio.sleep(max(0.0, arrival.at_s - clock()))
            load_.late_s.append(clock() - arrival.at_s)
            requests.create_task(_one(load_, http, arrival, clock))


async def _one(load_: Load, http: aiohttp.ClientSession, arrival: Arrival, clock: Clock) -> None:
    model = load_.named[arrival.model]
    asked = body(arrival, model, load_.most_tokens.get(model), load_.seed)
    if load_.turns is None:
        outcome = await ask(http, arrival, asked, load_.max_wait_s, clock)
    else:
        outcome = await _in_its_turn(load_.turns, load_.max_wait_s, http, arrival, asked, clock)
    load_.outcomes.append(outcome)


async def _in_its_turn(
    turns: asyncio.Lock,
    max_wait_s: float,
    http: aiohttp.ClientSession,
    arrival: Arrival,
    asked: dict[str, Any],
    clock: Clock,
) -> Outcome:
    """The fleet itself refuses nobody for waiting too long: who is not granted in time leaves."""
    turn = ExitStack()

    def granted() -> None:
        turn.close()
        if not limit.expired():
            limit.reschedule(None)

    try:
        async with asyncio.timeout(arrival.at_s + max_wait_s - clock()) as limit:
            await turns.acquire()
            turn.callback(turns.release)
            held_s = clock() - arrival.at_s
            outcome = await ask(http, arrival, asked, _ANSWER_S, clock, granted)
    except TimeoutError:
        return Outcome(f"r{arrival.number}", str(asked["model"]), arrival.at_s, shed=_TOO_LATE)
    finally:
        turn.close()
    return replace(outcome, queue_s=None if outcome.queue_s is None else outcome.queue_s + held_s)
