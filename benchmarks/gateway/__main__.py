"""``python -m benchmarks.gateway``: a table on standard output."""

from __future__ import annotations

import argparse
import sys
from statistics import median

from benchmarks.gateway.measuring import measures
from benchmarks.gateway.options import Options
from benchmarks.result import Measure


def main() -> None:
    for measure in measures(_options(), lambda said: print(f"… {said}", file=sys.stderr)):
        print(_line(measure), flush=True)


def _options() -> Options:
    usual = Options()
    parser = argparse.ArgumentParser(description="What the controller adds to a request.")
    parser.add_argument("--engine", choices=("quick", "fake"), default=usual.engine)
    parser.add_argument("--connections", type=int, nargs="*", default=usual.connections)
    parser.add_argument("--streams", type=int, nargs="*", default=usual.streams)
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--round-s", type=float, default=usual.round_s)
    parser.add_argument("--sequential-pairs", type=int, default=usual.sequential_pairs)
    parser.add_argument("--events", type=int, default=usual.events)
    parser.add_argument("--event-interval-s", type=float, default=usual.event_interval_s)
    parser.add_argument("--memory-requests", type=int, default=usual.memory_requests)
    return Options(**vars(parser.parse_args()))


def _line(measure: Measure) -> str:
    labels = " ".join(f"{name}={value}" for name, value in measure.labels.items())
    low, high = min(measure.values), max(measure.values)
    spread = f"  ({low:,.6g} to {high:,.6g})" if len(measure.values) > 1 else ""
    return f"{measure.name:24}{labels:48}{median(measure.values):>14,.6g} {measure.unit}{spread}"


if __name__ == "__main__":
    main()
