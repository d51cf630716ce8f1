"""What ``torpor serve --json`` tells, line by line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from controller.announcer import JsonAnnouncer
from controller.settings import Settings, load
from tests.core.fleets import spec
from tests.drivers.stand import a_fleet
from tests.drivers.virtual_loop import run
from workers.engine import EngineError

ADDRESS = "http://127.0.0.1:8000"


def settings(directory: Path) -> Settings:
    file = directory / "fleet.yaml"
    file.write_text("models: [{name: a, path: x, kind: fake, footprint: {awake_gib: 1}}]")
    return load(file, {"TORPOR_DEVICE": "cpu"})


def test_each_step_is_an_object_on_a_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def story() -> None:
        announcer = JsonAnnouncer("127.0.0.1", 8000)
        announcer.opened(settings(tmp_path))
        async with a_fleet(spec("a"), spec("b", max_restarts=1)) as stand:
            stand.driver.observers.append(announcer)
            stand.pool.mishaps["start"] = [None, EngineError("no weights")]
            await stand.control.wait(stand.control.wake("a"))
            await stand.control.wait(stand.control.wake("b"))
            await stand.control.wait(stand.control.sleep("a", 1))

    run(story())
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == {
        "event": "listening",
        "at": told[0]["at"],
        "address": ADDRESS,
        "has_keys": False,
    }
    assert all(abs(line["at"] - time.time()) < 60 for line in told)
    phases = [line["phase"] for line in told if line.get("replica") == "a#0"]
    assert phases == ["starting", "awake", "draining", "drained", "falling_asleep", "asleep"]
    orders = [(o["model"], o["order"], o["depth"], o["seconds"]) for o in told if "order" in o]
    assert orders == [("a", "start", "stopped", 1.0), ("a", "sleep", "level_1", 1.0)]
    [why] = [line["why"] for line in told if line.get("phase") == "failed"]
    assert "no weights" in why
    [ready] = [line for line in told if line["event"] == "ready"]
    assert (ready["address"], ready["models"]) == (ADDRESS, ["a", "b"])
    assert ready["seconds"] >= 0
