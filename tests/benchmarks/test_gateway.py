"""The gateway benchmark end to end, as short as it goes: that it measures, not what."""

from __future__ import annotations

import pytest

from benchmarks.gateway.measuring import run
from benchmarks.gateway.options import Options
from benchmarks.result import Measure


@pytest.mark.parametrize("engine", ["quick", "fake"])
def test_both_sides_are_measured(engine: str) -> None:
    options = Options(
        engine=engine,  # type: ignore[arg-type]
        connections=(2,),
        rounds=2,
        round_s=0.05,
        sequential_pairs=5,
        streams=(2,),
        events=5,
        event_interval_s=0.001,
        memory_requests=100,
    )
    said: list[str] = []
    found = run(options, said.append)
    assert said
    assert {measure.name for measure in found} == {
        *("latency", "requests", "cpu_per_1000_requests", "first_event"),
        *("cpu_per_event", "events_per_read", "rss", "rss_growth"),
    }
    for side in ("direct", "gateway"):
        (rate,) = select(found, "requests", side=side)
        assert len(rate.values) == options.rounds
        assert min(rate.values) > 0


def select(found: list[Measure], name: str, **labels: str) -> list[Measure]:
    return [one for one in found if one.name == name and labels.items() <= one.labels.items()]
