"""The measurements, each with the engine asked directly and through the controller by turns.

Differences and ratios between the two sides of one run mean more than the figures themselves:
whatever else runs on the machine meets both sides alike. Measures come round by round: those of
one name and labels belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from statistics import quantiles
from typing import Literal

from benchmarks.gateway.load import Heard, LoadOrder
from benchmarks.gateway.options import Options
from benchmarks.gateway.stand import Stand, a_stand
from benchmarks.result import Measure

Progress = Callable[[str], None]

_SIDES = ("direct", "gateway")
_PERCENTILES = {"median": 50, "p95": 95, "p99": 99}
"""Of the requests of one round."""
_MEMORY_STEPS = 10


def measures(options: Options, progress: Progress) -> Iterator[Measure]:
    """As they come, so that an interrupted run keeps what it has."""
    with a_stand(options) as stand:
        progress("warming up")
        stand.ask(LoadOrder((stand.gateway,), 16, requests=options.warm_up))
        if options.requests:
            yield from _sequential(stand, options, progress)
        for connections in options.connections:
            yield from _throughput(stand, options, connections, progress)
        for streams in options.streams:
            yield from _streams(stand, options, streams, progress)
        if options.memory_requests:
            yield from _memory(stand, options, progress)
    if options.workers:
        yield from _scaling(options, progress)


def _sequential(stand: Stand, options: Options, progress: Progress) -> Iterator[Measure]:
    both = (stand.direct, stand.gateway)
    pairs = max(2, options.requests // options.rounds)
    for number in range(options.rounds):
        progress(f"{pairs} pairs, one at a time, round {number + 1} of {options.rounds}")
        heard = stand.ask(LoadOrder(both, requests=pairs))
        yield from _latencies("answer", [one.answers_s for one in heard])
        heard = stand.ask(LoadOrder(both, requests=max(2, pairs // 10), events=2))
        yield from _latencies("first_event", [one.first_s for one in heard])


def _latencies(what: str, seconds: Sequence[Sequence[float]]) -> Iterator[Measure]:
    direct, gateway = seconds
    added = [b - a for a, b in zip(direct, gateway, strict=True)]
    for side, series in (("direct", direct), ("gateway", gateway), ("added", added)):
        cuts = quantiles(series, n=100)
        for name, percent in _PERCENTILES.items():
            labels = {"what": what, "side": side, "percentile": name}
            yield _measure("latency", "s", [cuts[percent - 1]], labels, "lower")


def _throughput(
    stand: Stand, options: Options, connections: int, progress: Progress
) -> Iterator[Measure]:
    rates: dict[str, list[float]] = {side: [] for side in _SIDES}
    cpu_of_1000_s: list[float] = []
    for number in range(options.rounds):
        progress(f"{connections} connections, round {number + 1} of {options.rounds}")
        for side, target in zip(_SIDES, (stand.direct, stand.gateway), strict=True):
            order = LoadOrder((target,), connections, seconds=options.round_s)
            heard, cpu_s = stand.ask_one(order)
            rates[side].append(len(heard.answers_s) / heard.took_s)
            if side == "gateway":
                cpu_of_1000_s.append(cpu_s * 1e3 / len(heard.answers_s))
    labels = {"connections": str(connections)}
    for side, values in rates.items():
        yield _measure("requests", "1/s", values, labels | {"side": side}, "higher")
    yield _measure("cpu_per_1000_requests", "s", cpu_of_1000_s, labels, "lower")


def _scaling(options: Options, progress: Progress) -> Iterator[Measure]:
    """Requests/s with so many carriers, by turns, and against the first of those numbers."""
    rates: dict[int, list[float]] = {workers: [] for workers in options.workers}
    cpu_of_1000_s: dict[int, list[float]] = {workers: [] for workers in options.workers}
    connections = options.workers_connections
    with ExitStack() as stack:
        stands = {n: stack.enter_context(a_stand(options, n)) for n in options.workers}
        for stand in stands.values():
            stand.ask(LoadOrder((stand.gateway,), connections, requests=options.warm_up))
        for number in range(options.rounds):
            progress(f"{options.workers} workers, round {number + 1} of {options.rounds}")
            for workers, stand in stands.items():
                order = LoadOrder((stand.gateway,), connections, seconds=options.round_s)
                heard, cpu_s = stand.ask_one(order)
                rates[workers].append(len(heard.answers_s) / heard.took_s)
                cpu_of_1000_s[workers].append(cpu_s * 1e3 / len(heard.answers_s))
    base = rates[options.workers[0]]
    for workers, values in rates.items():
        labels = {"workers": str(workers), "connections": str(connections)}
        ratios = [value / first for value, first in zip(values, base, strict=True)]
        yield _measure("requests_by_workers", "1/s", values, labels, "higher")
        yield _measure("requests_ratio", "ratio", ratios, labels, "higher")
        yield _measure("cpu_by_workers", "s", cpu_of_1000_s[workers], labels, "lower")


def _streams(stand: Stand, options: Options, streams: int, progress: Progress) -> Iterator[Measure]:
    cpu_us: list[float] = []
    first_s: dict[str, list[float]] = {side: [] for side in _SIDES}
    together: list[float] = []
    for number in range(options.rounds):
        progress(f"{streams} streams, round {number + 1} of {options.rounds}")
        for side, target in zip(_SIDES, (stand.direct, stand.gateway), strict=True):
            order = LoadOrder((target,), streams, requests=streams, events=options.events)
            heard, cpu_s = stand.ask_one(order)
            first_s[side].append(_median(heard.first_s))
            if side == "gateway":
                cpu_us.append(cpu_s * 1e6 / heard.events)
                together.append(_events_a_read(heard))
    labels = {"streams": str(streams)}
    for side, values in first_s.items():
        yield _measure("first_event", "s", values, labels | {"side": side}, "lower")
    yield _measure("cpu_per_event", "us", cpu_us, labels, "lower")
    yield _measure("events_per_read", "count", together, labels, None)


def _events_a_read(heard: Heard) -> float:
    """Above 1 events coalesced (the end of a stream may come with the last event or alone)."""
    return heard.events / heard.reads


def _memory(stand: Stand, options: Options, progress: Progress) -> Iterator[Measure]:
    sizes = [stand.controller.rss_bytes()]
    step = options.memory_requests // _MEMORY_STEPS
    for number in range(_MEMORY_STEPS):
        progress(f"memory after {number * step} requests")
        stand.ask(LoadOrder((stand.gateway,), 64, requests=step))
        sizes.append(stand.controller.rss_bytes())
    labels = {"requests": str(step * _MEMORY_STEPS)}
    yield _measure("rss", "bytes", sizes, labels, "lower")
    yield _measure("rss_growth", "bytes", [sizes[-1] - sizes[0]], labels, "lower")


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _measure(
    name: str,
    unit: str,
    values: Sequence[float],
    labels: dict[str, str],
    better: Literal["lower", "higher"] | None,
) -> Measure:
    return Measure(name=name, unit=unit, values=tuple(values), labels=labels, better=better)
