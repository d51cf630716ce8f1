"""``torpor bench wake`` on a fleet of its own, with Ray and engines without a model."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from benchmarks.cli import bench
from benchmarks.costs import read as read_costs
from benchmarks.result import Result, read

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


def measured(out: Path, *arguments: str) -> Result:
    before = set(psutil.pids())
    found = CliRunner().invoke(bench, ["wake", "--fake", *arguments, "--out", str(out)])
    assert found.exit_code == 0, found.stderr
    left = [p for p in psutil.process_iter(["pid", "cmdline"]) if p.info["pid"] not in before]
    assert not [p for p in left if "benchmarks.wake.serving" in (p.info["cmdline"] or ())]
    return read(out)


def test_a_fleet_is_measured_and_its_costs_are_exported(tmp_path: Path) -> None:
    costs_file = tmp_path / "costs.yaml"
    asked = ("--models", "fake-a", "--levels", "1,2", "--repeats", "2", "--switches", "1")
    result = measured(tmp_path / "r.json", *asked, "--export-costs", str(costs_file))
    assert result.is_complete
    (cold,) = result.find("first_token", model="fake-a", after="cold")
    (start,) = result.find("start", model="fake-a")
    assert len(cold.values) == len(start.values) == 2
    for level in ("level_1", "level_2"):
        (first,) = result.find("sleep", level=level, time="first")
        (later,) = result.find("sleep", level=level, time="later")
        assert len(first.values) == len(later.values) == 2
        phases = {m.labels["phase"] for m in result.find("wake_phase", level=level)}
        assert phases == {"orders", "weights", "canary"}
        assert len(result.find("switch", by=level)) == 2
    in_a_row = [m.labels["by"] for m in result.find("switches_in_a_row")]
    assert in_a_row == ["level_1", "level_2", "cold start"]
    costs = read_costs(costs_file).models["fake-a"]
    (held,) = result.find("held", at="level_2", memory="device")
    assert costs.footprints["level_2"].device_bytes == held.values[0]
    assert costs.start_s == pytest.approx(sum(start.values) / 2, abs=1e-3)


def test_cycles_tell_their_drift(tmp_path: Path) -> None:
    asked = ("--models", "fake-a", "--levels", "2", "--cycles", "20")
    result = measured(tmp_path / "r.json", *asked)
    (slept,) = result.find("cycle_memory", of="asleep")
    assert len(slept.values) == 20
    (slope,) = result.find("drift_memory", of="asleep", part="slope per cycle")
    assert slope.values == (0.0,)
    assert result.find("drift_memory", of="controller process", part="last tenth")
    assert result.find("drift_time", of="wake", part="first tenth")
