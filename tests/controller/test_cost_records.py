"""Measured costs on disk: kept over a restart, of the model as it is and of no other."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from controller.core.costs import Took
from controller.core.events import CostsFound, EngineStarted, ModelAdded, RequestArrived
from controller.core.fleet import Fleet
from controller.core.lifecycle import Action
from controller.core.names import Depth, Footprint, Instant, ModelName, RequestId
from controller.cost_records import CostRecords
from tests.core.fleets import good_answer, node, policy, spec
from workers.engine import EngineSpec

A = spec("a")


def engine(path: Path) -> EngineSpec:
    return EngineSpec("a", str(path), engine_args={"dtype": "bfloat16"}, env={"X": "1"})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    directory = tmp_path / "weights"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"1234")
    return directory


def measure(records: CostRecords, started: EngineSpec, seconds: float = 4.0) -> Fleet:
    """Model ``a`` is added, and its engine takes so long to start."""
    fleet = Fleet(policy())
    found = records.found(Instant(0.0), A, started)
    for event in (
        ModelAdded(Instant(0.0), A),
        *([found] if found else []),
        node(0.0),
        RequestArrived(Instant(0.0), RequestId("r"), A.name),
    ):
        records.saw(event, fleet.handle(event), fleet)
    answer = good_answer(fleet, "a#0", Instant(seconds))
    assert isinstance(answer, EngineStarted)
    records.saw(answer, fleet.handle(answer), fleet)
    return fleet


def found(path: Path, started: EngineSpec, device: str = "cpu") -> CostsFound | None:
    return CostRecords(path, device).found(Instant(9.0), A, started)


def test_the_next_controller_knows_what_this_one_measured(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "state" / "costs.json"
    measure(CostRecords(path, "cpu"), engine(weights))
    assert found(path, engine(weights)) == CostsFound(
        Instant(9.0),
        ModelName("a"),
        (Took(Action.START, Depth.STOPPED, (4.0,)),),
        ((Depth.AWAKE, Footprint(10)),),
    )
    assert [file.name for file in path.parent.iterdir()] == ["costs.json"]


def test_what_is_measured_is_added_to_what_was(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "costs.json"
    for seconds in (4.0, 5.0):
        measure(CostRecords(path, "cpu"), engine(weights), seconds)
    told = found(path, engine(weights))
    assert told is not None
    assert told.took == (Took(Action.START, Depth.STOPPED, (4.0, 5.0)),)


CHANGES: dict[str, Callable[[EngineSpec], EngineSpec]] = {
    "dtype": lambda spec: replace(spec, engine_args={"dtype": "float32"}),
    "environment": lambda spec: replace(spec, env={"X": "2"}),
    "revision": lambda spec: replace(spec, revision="v2"),
    "kind": lambda spec: replace(spec, kind="fake"),
    "kv": lambda spec: replace(spec, keeps_kv=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_model_that_is_started_otherwise_inherits_nothing(
    tmp_path: Path, weights: Path, change: Callable[[EngineSpec], EngineSpec]
) -> None:
    path = tmp_path / "costs.json"
    measure(CostRecords(path, "cpu"), engine(weights))
    assert found(path, change(engine(weights))) is None
    assert found(path, engine(weights)) is not None


def test_nor_do_other_weights_another_device_or_more_of_them(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "costs.json"
    measure(CostRecords(path, "cpu"), engine(weights))
    records = CostRecords(path, "cpu")
    wide = replace(A, devices_per_replica=2)
    assert records.found(Instant(0.0), wide, engine(weights)) is None
    assert found(path, engine(weights), device="cuda") is None
    os.utime(weights / "model.safetensors", ns=(1, 1))
    assert found(path, engine(weights)) is None


def test_a_model_that_was_changed_back_finds_its_own(tmp_path: Path, weights: Path) -> None:
    path, other = tmp_path / "costs.json", replace(engine(weights), revision="v2")
    records = CostRecords(path, "cpu")
    measure(records, engine(weights), 4.0)
    measure(records, other, 60.0)
    first, second = found(path, engine(weights)), found(path, other)
    assert first is not None
    assert second is not None
    assert [told.took[0].seconds for told in (first, second)] == [(4.0,), (60.0,)]


WRONG = {
    "not JSON": b"{",
    "nothing": b"",
    "another version": json.dumps({"version": 2, "models": {}}).encode(),
    "another shape": json.dumps({"version": 1, "models": {"k": {"took": 3}}}).encode(),
    "no seconds": json.dumps(
        {
            "version": 1,
            "models": {
                "k": {
                    "model": "a",
                    "took": [{"action": "start", "depth": 4, "seconds": [-1.0]}],
                    "held": [],
                }
            },
        }
    ).encode(),
}


@pytest.mark.parametrize("written", WRONG.values(), ids=WRONG)
def test_a_file_that_is_wrong_is_told_of_once_and_written_anew(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture, written: bytes
) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(written)
    with caplog.at_level(logging.WARNING, "torpor.costs"):
        records = CostRecords(path, "cpu")
        assert records.found(Instant(0.0), A, engine(weights)) is None
        measure(records, engine(weights))
    [told] = caplog.records
    assert f"{path} is not used" in told.getMessage()
    assert found(path, engine(weights)) is not None


def test_a_disk_that_is_full_stops_nothing(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    records = CostRecords(tmp_path / "file" / "costs.json", "cpu")
    measure(records, engine(weights))
    assert "cannot be kept" in caplog.text


def test_several_measurements_are_written_at_once(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "costs.json"
    asked: list[Callable[[], None]] = []
    records = CostRecords(path, "cpu", soon=asked.append)
    for _ in range(3):
        measure(records, engine(weights))
    assert len(asked) == 1
    assert not path.exists()
    asked[0]()
    written = path.read_bytes()
    path.unlink()
    records.write()
    assert not path.exists()  # nothing has been measured since
    measure(records, engine(weights))
    assert len(asked) == 2
    asked[1]()
    assert len(path.read_bytes()) > len(written)


def test_the_longest_unmeasured_go_first(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "costs.json"
    records = CostRecords(path, "cpu", most_models=2)
    kinds = [replace(engine(weights), revision=name) for name in ("v1", "v2", "v1", "v3")]
    for kind in kinds:
        measure(records, kind)
    first, second, _, third = (found(path, kind) for kind in kinds)
    assert first is not None
    assert second is None
    assert third is not None
