"""Kills and faults in combination: the whole fleet with Ray, and engines without a model."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.live_fleet import LiveFleet

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

MIB = 1 << 20
LARGE = {"footprint": {"awake_gib": 1.2}}


def fake(name: str, **arguments: Any) -> dict[str, Any]:
    engine_args = {"device_bytes": 100 * MIB, "kv_bytes": 40 * MIB, **arguments}
    return {"name": name, "path": "nowhere", "kind": "fake", "engine_args": engine_args}


@pytest.fixture(scope="module")
def fleet() -> Iterator[LiveFleet]:
    raw = {
        "device": "cpu",
        "log_dir": "elsewhere",
        "memory": {"device_budget_gib": 2.0},
        "timeouts": {"wake_s": 2, "sleep_s": 2, "start_s": 30, "stop_s": 1},
        "policy": {
            "restart_backoff_s": 0.1,
            "minimum_awake_s": 0.1,
            "maximum_wait_behind_s": 0.3,
            "prefetch_at_once": 4,
        },
        "defaults": {
            "footprint": {"awake_gib": 0.2},
            "idle": dict.fromkeys(
                ("kv_released_s", "level_1_s", "level_2_s", "stopped_s"), "never"
            ),
        },
        "models": [
            fake("plain"),
            fake("slow", token_delay_s=0.05),
            fake("wakes-badly", faults={"wake": ["fail", "ok"]}),
            fake("wakes-never", faults={"wake": ["hang"]}),
            fake("other-answers", faults={"wake": ["canary"]}),
            fake("dies-waking", faults={"wake": ["die"]}),
            fake("starves", faults={"wake": ["oom", "ok"]}),
            fake("stubborn", faults={"stop": ["hang"]}),
            fake("large", device_bytes=1200 * MIB, token_delay_s=0.05) | LARGE,
            fake("larger", device_bytes=1200 * MIB) | LARGE,
        ],
    }
    with TemporaryDirectory(prefix="t-") as directory:
        config = Path(directory) / "fleet.yaml"
        config.write_text(yaml.safe_dump(raw))
        fleet = LiveFleet(config, Path(directory), "--json")
        try:
            fleet.await_ready()
            yield fleet
        finally:
            fleet.stop()


async def ask(
    fleet: LiveFleet, model: str, headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    async with httpx.AsyncClient(base_url=fleet.url, timeout=60) as client:
        body = {"model": model, "prompt": "one two three", **more}
        return await client.post("/v1/completions", json=body, headers=headers)


@pytest.mark.parametrize(
    "model",
    [
        *("plain", "wakes-badly", "wakes-never", "other-answers", "dies-waking", "stubborn"),
        "starves",
    ],
)
async def test_a_request_for_a_sleeper_is_answered_whatever_the_wake_does(
    fleet: LiveFleet, model: str
) -> None:
    awake = await ask(fleet, model)
    fleet.client.sleep(model, 2)
    after = await ask(fleet, model)
    assert after.status_code == 200, after.text
    assert after.json()["choices"] == awake.json()["choices"]


async def test_a_killed_sleeper_comes_back(fleet: LiveFleet) -> None:
    fleet.client.sleep("plain", 1)
    fleet.engine("plain").kill()
    assert (await ask(fleet, "plain")).status_code == 200


async def test_requests_without_a_byte_yet_are_tried_again(fleet: LiveFleet) -> None:
    fleet.client.stop("slow")
    asked = asyncio.gather(*(ask(fleet, "slow", max_tokens=40) for _ in range(5)))
    await asyncio.to_thread(fleet.await_state, "slow", "awake")
    assert fleet.client.model("slow").running == 5  # all of them waited for the start
    fleet.engine("slow").kill()
    answers = await asked
    assert [answer.status_code for answer in answers] == [200] * 5


async def test_a_controller_that_dies_at_work_loses_no_engine(fleet: LiveFleet) -> None:
    """Nor what a cold model takes to start: by the guess it would be more than is waited for."""
    fleet.client.wake("plain")
    engine = fleet.engine("plain").pid
    fleet.client.wake("slow")
    fleet.client.stop("slow")
    fleet.await_costs("slow")
    fleet.kill_controller()
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=10)) as patient:
        assert (await patient.get(f"{fleet.url}/readyz", timeout=60)).status_code == 200
    assert any('"event": "restarting"' in line for line in fleet.told)
    assert (await ask(fleet, "slow", {"x-torpor-max-wait-s": "40"})).status_code == 200
    assert (await ask(fleet, "plain")).status_code == 200
    assert fleet.engine("plain").pid == engine


async def test_a_frozen_stream_goes_on_where_it_was(fleet: LiveFleet) -> None:
    """Over Ray; there is room for one of the two."""
    whole = (await ask(fleet, "large", max_tokens=100)).json()["choices"][0]["text"]
    said: list[str] = []
    body = {"model": "large", "prompt": "one two three", "max_tokens": 100, "stream": True}
    async with (
        httpx.AsyncClient(base_url=fleet.url, timeout=60) as client,
        client.stream("POST", "/v1/completions", json=body) as answer,
    ):
        other: asyncio.Task[httpx.Response] | None = None
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                said.append(json.loads(line.removeprefix("data: "))["choices"][0]["text"])
            other = other or asyncio.create_task(ask(fleet, "larger"))
    assert other is not None
    assert (await other).status_code == 200
    assert "".join(said) == whole
    assert any("frozen with 1 running" in line["what"] for line in fleet.client.why("large"))


async def test_requests_go_on_while_the_file_is_read_again(fleet: LiveFleet) -> None:
    """One model's engine is replaced, one comes, one goes; a wrong file changes nothing."""
    config = fleet.directory / "fleet.yaml"
    written = config.read_text()
    raw = yaml.safe_load(written)
    raw["models"] = [model for model in raw["models"] if model["name"] != "stubborn"]
    raw["models"][1] = fake("slow", token_delay_s=0.04)
    raw["models"].append(fake("from-the-file"))
    assert (await ask(fleet, "slow")).status_code == 200
    before = fleet.engine("slow").pid
    asked = [asyncio.create_task(ask(fleet, "slow", max_tokens=60)) for _ in range(4)]
    await asyncio.to_thread(fleet.await_running, "slow", 4)
    began = time.time()
    config.write_text(yaml.safe_dump(raw))
    assert (await asyncio.to_thread(fleet.await_config, began)).problems == ()
    asked += [asyncio.create_task(ask(fleet, name)) for name in ("slow", "from-the-file", "plain")]
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * 7
    assert fleet.engine("slow").pid != before
    assert "stubborn" not in {model.model for model in fleet.client.models()}
    began = time.time()
    config.write_text(written.replace("path: nowhere", "pth: nowhere"))
    refused = await asyncio.to_thread(fleet.await_config, began)
    assert "models[0].pth: unknown key (did you mean path?)" in refused.problems
    assert (await ask(fleet, "from-the-file")).status_code == 200
    config.write_text(written)
    assert (await asyncio.to_thread(fleet.await_config, refused.at)).problems == ()


