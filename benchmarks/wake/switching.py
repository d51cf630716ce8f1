"""From one model to another and back, asleep at each level in between, and by stop and cold start.

A switch counts from the order to the first token of the other model.
"""

from __future__ import annotations

from benchmarks.running import BenchError
from benchmarks.wake.measuring import Bench

_COLD = "cold start"


def measure(bench: Bench, first: str, second: str) -> None:
    """Leaves both stopped."""
    for model in (second, first):
        bench.run.say(f"{model}: up, to take turns")
        bench.subject.prepare(model)
    for level in bench.options.levels:
        try:
            _by_sleep(bench, first, second, level)
        except BenchError as error:
            bench.run.note(f"{first} and {second} cannot take turns at {level}: {error}")
            bench.subject.prepare(first)
    _by_cold_start(bench, first, second)
    for model in (first, second):
        bench.subject.stop(model)


def _by_sleep(bench: Bench, first: str, second: str, level: str) -> None:
    bench.run.say(f"{first} → {second} → {first}, {level} in between")
    # A first turn, not counted: it leaves the second one asleep at this level.
    bench.subject.switch(first, second, level)
    bench.subject.switch(second, first, level)
    for _ in range(bench.options.repeats):
        for source, to in ((first, second), (second, first)):
            seconds = bench.subject.switch(source, to, level)
            bench.seconds("switch", seconds, to=to, by=level)
    if _in_a_row(bench, first, second, level) == second:
        bench.subject.switch(second, first, level)


def _by_cold_start(bench: Bench, first: str, second: str) -> None:
    if bench.options.switches:
        bench.run.say(f"{first} → {second} → {first}, stopped in between")
        bench.subject.stop(second)
        _in_a_row(bench, first, second, None)


def _in_a_row(bench: Bench, first: str, second: str, level: str | None) -> str:
    """Who is awake at the end."""
    here, there, total_s = first, second, 0.0
    for _ in range(bench.options.switches):
        seconds = bench.subject.switch(here, there, level)
        total_s += seconds
        if level is None:
            bench.seconds("switch", seconds, to=there, by=_COLD)
        here, there = there, here
    if bench.options.switches:
        count, by = str(bench.options.switches), level or _COLD
        bench.seconds("switches_in_a_row", total_s, count=count, by=by)
    return here
