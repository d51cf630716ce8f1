"""What is asked of a fleet, and how its answers are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest
import yaml

from benchmarks.result import ResultError, Span
from benchmarks.workload import scenario as scenarios
from benchmarks.workload.arrivals import Arrival, arrivals
from benchmarks.workload.residency import Residency, counted, device_time
from benchmarks.workload.scenario import Objective, Scenario
from benchmarks.workload.score import Outcome, good_share, score

MODELS = [{"name": name, "weights_gib": 1} for name in "abc"]
PLAIN: Mapping[str, Any] = {
    "duration_s": 20_000,
    "models": MODELS,
    "arrivals": {"kind": "poisson", "per_s": 0.5},
    "objective": {"ttft_s": 1},
}


def scenario(**more: Any) -> Scenario:
    return Scenario.model_validate({**PLAIN, **more})


def written(tmp_path: Path, **more: Any) -> str:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, **more}))
    return str(path)


# arrivals


@pytest.mark.parametrize("name", scenarios.names())
def test_a_shipped_scenario_is_the_same_for_the_same_seed(name: str) -> None:
    asked = scenarios.read(name)
    first = arrivals(asked, 1)
    assert first == arrivals(asked, 1)
    assert first != arrivals(asked, 2)
    assert len(first) > 100
    assert [a.number for a in first] == list(range(len(first)))
    assert all(early.at_s <= late.at_s < asked.duration_s for early, late in pairwise(first))


def gaps(found: list[Arrival]) -> list[float]:
    return [late.at_s - early.at_s for early, late in pairwise(found)]


def test_poisson_arrivals_come_at_their_rate_and_without_memory() -> None:
    found = arrivals(scenario(), 0)
    assert len(found) == pytest.approx(10_000, abs=400)
    assert pstdev(gaps(found)) / mean(gaps(found)) == pytest.approx(1, abs=0.05)


def test_bursts_keep_the_mean_rate_and_are_far_from_even() -> None:
    bursty = {"kind": "bursty", "per_s": 0.5, "on_s": 20, "off_s": 180, "together": True}
    found = arrivals(scenario(arrivals=bursty), 0)
    assert len(found) == pytest.approx(10_000, rel=0.25)
    assert pstdev(gaps(found)) / mean(gaps(found)) > 2


def test_each_model_has_bursts_of_its_own_unless_they_come_together() -> None:
    bursty = {"kind": "bursty", "per_s": 0.5, "on_s": 20, "off_s": 180}

    def shared_minutes(together: bool) -> float:
        found = arrivals(scenario(skew=0, arrivals={**bursty, "together": together}), 0)
        minutes = Counter(minute for minute, _ in {(a.at_s // 20, a.model) for a in found})
        return mean(minutes.values())

    assert shared_minutes(True) > 2
    assert shared_minutes(False) < 1.5


def test_a_clock_leaves_the_time_between_empty() -> None:
    clock = {"kind": "bursty", "per_s": 1, "on_s": 30, "off_s": 270, "together": True}
    found = arrivals(scenario(arrivals={**clock, "regular": True}), 0)
    assert all(gap < 30 or gap >= 270 for gap in gaps(found))
    assert sum(gap >= 270 for gap in gaps(found)) == pytest.approx(20_000 / 300, abs=1)


def test_a_day_has_its_peak_and_its_trough() -> None:
    day = {"kind": "diurnal", "per_s": 0.5, "swing": 0.9, "period_s": 20_000, "peak_at_s": 5_000}
    times = [a.at_s for a in arrivals(scenario(arrivals=day), 0)]
    assert len(times) == pytest.approx(10_000, abs=400)
    peak = sum(4_000 <= at < 6_000 for at in times)
    trough = sum(14_000 <= at < 16_000 for at in times)
    # by the sine: 1.885 and 0.115 times the mean
    assert peak == pytest.approx(1_885, rel=0.1)
    assert trough == pytest.approx(115, rel=0.4)


def test_popularity_is_zipf_or_as_written() -> None:
    by_rank = Counter(a.model for a in arrivals(scenario(skew=1), 0))
    assert by_rank["a"] / by_rank["b"] == pytest.approx(2, rel=0.1)
    assert by_rank["a"] / by_rank["c"] == pytest.approx(3, rel=0.1)
    shared = [{**model, "share": share} for model, share in zip(MODELS, (1, 1, 8), strict=True)]
    assert scenario(models=shared).shares == {"a": 0.1, "b": 0.1, "c": 0.8}


def test_turns_follow_after_thinking_and_carry_what_was_said() -> None:
    talk = {"turns": 3, "think_s": 10, "prompt_tokens": 5, "answer_tokens": 7}
    found = [a for a in arrivals(scenario(conversations=talk), 0) if a.conversation == 0]
    assert [a.turn for a in found] == [0, 1, 2]
    assert [round(a.at_s - found[0].at_s, 6) for a in found] == [0, 10, 20]
    assert [a.context_tokens for a in found] == [0, 12, 24]
    assert [a.prompt_tokens for a in found] == [5, 17, 29]
    assert len({a.model for a in found}) == 1


def test_other_tokens_do_not_move_the_arrivals() -> None:
    longer = scenario(conversations={"prompt_tokens": {"low": 1, "high": 9}})
    assert [a.at_s for a in arrivals(longer, 0)] == [a.at_s for a in arrivals(scenario(), 0)]


def test_a_replay_asks_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "asked.csv").write_text("at_s,model,prompt_tokens\n7.5,b,30\n2,a,\n")
    replay = {"kind": "replay", "file": "asked.csv"}
    talk = {"prompt_tokens": 11, "answer_tokens": 4}
    asked = scenarios.read(written(tmp_path, arrivals=replay, conversations=talk))
    told = [(a.at_s, a.model, a.prompt_tokens, a.answer_tokens) for a in arrivals(asked, 0)]
    assert told == [(2.0, "a", 11, 4), (7.5, "b", 30, 4)]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("at_s,model\nsoon,a\n", "line 2: could not convert"),
        ("at_s,model\n1,a\n2,z\n", "line 3: the scenario has no model 'z'"),
        ("at_s,model\n-1,a\n", "line 2: at_s must be"),
        ("when,model\n1,a\n", "line 2: 'at_s'"),
    ],
)
def test_a_bad_replay_says_in_which_line(tmp_path: Path, lines: str, reason: str) -> None:
    (tmp_path / "asked.csv").write_text(lines)
    asked = scenarios.read(written(tmp_path, arrivals={"kind": "replay", "file": "asked.csv"}))
    with pytest.raises(ResultError, match=reason):
        arrivals(asked, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"duration_s": -1}, "duration_s: must be > 0"),
        ({"duration": 5}, "duration: unknown key"),
        ({"arrivals": {"kind": "poison", "per_s": 1}}, "arrivals: "),
        ({"arrivals": {"kind": "poisson"}}, "per_s: is required"),
        ({"models": []}, "models: must not be empty"),
        ({"models": [*MODELS, MODELS[0]]}, "two models have the same name"),
        ({"models": [*MODELS, {**MODELS[0], "name": "d", "share": 2}]}, "have a share or none"),
        ({"objective": {}}, "objective: an objective needs"),
        ({"conversations": {"turns": {"low": 3, "high": 2}}}, "high must be"),
    ],
)
def test_a_bad_scenario_is_one_line(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ResultError, match=reason) as refused:
        scenarios.read(written(tmp_path, **change))
    assert "\n" not in str(refused.value)


# scores


def answered(ttft_s: float, e2e_s: float) -> Outcome:
    return Outcome("r", "m", 0.0, 0.0, ttft_s, e2e_s)


def test_goodput_counts_who_was_served_within_every_limit() -> None:
    outcomes = [
        answered(1.0, 5.0),  # both, just
        answered(1.1, 5.0),  # the first token late
        answered(0.5, 5.1),  # the last token late
        Outcome("r", "m", 0.0, shed="backlog_full"),
    ]
    objective = Objective(ttft_s=1.0, e2e_s=5.0)
    assert good_share(outcomes, objective) == 0.25
    assert good_share(outcomes, Objective(ttft_s=1.0)) == 0.5
    found = {m.name: m.values for m in score(outcomes, objective, 10.0, {}) if len(m.labels) == 0}
    assert found["goodput"] == (0.1,)
    assert found["goodput_share"] == (0.25,)
    assert found["requests"] == (4,)
    assert found["shed"] == (1,)
    assert found["ttft"] == (1.0, 1.1, 0.5)


def test_a_series_too_long_keeps_its_percentiles() -> None:
    long = [answered(float(number), 1.0) for number in range(50_000)]
    (ttft,) = [m for m in score(long, Objective(ttft_s=1), 1.0, {}) if m.name == "ttft"]
    assert len(ttft.values) == 1_500
    assert (ttft.values[0], ttft.values[-1]) == (0, 49_999)
    assert ttft.values[len(ttft.values) // 2] == pytest.approx(25_000, rel=0.001)


def test_phase_changes_make_spans_counts_and_device_seconds() -> None:
    seen = Residency()
    seen.begin("m#0", "awake", 0.0)
    for at_s, after, why in (
        (10.0, "DRAINING", "to LEVEL_1: evicted for b"),
        (11.0, "DRAINED", "evicted for b"),
        (11.0, "FALLING_ASLEEP", "to LEVEL_1: evicted for b"),
        (12.0, "ASLEEP", ""),
        (20.0, "WAKING", "request r1"),
        (23.0, "AWAKE", ""),
        (30.0, "STOPPING", "idle"),
        (31.0, "COLD", ""),
    ):
        seen.changed("m#0", after, why, at_s)
    seen.end(40.0)
    states = [(span.state, span.ends_s - span.begins_s) for span in seen.spans]
    assert states == [
        *(("awake", 10.0), ("draining", 1.0), ("falling_asleep", 1.0), ("level_1", 8.0)),
        *(("waking", 3.0), ("awake", 7.0), ("stopping", 1.0), ("stopped", 9.0)),
    ]
    told = {(m.name, *m.labels.values()): m.values[0] for m in counted(seen, {})}
    assert told == {
        ("wakes", "level_1"): 1,
        ("demotions", "level_1", "evicted"): 1,
        ("demotions", "stopped", "idle"): 1,
    }
    seconds = {m.labels["residency"]: m.values[0] for m in device_time(seen.spans, {"m#0": 2}, {})}
    assert seconds == {"hbm": 38.0, "host": 16.0, "rising": 6.0, "cold": 20.0}
    assert seen.since(35.0) == (Span(lane="m#0", state="stopped", begins_s=0.0, ends_s=5.0),)
