"""The simulator's stages and policies: small cases by hand, all that is shipped, the commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.costs import CostTable, ModelCosts
from benchmarks.result import Result, read
from benchmarks.running import BenchError
from benchmarks.simulate import journal_replay, recorded
from benchmarks.simulate.core_policy import no_sleep, torpor
from benchmarks.simulate.fifo_swap import FifoSwap
from benchmarks.simulate.playing import write_journal
from benchmarks.simulate.policies import POLICIES, chosen
from benchmarks.simulate.prices import Price, complete, price
from benchmarks.simulate.set_stage import TABLES, named_by_rank, on_own_hardware, table
from benchmarks.simulate.sizing import needed, one_each, packed, rate_met
from benchmarks.simulate.stage import Played, Stage, Work
from benchmarks.workload import scenario as scenarios
from benchmarks.workload.scenario import Objective
from benchmarks.workload.score import Outcome
from controller.core.names import Depth, Footprint, ModelName, ModelSpec
from controller.ports import NodeFound

SIZES = {
    Depth.AWAKE: Footprint(8, 0),
    Depth.KV_RELEASED: Footprint(6, 0),
    Depth.LEVEL_1: Footprint(1, 8),
    Depth.LEVEL_2: Footprint(1, 0),
}
PRICE = Price(
    start_s=10.0,
    stop_s=1.0,
    sleep_s=dict.fromkeys((Depth.KV_RELEASED, Depth.LEVEL_1, Depth.LEVEL_2), 2.0),
    wake_s={Depth.KV_RELEASED: 0.5, Depth.LEVEL_1: 3.0, Depth.LEVEL_2: 6.0},
    sizes=SIZES,
)
A, B, C = ModelName("a"), ModelName("b"), ModelName("c")


def stage(*asked: tuple[float, ModelName], devices: int = 1, serve_s: float = 5.0) -> Stage:
    """Devices of 10, of which a model takes 8; requests as (when, model)."""
    names = (A, B)
    works = tuple(
        Work(f"r{number}", at_s, model, 0.5, serve_s, 100.0)
        for number, (at_s, model) in enumerate(asked)
    )
    node = NodeFound("n0", tuple((str(i), 10) for i in range(devices)), 100)
    specs = tuple(ModelSpec(name, SIZES) for name in names)
    return Stage(specs, (node,), dict.fromkeys(names, PRICE), works, 60.0)


def waits(played: Played) -> list[float | None]:
    return [o.queue_s for o in sorted(played.outcomes, key=lambda o: o.request)]


# plain swapping, by hand


ABA = ((0.0, A), (1.0, B), (2.0, A))


def test_in_strict_order_a_swap_waits_for_responses_and_holds_back_the_rest() -> None:
    # a until 5, stop 6, start b 16, serve 21, stop 22, start a 32
    assert waits(FifoSwap(stage(*ABA), spread=0).play()) == [0, 15, 30]


def test_with_level_1_the_swap_is_a_sleep_and_a_wake() -> None:
    # a until 5, sleep 7, wake b 10, serve 15, sleep 17, wake a 20
    swapped = FifoSwap(stage(*ABA), rest=Depth.LEVEL_1, spread=0).play()
    assert waits(swapped) == [0, 9, 18]
    assert swapped.residency.wakes == {"level_1": 2}
    assert swapped.residency.demotions == {("level_1", "evicted"): 2}


def test_ready_first_serves_whose_model_is_awake_before_the_swap() -> None:
    # a until 5 and 7, sleep 9, wake b 12
    swapped = FifoSwap(stage(*ABA), rest=Depth.LEVEL_1, ready_first=True, spread=0).play()
    assert waits(swapped) == [0, 11, 0]


def test_where_all_fit_nobody_is_swapped() -> None:
    swapped = FifoSwap(stage(*ABA, devices=2), spread=0).play()
    assert waits(swapped) == [0, 0, 0]
    assert not swapped.residency.wakes


def test_without_room_on_the_host_a_model_is_stopped_instead() -> None:
    small = stage(*ABA)
    bare = NodeFound("n0", small.nodes[0].devices, host_bytes=4)
    swapped = FifoSwap(
        Stage(small.specs, (bare,), small.prices, small.works, 60.0),
        rest=Depth.LEVEL_1,
        spread=0,
    ).play()
    assert waits(swapped) == [0, 15, 30]


def test_who_waits_too_long_or_fits_nowhere_is_refused() -> None:
    small = stage(*ABA)
    hasty = tuple(Work(w.request, w.at_s, w.model, 0.5, 5.0, 6.0) for w in small.works)
    swapped = FifoSwap(Stage(small.specs, small.nodes, small.prices, hasty, 60.0), spread=0).play()
    assert sorted(o.shed for o in swapped.outcomes) == ["", "deadline_passed", "deadline_passed"]
    narrow = NodeFound("n0", (("0", 7),), 100)
    swapped = FifoSwap(Stage(small.specs, (narrow,), small.prices, hasty, 60.0), spread=0).play()
    assert {o.shed for o in swapped.outcomes} == {"never_fits"}


def test_swapping_is_for_one_device_a_model() -> None:
    wide = Stage((ModelSpec(A, SIZES, devices_per_replica=2),), stage().nodes, {A: PRICE}, (), 1.0)
    with pytest.raises(BenchError, match="one device"):
        FifoSwap(wide).play()


# the core


def test_the_core_wakes_from_level_1_and_without_sleep_it_starts() -> None:
    asked = stage(*((float(at), model) for at, model in enumerate((A, B) * 3)))
    woken, started = torpor(asked), no_sleep(asked)
    assert woken.residency.wakes["level_1"] >= 1
    assert woken.residency.wakes["stopped"] == 0
    assert set(started.residency.wakes) == {"stopped"}
    objective = Objective(ttft_s=9.0)
    assert len(woken.outcomes) == len(started.outcomes) == len(asked.works)
    assert sum(o.queue_s or 0 for o in woken.outcomes) < sum(
        o.queue_s or 0 for o in started.outcomes
    )
    assert needed(asked, torpor, objective, 4) == 2


def test_time_is_neither_lost_nor_counted_twice() -> None:
    played = torpor(stage(*ABA))
    by_lane: dict[str, list[tuple[float, float]]] = {}
    for span in played.spans:
        by_lane.setdefault(span.lane, []).append((span.begins_s, span.ends_s))
    assert set(by_lane) == {"a#0", "b#0"}
    for spans in by_lane.values():
        assert spans[0][0] == 0.0
        assert all(one[1] == other[0] for one, other in pairwise(spans))


def test_devices_are_counted_by_hand() -> None:
    assert one_each(stage()) == 2
    assert packed(stage()) == 2
    roomy = NodeFound("n0", (("0", 16),), 100)
    assert packed(Stage(stage().specs, (roomy,), stage().prices, (), 1.0)) == 1
    sizes = [len(node.devices) for node in stage().resized(19).nodes]
    assert sizes == [8, 8, 3]
    assert [node.host_bytes for node in stage().resized(19).nodes] == [800, 800, 300]


def test_policies_are_named() -> None:
    assert list(chosen("all")) == list(POLICIES)
    assert list(chosen("no-sleep, torpor")) == ["no-sleep", "torpor"]
    with pytest.raises(BenchError, match="no policy 'x'"):
        chosen("torpor,x")


# costs


def costs(gb: int, start_s: float, **more: float) -> ModelCosts:
    return ModelCosts.model_validate(
        {"weights_bytes": gb * 10**9, "kv_bytes": 10**9, "start_s": start_s, **more}
    )


def test_what_a_table_does_not_know_lies_between_what_it_knows() -> None:
    known = CostTable(
        source="s",
        machine="m",
        models={
            "small": costs(2, 20.0, wake_level_1_s=1.0, tokens_per_s=100.0),
            "large": costs(10, 60.0, wake_level_1_s=5.0, tokens_per_s=20.0),
        },
    )
    middle = price(known, "other", 6 * 10**9)
    assert middle.start_s == pytest.approx(40)
    assert middle.wake_s[Depth.LEVEL_1] == pytest.approx(3)
    assert middle.tokens_per_s == pytest.approx(1 / 0.03)  # 10 and 50 ms a token
    assert price(known, "other", 10**9).start_s == 20
    assert price(known, "other", 20 * 10**9).start_s == pytest.approx(120)
    assert price(known, "large", 10**9).start_s == 60
    grown = price(known, "other", 3 * 10**9).sizes
    small = complete(known.models["small"]).sizes
    more = grown[Depth.AWAKE].device_bytes - small[Depth.AWAKE].device_bytes
    assert more == grown[Depth.LEVEL_1].host_bytes - small[Depth.LEVEL_1].host_bytes == 10**9
    assert grown[Depth.LEVEL_2] == small[Depth.LEVEL_2]


def test_what_was_not_measured_is_not_taken_to_be_quicker() -> None:
    bare = complete(costs(1, 30.0))
    assert set(bare.wake_s.values()) == {30.0}
    some = complete(costs(1, 30.0, wake_level_2_s=8.0))
    assert some.wake_s[Depth.LEVEL_1] == some.wake_s[Depth.KV_RELEASED] == 8.0


def test_a_scenario_meets_a_fleet_by_name_or_by_rank() -> None:
    assert named_by_rank(["b", "a"], [A, B, C]) == {"b": B, "a": A}
    assert named_by_rank(["x", "y", "z"], [A, B]) == {"x": A, "y": B, "z": A}


@pytest.mark.parametrize("costs_name", sorted(path.stem for path in TABLES.glob("*.yaml")))
@pytest.mark.parametrize("name", scenarios.names())
def test_every_shipped_scenario_plays_at_every_shipped_price(name: str, costs_name: str) -> None:
    asked = scenarios.read(name).model_copy(update={"duration_s": 900.0})
    set_up = on_own_hardware(asked, table(costs_name), seed=3)
    for policy in POLICIES.values():
        played = policy(set_up)
        assert len(played.outcomes) == len(set_up.works) > 0
        assert any(not outcome.shed for outcome in played.outcomes)


def test_every_shipped_table_says_where_it_is_from() -> None:
    for path in TABLES.glob("*.yaml"):
        known = table(path.stem)
        assert re.search(r"vLLM's blog|llm-d", known.source)
        assert known.device_bytes
    assert "not measured" in table("h200").source


# journals


def test_a_journal_replays_to_the_same_grants(tmp_path: Path) -> None:
    asked = scenarios.read("cron-agents").model_copy(update={"duration_s": 900.0})
    known = table("a100")
    first = torpor(on_own_hardware(asked, known, seed=5))
    write_journal(first, tmp_path / "j.jsonl")
    again = torpor(journal_replay.stage_of(recorded.read(tmp_path / "j.jsonl"), known, seed=5))
    assert len(first.outcomes) > 100
    assert [(o.request, o.replica, o.shed) for o in again.outcomes] == [
        (o.request, o.replica, o.shed) for o in first.outcomes
    ]
    assert [o.queue_s for o in again.outcomes] == pytest.approx(
        [o.queue_s for o in first.outcomes], abs=1e-6
    )


def test_a_journal_knows_what_orders_took_and_how_long_leases_were_held(tmp_path: Path) -> None:
    write_journal(torpor(stage(*ABA)), tmp_path / "j.jsonl")
    past = recorded.read(tmp_path / "j.jsonl")
    set_up = journal_replay.stage_of(past, None, seed=0)
    assert [w.serve_s for w in set_up.works] == pytest.approx([5, 5, 5])
    assert set_up.prices[A].start_s == pytest.approx(10, rel=0.2)
    assert set_up.prices[A].start_s != 10
    assert set_up.prices[A].sizes == SIZES


# the command


def shown(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["simulate", *arguments])
    return found.exit_code, found.stderr


def simulated(tmp_path: Path, *arguments: str) -> Result:
    out = tmp_path / "r.json"
    code, said = shown(*arguments, "--out", str(out))
    assert code == 0, said
    return read(out)


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    asked = ("document-review", "--policy", "torpor,fifo-swap")
    result = simulated(tmp_path, *asked)
    assert result.kind == "simulate"
    by_policy = {
        m.labels["policy"]: m.values[0] for m in result.find("goodput", scenario="document-review")
    }
    assert by_policy["torpor"] > by_policy["fifo-swap"]
    (dedicated,) = result.find("goodput_share", policy="dedicated")
    assert dedicated.values[0] == 1.0
    needs = {m.labels["policy"]: m.values[0] for m in result.find("devices_needed")}
    assert needs["dedicated, one model each"] == 6
    assert set(result.timelines) == {"document-review torpor", "document-review fifo-swap"}
    assert result.measures == simulated(tmp_path, *asked).measures
    other = simulated(tmp_path, *asked, "--seed", "1", "--no-timelines")
    assert result.measures != other.measures
    assert not other.timelines


def test_a_journal_is_asked_of_another_configuration(tmp_path: Path) -> None:
    journal, config = tmp_path / "j.jsonl", tmp_path / "fleet.yaml"
    simulated(tmp_path, "document-review", "--no-gpus", "--write-journal", str(journal))
    names = [model.name for model in scenarios.read("document-review").models]
    entry = "- {name: %s, path: nowhere, kind: fake, footprint: {awake_gib: 0.1}}\n"
    models = "".join(entry % name for name in names)
    config.write_text(f"device: cpu\nmemory: {{device_budget_gib: 2}}\nmodels:\n{models}")
    result = simulated(tmp_path, "--journal", str(journal), "--config", str(config), "--no-gpus")
    (asked,) = result.find("requests")
    assert asked.values[0] > 1000
    assert not result.find("wakes", level="level_1")
    (share,) = result.find("goodput_share")
    assert share.values[0] > 0.9


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give a SCENARIO"),
        (["nope"], "neither a file nor a shipped scenario"),
        (["cron-agents", "--costs", "nope"], "neither a file nor a shipped table"),
        (["cron-agents", "--policy", "nope"], "no policy 'nope'"),
        (["--journal", "pyproject.toml"], "is no journal"),
        (["cron-agents", "--journal", "j"], "give a SCENARIO"),
    ],
)
def test_what_cannot_be_simulated_is_one_line(arguments: Sequence[str], reason: str) -> None:
    code, said = shown(*arguments)
    assert code == 2
    (line,) = said.strip().splitlines()
    assert reason in line


def test_a_journal_that_begins_in_the_middle_wants_a_configuration(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    write_journal(torpor(stage(*ABA)), journal)
    lines = journal.read_text().splitlines(keepends=True)
    asked = [line for line in lines if '"RequestArrived"' in line]
    journal.write_text("".join(asked))
    code, said = shown("--journal", str(journal))
    assert code == 2
    assert "give --config" in said


def test_the_highest_rate_that_meets_the_objective_is_found_from_above() -> None:
    """Requests come together and are served one after another, 3 s each."""

    def at_rate(factor: float) -> Stage:
        return stage(*[(0.0, A)] * round(2 * factor))

    def one_by_one(asked: Stage) -> Played:
        served = [
            Outcome(work.request, work.model, work.at_s, ttft_s=3.0 * (number + 1))
            for number, work in enumerate(asked.works)
        ]
        return replace(torpor(asked), outcomes=served)

    def met(ttft_s: float, share: float = 1.0) -> float | None:
        return rate_met(at_rate, one_by_one, Objective(ttft_s=ttft_s, share=share))

    assert met(6.0) == 2 / 60.0
    assert met(30.0) == 10 / 60.0
    assert met(15.0, share=0.5) == 10 / 60.0


def test_no_rate_meets_what_nobody_can() -> None:
    def at_rate(factor: float) -> Stage:
        return stage(*[(0.0, A)] * max(1, round(factor)))

    assert rate_met(at_rate, torpor, Objective(ttft_s=0.001, share=1.0)) is None


def test_the_command_finds_rates_where_arrivals_have_one(tmp_path: Path) -> None:
    asked = ("laptop-bursts", "--share", "0.5", "--no-gpus", "--no-timelines", "--rates")
    result = simulated(tmp_path, *asked, "--policy", "fifo-sleep,fifo-swap")
    (met,) = result.find("rate_met", policy="fifo-sleep")
    (asked_for,) = result.find("requests", policy="fifo-sleep")
    assert met.values[0] > asked_for.values[0] / 600
    assert not result.find("rate_met", policy="fifo-swap")
    assert any(note.startswith("fifo-swap: 50% is met at no rate") for note in result.notes)