def test_models_come_and_go_at_run_time(fleet: LiveFleet) -> None:
    entry = fake("newcomer") | {"footprint": {"awake_gib": 0.2}}
    assert fleet.client.add_model(entry).status == "done"
    assert fleet.client.wake("newcomer").status == "done"
    assert fleet.client.remove_model("newcomer").status == "done"
    assert "newcomer" not in {model.model for model in fleet.client.models()}


def test_it_tells_a_program_what_happens(fleet: LiveFleet) -> None:
    told = [json.loads(line) for line in fleet.told if line.startswith("{")]
    events = [line["event"] for line in told]
    assert events[0] == "starting"
    assert told[events.index("listening")]["address"] == fleet.url
    ready = told[events.index("ready")]
    assert ready["address"] == fleet.url
    assert set(ready["models"]) <= {model.model for model in fleet.client.models()}
    assert {"model", "order", "seconds"} <= told[events.index("order")].keys()


def test_a_taken_port_is_one_clear_line(fleet: LiveFleet, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from controller.cli import main; main()", "serve"]
    config = fleet.directory / "fleet.yaml"
    with TemporaryDirectory(prefix="t-") as state:
        done = subprocess.run(
            [*command, str(config), "--port", str(fleet.port)],
            capture_output=True,
            text=True,
            env={"PATH": "", "TORPOR_STATE_DIR": state},
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{fleet.port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1, "Ray is not even started"


def test_logs_lie_together(fleet: LiveFleet) -> None:
    names = {path.name.partition("-")[0] for path in (fleet.directory / "elsewhere").iterdir()}
    assert {"controller.log", "plain_0"} <= names


def test_ctrl_c_leaves_no_process(fleet: LiveFleet) -> None:
    assert fleet.stop() == 0
    assert list(fleet.marked()) == []
    assert list(fleet.tmp.iterdir()) == []
