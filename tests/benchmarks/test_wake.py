"""``torpor bench wake`` without an engine: what it reads, reckons, writes, and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from benchmarks.cli import bench
from benchmarks.costs import CostTable, MeasuredFootprint, ModelCosts
from benchmarks.costs import read as read_costs
from benchmarks.result import Measure, Result, ResultError
from benchmarks.running import BenchError, Run, measuring
from benchmarks.wake.asking import Asker, Unanswered
from benchmarks.wake.benchmark import pair
from benchmarks.wake.drift import drift
from benchmarks.wake.export import cost_table
from benchmarks.wake.notes import notes
from benchmarks.wake.options import Options, parse_against, parse_levels, parse_models
from benchmarks.wake.own_fleet import fake_settings, undisturbed
from benchmarks.wake.reports import parse, whole
from benchmarks.wake.stock import Stock, flags
from controller.core.names import Depth, Ladder
from workers.engine import EngineSpec

TABLE = CostTable(
    source="a blog",
    machine="a machine",
    models={
        "m": ModelCosts(
            weights_bytes=10,
            kv_bytes=20,
            start_s=3.5,
            sleep_s={"level_1": 0.5},
            wake_level_1_s=0.25,
            footprints={"awake": MeasuredFootprint(device_bytes=30, host_bytes=4)},
        )
    },
)


# cost tables


def test_a_cost_table_comes_back_from_its_file(tmp_path: Path) -> None:
    TABLE.write(tmp_path / "deep" / "costs.yaml")
    assert read_costs(tmp_path / "deep" / "costs.yaml") == TABLE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "parsing a flow node"),
        ("[]", "valid dictionary"),
        ("source: s\nmachine: m\nmodels: {m: {weights_bytes: -1}}", "models.m.weights_bytes"),
        ("source: s\nmachine: m\nmodels: {}\nspeed: 1", "speed"),
    ],
)
def test_what_is_no_cost_table_is_refused_with_its_place(
    tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "costs.yaml"
    file.write_text(text)
    with pytest.raises(ResultError, match=reason) as refused:
        read_costs(file)
    assert "\n" not in str(refused.value)


def test_no_file_is_a_result_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"none\.yaml"):
        read_costs(tmp_path / "none.yaml")


def result_of(*measures: tuple[str, tuple[float, ...], dict[str, str]]) -> Result:
    run = Run("wake", {}, say=lambda _: None)

    def benchmark(run: Run) -> None:
        for name, values, labels in measures:
            run.add(Measure(name=name, unit="s", values=values, labels=labels))

    return measuring(run, benchmark)


def test_what_was_measured_becomes_a_cost_table() -> None:
    m = {"model": "m"}
    level_2 = {**m, "level": "level_2"}
    result = result_of(
        ("start", (9.0, 11.0, 10.0), m),
        ("stop", (1.0,), m),
        ("sleep", (5.0,), {**level_2, "time": "first"}),
        ("sleep", (0.5, 0.7), {**level_2, "time": "later"}),
        ("sleep", (4.0,), {**m, "level": "level_1", "time": "first"}),
        ("wake", (2.0, 3.0), level_2),
        ("freed_by_kind", (100.0,), {**level_2, "kind": "weights"}),
        ("freed_by_kind", (50.0,), {**level_2, "kind": "packed"}),
        ("freed_by_kind", (1000.0,), {**level_2, "kind": "kv"}),
        ("held", (2000.0,), {**m, "at": "awake", "memory": "device"}),
        ("held", (800.0,), {**m, "at": "level_2", "memory": "device"}),
        ("held", (7.0,), {**m, "at": "level_2", "memory": "host"}),
    )
    costs = cost_table(result).models["m"]
    assert costs.start_s == 10.0
    assert costs.sleep_s == {"level_1": 4.0, "level_2": 0.6}
    assert (costs.wake_level_1_s, costs.wake_level_2_s) == (None, 2.5)
    assert (costs.weights_bytes, costs.kv_bytes) == (150, 1000)
    assert costs.footprints == {
        "awake": MeasuredFootprint(device_bytes=2000),
        "level_2": MeasuredFootprint(device_bytes=800, host_bytes=7),
    }


def test_bytes_that_no_engine_told_are_differences_of_what_it_held() -> None:
    sizes = {"awake": 1000.0, "kv_released": 600.0, "level_2": 100.0}
    held = [
        ("held", (size,), {"model": "m", "at": at, "memory": "device"})
        for at, size in sizes.items()
    ]
    costs = cost_table(result_of(("start", (1.0,), {"model": "m"}), *held)).models["m"]
    assert (costs.weights_bytes, costs.kv_bytes) == (500, 400)


def test_without_a_cold_start_there_are_no_costs() -> None:
    with pytest.raises(BenchError, match="no cold start"):
        cost_table(result_of(("cycle_time", (1.0,), {})))


# phases, drift, who takes turns


def test_what_no_phase_accounts_for_is_a_phase() -> None:
    assert whole({"load": 2.0, "canary": 0.5}, 3.0, "process") == {
        "process": 0.5,
        "load": 2.0,
        "canary": 0.5,
    }
    assert whole({"canary": 1.0}, 0.999, "orders")["orders"] == 0.0


def test_a_report_of_another_form_is_an_error() -> None:
    told = {"model": "m", "order": "wake", "depth": "level_1", "phases_s": {"kv": 1}, "freed": {}}
    assert parse({**told, "device_bytes": 5, "host_bytes": 0}).phases_s == {"kv": 1.0}
    with pytest.raises(BenchError, match="device_bytes"):
        parse(told)


def test_drift_is_the_first_tenth_against_the_last_and_a_slope() -> None:
    found = drift([5.0 + 2.0 * step for step in range(100)])
    assert found is not None
    assert (found.first_tenth, found.last_tenth) == (14.0, 194.0)
    assert found.slope == pytest.approx(2.0)


def test_an_outlier_is_no_drift() -> None:
    found = drift([1.0] * 30 + [500.0] + [1.0] * 30)
    assert found is not None
    assert (found.first_tenth, found.last_tenth, found.slope) == (1.0, 1.0, 0.0)


def test_of_a_handful_nothing_is_told() -> None:
    assert drift([1.0] * 9) is None


@pytest.mark.parametrize(
    ("models", "known", "both"),
    [
        (("a", "b", "c"), ("a", "b", "c"), ("a", "b")),
        (("b",), ("a", "b", "c"), ("b", "a")),
        (("a",), ("a",), None),
    ],
)
def test_two_models_take_turns(
    models: tuple[str, ...], known: tuple[str, ...], both: tuple[str, str] | None
) -> None:
    assert pair(models, known) == both


# requests


def asker(response: httpx.Response) -> Asker:
    ticks: Iterator[int] = count()
    transport = httpx.MockTransport(lambda request: response)
    http = httpx.Client(base_url="http://fleet", transport=transport)
    return Asker(http, clock=lambda: float(next(ticks)))


def stream(*lines: str, **headers: str) -> httpx.Response:
    text = "".join(f"{line}\n\n" for line in lines)
    return httpx.Response(200, headers={"content-type": "text/event-stream", **headers}, text=text)


def test_the_first_token_is_the_first_event_with_text() -> None:
    heard = asker(
        stream(
            ": torpor phase=waking estimate_ms=2000",
            ": torpor state=woken queue_ms=1600 wake_ms=1500",
            'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}',
            'data: {"choices": [{"delta": {"content": "Par"}}]}',
            'data: {"choices": [{"delta": {"content": "is"}}]}',
            'data: {"choices": [], "usage": {"prompt_tokens": 41}}',
            "data: [DONE]",
        )
    ).ask("m")
    assert (heard.state, heard.wake_s, heard.events) == ("woken", 1.5, 2)
    assert heard.prompt_tokens == 41
    assert heard.last_s > heard.first_s > 0


def test_a_wake_that_was_quick_tells_its_figures_in_headers() -> None:
    headers = {"x-torpor-model-state": "woken", "x-torpor-wake-ms": "250"}
    heard = asker(stream('data: {"choices": [{"text": "Paris"}]}', **headers)).ask("m")
    assert (heard.state, heard.wake_s, heard.tokens_per_s) == ("woken", 0.25, None)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(503, text="no room"),
        stream('data: {"error": {"message": "the engine has died"}}'),
        stream("data: [DONE]"),
    ],
)
def test_what_is_no_answer_ends_the_benchmark(response: httpx.Response) -> None:
    with pytest.raises(BenchError, match="m did not answer"):
        asker(response).ask("m")


def test_a_model_is_spoken_to_as_it_can_answer() -> None:
    def embeds(request: httpx.Request) -> httpx.Response:
        is_known = request.url.path == "/v1/embeddings"
        return httpx.Response(200 if is_known else 404, json={})

    learner = Asker(httpx.Client(base_url="http://f", transport=httpx.MockTransport(embeds)))
    learner.learn("m")
    assert learner.dialects["m"].path == "/v1/embeddings"
    assert learner.ask("m").events == 1


def test_a_model_that_answers_nothing_is_an_error() -> None:
    with pytest.raises(BenchError, match="/v1/embeddings: 404"):
        asker(httpx.Response(404)).learn("m")
    assert issubclass(Unanswered, Exception)


# the fleet and the stock engine


def test_nothing_happens_unasked_in_a_fleet_that_is_measured(tmp_path: Path) -> None:
    settings = undisturbed(fake_settings(), tmp_path)
    assert not settings.policy.prefetch_start
    assert settings.state_dir.is_relative_to(tmp_path)
    for model in settings.models:
        assert (model.spec.ladder, model.spec.deepest) == (Ladder(), Depth.STOPPED)


def test_stock_vllm_gets_the_arguments_of_the_fleet_but_for_torpors() -> None:
    given = {"kv_cache_memory_bytes": 1 << 30, "max_model_len": 2048}
    spec = EngineSpec("m", "/models/m", engine_args=given)
    arguments = Stock("vllm", spec, "cpu").arguments()
    assert arguments["enforce_eager"] is True
    assert arguments["max_model_len"] == 2048
    assert not {"worker_cls", "model", "distributed_executor_backend"} & arguments.keys()
    assert "enforce_eager" not in Stock("vllm-defaults", spec, "cpu").arguments()
    command = Stock("vllm", spec, "cpu").command(8000)
    assert command[-len(command) + 3 :][:2] == ["serve", "/models/m"]
    assert "--kv-cache-memory-bytes=1073741824" in command


def test_arguments_are_written_as_a_command_line_has_them() -> None:
    given: dict[str, Any] = {
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "max_model_len": 64,
        "revision": None,
        "lora_modules": ["a", "b"],
        "limits": {"image": 1},
    }
    assert list(flags(given)) == [
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--max-model-len=64",
        *("--lora-modules", "a", "b"),
        '--limits={"image": 1}',
    ]


# usage


def test_levels_are_written_short_or_by_name() -> None:
    assert parse_levels("2, kv_released,1,level_2") == ("level_2", "kv_released", "level_1")
    assert parse_models("a, b,") == ("a", "b")
    assert parse_models(None) == ()
    assert parse_against(["vllm", "vllm"]) == ("vllm",)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--levels", "3", "--fake"], "'3' is not a level"),
        (["--levels", ",", "--fake"], "--levels names none"),
        (["--against", "ollama", "--fake"], "'ollama' is not known to --against"),
        (["--fake", "--url", "http://127.0.0.1:1"], "give one of CONFIG, --url and --fake"),
        (["--fake", "--models", "nobody"], "no model 'nobody' in the fleet: fake-a, fake-b"),
        (["--fake", "--against", "vllm"], "--against needs a CONFIG that has fake-a on vLLM"),
        (["--url", "http://127.0.0.1:1"], "no fleet answers"),
        (["--url", "http://127.0.0.1:1", "--against", "vllm"], "--against needs a CONFIG"),
        (["no-such.yaml"], "no-such.yaml"),
        ([], "no fleet.yaml here"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(bench, ["wake", *arguments])
    assert found.exit_code == 2
    assert reason in found.stderr
    assert "Traceback" not in found.stderr


def test_the_notes_say_what_stock_vllm_was_started_with() -> None:
    stock = {"vllm": {"enforce_eager": True, "max_model_len": 2048}}
    told = " ".join(notes(Options(against=("vllm",)), "cpu", stock))
    assert "enforce_eager=True, max_model_len=2048." in told
    assert "compiles a model" in told
    assert "page cache was not dropped" in told
    assert list(notes(Options(cycles=10), "cpu", {})) == []
