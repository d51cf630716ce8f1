"""The ladder that sets itself: against whoever knew how long nobody would ask."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.commands import SleepEngine, StartEngine
from controller.core.events import EngineStarted, LeaseReleased, TimePassed
from controller.core.idle import RUNGS
from controller.core.names import Depth, Footprint, Instant, Prices, RequestId
from controller.core.own_ladder import HOUR_S, Rest, as_ladder, rests, rungs
from tests.core.fleets import Story, spec

PRICES = st.floats(0, 1e6, allow_nan=False)
EXACT_ENOUGH = 1 + 1e-9


def resting(rents: list[float], backs: list[float]) -> list[Rest]:
    """Deeper holds no more."""
    depths = (Depth.AWAKE, *RUNGS)
    backs = [0.0, *backs]
    return [
        Rest(depth, rent, back, back)
        for depth, rent, back in zip(depths, sorted(rents, reverse=True), backs, strict=True)
    ]


def paid(among: list[Rest], idle_s: float) -> float:
    """Rent along the ladder, and coming back from where it ends."""
    at, since, cost = among[0], 0.0, 0.0
    for rung in rungs(among):
        if rung.after_s > idle_s:
            break
        cost += at.rent * (rung.after_s - since) / HOUR_S
        at, since = next(rest for rest in among if rest.depth is rung.depth), rung.after_s
    return cost + at.rent * (idle_s - since) / HOUR_S + at.back


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.lists(PRICES, min_size=5, max_size=5),
    st.lists(PRICES, min_size=4, max_size=4),
    st.floats(0, 1e6),
)
def test_never_more_than_twice_the_best_in_hindsight(
    rents: list[float], backs: list[float], idle_s: float
) -> None:
    at_rest = resting(rents, backs)
    moments = [idle_s, *[rung.after_s for rung in rungs(at_rest) if rung.after_s < 1e9]]
    for moment in moments:
        best = min(rest.rent * moment / HOUR_S + rest.back for rest in at_rest)
        assert paid(at_rest, moment) <= 2 * best * EXACT_ENOUGH + 1e-9


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(PRICES, min_size=5, max_size=5), st.lists(PRICES, min_size=4, max_size=4))
def test_it_only_goes_down(rents: list[float], backs: list[float]) -> None:
    found = rungs(resting(rents, backs))
    assert [rung.after_s for rung in found] == sorted(rung.after_s for rung in found)
    assert [rung.depth for rung in found] == sorted(rung.depth for rung in found)
    times = [seconds for seconds in vars_of(as_ladder(found)) if seconds < inf]
    assert len(times) == len(found)


def test_what_saves_next_to_nothing_is_never_worth_it() -> None:
    found = rungs(resting([5e-324, 0, 0, 0, 0], [1e6, 1e6, 1e6, 1e6]))
    assert found == []


def vars_of(ladder: Any) -> list[float]:
    return [ladder.kv_released_s, ladder.level_1_s, ladder.level_2_s, ladder.stopped_s]


GIB = 1024**3
HOURLY = Prices(device_gib_hour=1.0 * GIB, host_gib_hour=0.1 * GIB, waiting_hour=10.0)
"""By the byte, since the fleets of tests are so small."""


def test_a_replica_goes_down_when_staying_has_cost_as_much_as_coming_back() -> None:
    story = Story(spec("a", 10, deepest=Depth.LEVEL_2, sets_own_ladder=True), prices=HOURLY)
    story.raises("r", "a")
    story.feed(LeaseReleased(story.time, RequestId("r")))
    kv_released_s = 0.5 * 10 / (10 - 5)  # seconds to come back × price / what is saved an hour
    assert story.fleet.next_deadline() == story.at + kv_released_s
    [sleep] = story.feed(TimePassed(Instant(story.at + kv_released_s)))
    assert isinstance(sleep, SleepEngine)
    assert sleep.depth is Depth.KV_RELEASED
    told = story.fleet.story(story.fleet.replicas[sleep.replica].model)
    [line] = [line for line in told if line.what == "idle for 1.0 s, to KV_RELEASED"]
    assert "as dear as coming back from there (0.5 s of waiting)" in line.why


def test_what_was_measured_moves_the_ladder() -> None:
    story = Story(spec("a", 10, deepest=Depth.LEVEL_2, sets_own_ladder=True), prices=HOURLY)
    story.raises("r", "a")
    story.feed(LeaseReleased(story.time, RequestId("r")))
    story.feed(TimePassed(story.fleet.next_deadline()))
    story.answers("a#0", after=0.1)
    story.arrives("again", "a")
    story.answers("a#0", after=2.0)
    story.feed(LeaseReleased(story.time, RequestId("again")))
    assert story.fleet.next_deadline() == pytest.approx(story.at + 1.0 * 10 / (10 - 2))  # level 1


def test_what_resting_costs_at_each_depth() -> None:
    """Memory of every device and of the host once, by the hour; coming back by the wait."""
    held = {depth: Footprint(100 - 10 * depth, 5 * depth) for depth in Depth}
    prices = Prices(device_gib_hour=2.0 * GIB, host_gib_hour=3.0 * GIB, waiting_hour=7200.0)
    found = rests(prices, 4, Depth.LEVEL_1, held.__getitem__, lambda depth: 1.0 * depth)
    assert found == [
        Rest(Depth.AWAKE, 800.0, 0.0, 0.0),
        Rest(Depth.KV_RELEASED, 735.0, 2.0, 1.0),
        Rest(Depth.LEVEL_1, 670.0, 4.0, 2.0),
    ]


def test_what_a_depth_was_measured_to_hold_moves_the_ladder_at_once() -> None:
    """``Story`` works the ladder out again after each event, and compares."""
    story = Story(spec("a", 10, sets_own_ladder=True), prices=HOURLY)
    [start] = story.arrives("r", "a")
    assert isinstance(start, StartEngine)
    record = story.fleet.models[start.model]
    before = story.fleet.books.own_rungs(record)
    story.feed(EngineStarted(Instant(10.0), start.op, start.replica, Footprint(20)))
    assert story.fleet.books.own_rungs(record) != before
