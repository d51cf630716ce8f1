"""The form of results: file, ratios, gate, page, and the commands that show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cli import bench
from benchmarks.compare import compare, differences
from benchmarks.gate import Gate, breaches
from benchmarks.plots import distribution, save_all
from benchmarks.report import page
from benchmarks.result import Measure, Result, ResultError, Span, read
from benchmarks.running import BenchError, Run, measuring
from benchmarks.statistics import ratio, summary
from benchmarks.tables import quantity

SCHEMA = Path(__file__).parents[2] / "docs" / "bench.schema.json"


def wake(*values: float, level: str = "level_1") -> Measure:
    return Measure(name="wake", unit="s", values=values, labels={"level": level}, better="lower")


def result_of(*measures: Measure, settings: dict[str, int] | None = None) -> Result:
    run = Run("wake", settings or {"repeats": 3}, seed=7, say=lambda _: None)

    def benchmark(run: Run) -> None:
        run.add(*measures)
        run.timelines["all"] = (Span(lane="a", state="awake", begins_s=0, ends_s=2),)

    return measuring(run, benchmark)


def shown(arguments: Sequence[str]) -> tuple[int, str, str]:
    found = CliRunner().invoke(bench, list(arguments))
    return found.exit_code, found.stdout, found.stderr


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    written = result_of(wake(0.3, 0.4), Measure(name="freed", unit="bytes", values=(float("inf"),)))
    written.write(tmp_path / "r.json")
    assert read(tmp_path / "r.json") == written
    assert written.is_complete
    assert written.machine.cores >= 1


def test_a_series_and_a_span_are_one_line_of_the_file(tmp_path: Path) -> None:
    result_of(wake(0.3, 0.4)).write(tmp_path / "r.json")
    lines = [line.strip().rstrip(",") for line in (tmp_path / "r.json").read_text().splitlines()]
    assert '"values": [0.3, 0.4]' in lines
    assert '{"lane": "a", "state": "awake", "begins_s": 0.0, "ends_s": 2.0}' in lines


def test_the_schema_that_is_published_is_the_one_in_use() -> None:
    assert json.loads(SCHEMA.read_text()) == Result.model_json_schema()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "no result of torpor bench"),
        ('{"schema_version": 2}', "schema version 2; this torpor reads version 1"),
        ('{"schema_version": 1}', "kind: Field required"),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ResultError, match=reason):
        read(path)
    code, _, err = shown(["report", str(path)])
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    def benchmark(run: Run) -> None:
        run.add(wake(0.3))
        raise KeyboardInterrupt

    result = measuring(Run("wake", {}, say=lambda _: None), benchmark)
    assert not result.is_complete
    assert result.measures == (wake(0.3),)
    assert "interrupted" in result.notes
    result.write(tmp_path / "r.json")
    code, out, _ = shown(["report", str(tmp_path / "r.json")])
    assert code == 1
    assert "INTERRUPTED" in out


def test_what_went_wrong_at_once_is_told_one_by_one() -> None:
    def benchmark(run: Run) -> None:
        run.add(wake(0.3))
        raise ExceptionGroup("two", [BenchError("no engine"), KeyError("part")])

    result = measuring(Run("wake", {}, say=lambda _: None), benchmark)
    assert result.notes == ("failed: no engine; KeyError: 'part'",)


def test_a_run_that_measured_nothing_is_no_result() -> None:
    with pytest.raises(BenchError, match="nothing to measure"):
        measuring(Run("wake", {}, say=lambda _: None), lambda _: None)

    def fails(_: Run) -> None:
        raise BenchError("no engine")

    with pytest.raises(BenchError, match="no engine"):
        measuring(Run("wake", {}, say=lambda _: None), fails)


def test_measures_of_one_name_and_labels_are_one_series() -> None:
    run = Run("wake", {})
    run.add(wake(1), wake(2, level="level_2"), wake(3))
    assert run.measures == [wake(1, 3), wake(2, level="level_2")]


def test_summary_by_hand() -> None:
    said = summary([4, 1, 3, 2])
    assert (said.count, said.mean, said.median, said.low, said.high) == (4, 2.5, 2.5, 1, 4)
    assert said.p95 == pytest.approx(3.85)


def test_a_ratio_knows_how_sure_it_is() -> None:
    clear = ratio([2.0, 2.1, 1.9, 2.0, 2.05], [1.0, 1.05, 0.95, 1.0, 1.02])
    assert clear.low <= clear.value <= clear.high
    assert clear.is_clear
    assert clear.low > 1.8
    assert not ratio([1.0, 3.0, 2.0], [2.0, 1.0, 3.0]).is_clear
    single = ratio([3.0], [2.0])
    assert (single.low, single.value, single.high) == (1.5, 1.5, 1.5)


def test_compare_tells_better_from_worse_and_from_noise() -> None:
    before = result_of(wake(1.0, 1.01, 0.99, 1.0), wake(1, 2, 3, level="level_2"))
    after = result_of(wake(0.5, 0.51, 0.49, 0.5), wake(2, 3, 1, level="level_2"))
    faster, noise = compare(before, after)
    assert (faster.verdict, noise.verdict) == ("better", "")
    assert compare(after, before)[0].verdict == "worse"
    assert list(differences(before, after)) == []
    other = result_of(wake(1.0), settings={"repeats": 9})
    assert list(differences(before, other)) == ["their settings differ: repeats"]


def test_a_gate_says_which_limit_is_broken() -> None:
    cold = Measure(name="cold_start", unit="s", values=(10.0,))
    gate = Gate.model_validate(
        {
            "limits": [
                {"measure": "wake", "statistic": "max", "max": 0.5},
                {"measure": "wake", "over": {"measure": "cold_start"}, "max": 0.1},
                {"measure": "goodput", "min": 1},
            ]
        }
    )
    kept = result_of(wake(0.4), cold, Measure(name="goodput", unit="1/s", values=(2.0,)))
    assert breaches(gate, kept) == []
    assert breaches(gate, result_of(wake(2.0), cold)) == [
        "wake(level=level_1): max 2 is above 0.5",
        "wake(level=level_1): median 0.2 is above 0.1",
        "goodput: not measured",
    ]


def test_the_gate_on_the_command_line(tmp_path: Path) -> None:
    result_of(wake(0.4)).write(tmp_path / "r.json")
    gate = tmp_path / "gate.yaml"
    gate.write_text("limits: [{measure: wake, max: 0.1}]")
    code, _, err = shown(["report", str(tmp_path / "r.json"), "--gate", str(gate)])
    assert (code, "above 0.1" in err) == (1, True)
    gate.write_text("limits: [{measure: wake, max: 1}]")
    assert shown(["report", str(tmp_path / "r.json"), "--gate", str(gate)])[0] == 0
    gate.write_text("limits: [{measure: wake}]")
    code, _, err = shown(["report", str(tmp_path / "r.json"), "--gate", str(gate)])
    assert (code, "needs max or min" in err) == (2, True)


def test_compare_on_the_command_line(tmp_path: Path) -> None:
    result_of(wake(0.4)).write(tmp_path / "a.json")
    result_of(wake(0.2)).write(tmp_path / "b.json")
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    code, out, _ = shown(["compare", *files, "--json"])
    assert code == 0
    (row,) = json.loads(out)
    assert (row["first"], row["second"], row["ratio"]["value"]) == (0.4, 0.2, 0.5)
    result_of(wake(1, level="level_2")).write(tmp_path / "c.json")
    code, _, err = shown(["compare", files[0], str(tmp_path / "c.json")])
    assert (code, "share no measure" in err) == (2, True)


def test_the_page_needs_nothing_else() -> None:
    text = page(result_of(wake(0.3, 0.4), wake(0.5, 0.6, level="<b>")))
    assert "<svg" in text
    assert "level=&lt;b&gt;" in text
    for elsewhere in ("<script", "<link", "src="):
        assert elsewhere not in text


def test_pictures_are_written(tmp_path: Path) -> None:
    paths = save_all(result_of(wake(0.3, 0.4), wake(0.5, 0.6, level="level_2")), tmp_path)
    assert [path.name for path in paths] == ["wake.png", "residency_all.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_picture_is_as_wide_as_its_slowest_value() -> None:
    (axes,) = distribution("wake", [wake(0.3, 9.0), wake(0.5, 0.6, level="level_2")]).axes
    left, right = axes.get_xlim()
    assert left == 0
    assert right > 8.9


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0312, "s", "31.2 ms"),
        (31.2, "s", "31.2 s"),
        (3 << 30, "bytes", "3 GiB"),
        (1234.0, "count", "1,234"),
        (1.234, "ratio", "1.23"),
        (float("nan"), "s", "-"),
    ],
)
def test_quantities_are_readable(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text
