"""Millions of simulated events, with faults, each kind of order, and all invariants.

Not among the tests by itself: ``make soak`` (``TORPOR_SOAK_EVENTS=1000000 pytest -s
tests/core/soak.py``) plays fleet after fleet, each with a seed of its own from
``TORPOR_SOAK_SEED`` on, until so many events were handled. Every command is carried out
by the simulated world, which raises on an order that no engine could follow; at the end of each
fleet everybody must have been answered, once and in time. ``check`` works out anew all that the
core keeps, and plans again: it takes several times as long as an event does, so by default it
runs after every event of each tenth fleet, and after every 50th of the others.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from random import Random

import pytest

from controller.core.events import NodeLost
from controller.core.fleet import Fleet
from controller.core.invariants import check
from controller.core.names import Eviction, Instant, Limits, NodeId
from controller.drivers.sim import Simulator
from tests.core.fleets import node
from tests.core.test_simulation import (
    FAULTS,
    ask_around,
    assert_settled,
    crowd,
    order_about,
    take_memory,
)

SECONDS = 1500.0
REQUESTS = 300
CHECKED_EVERY = 50
WHOLLY_CHECKED = 10
"""Of so many fleets one is checked after every event."""


@dataclass
class Sometimes:
    """Checks after every so many events."""

    every: int
    calls: int = 0
    checks: int = 0

    def __call__(self, fleet: Fleet) -> None:
        self.calls += 1
        if self.calls % self.every == 0:
            self.checks += 1
            check(fleet)


def fleet_of(seed: int, checked: Callable[[Fleet], None]) -> Simulator:
    dice = Random(f"soak {seed}")
    sim = crowd(
        seed,
        FAULTS,
        watcher=checked,
        prefetch_start=dice.random() < 0.5,
        minimum_awake_s=float(dice.choice([0, 2, 5])),
        maximum_wait_behind_s=float(dice.choice([0, 5, 30, 1e9])),
        eviction=dice.choice(list(Eviction)),
        most_sleepers=dice.choice([None, None, 1, 2]),
        tenant_limits=dice.choice([Limits(), Limits(running=4)]),
    )
    ask_around(sim, seed, REQUESTS, SECONDS, long=dice.choice([0.0, 0.2]))
    order_about(sim, seed, SECONDS)
    if dice.random() < 0.5:
        lost_s = dice.uniform(10.0, SECONDS)
        sim.schedule(NodeLost(Instant(lost_s), NodeId("m")))
        sim.schedule(node(lost_s + 50.0, "m", 2, 12, 8))
    if dice.random() < 0.3:
        sim.schedule(node(dice.uniform(10.0, SECONDS), "n", 2, 9, 10))
    if dice.random() < 0.5:
        take_memory(sim, seed, SECONDS)
    return sim


def soak(seed: int) -> tuple[int, int]:
    """Events and checks of one fleet. Raises with the seed."""
    watcher = Sometimes(1 if seed % WHOLLY_CHECKED == 0 else CHECKED_EVERY)
    sim = fleet_of(seed, watcher)
    try:
        sim.run()
        assert_settled(sim)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    return len(sim.journal), watcher.checks


def played(first: int) -> Iterator[tuple[int, int]]:
    """On as many processors as there are, in the order of the seeds."""
    seeds, at_once = count(first), os.cpu_count() or 1
    with ProcessPoolExecutor(at_once) as pool:
        while batch := list(islice(seeds, at_once * 8)):
            yield from pool.map(soak, batch)


def test_soak(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = int(os.environ.get("TORPOR_SOAK_EVENTS", "20000"))
    first = int(os.environ.get("TORPOR_SOAK_SEED", "0"))
    began, events, checks, fleets = time.monotonic(), 0, 0, 0
    for more, checked in played(first):
        events, checks, fleets = events + more, checks + checked, fleets + 1
        if events >= wanted:
            break
    took_s = time.monotonic() - began
    with capsys.disabled():
        sys.stdout.write(
            f"{events:,} events of {fleets:,} fleets (seeds {first} to {first + fleets - 1}), "
            f"{checks:,} checks, {took_s:.0f} s: {events / took_s:,.0f} events a second\n"
        )
