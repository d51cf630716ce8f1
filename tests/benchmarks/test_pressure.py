"""``torpor bench pressure`` over a controller with fake engines: what it measures, and refuses."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from benchmarks.cli import bench
from benchmarks.pressure.benchmark import complaint, parts
from benchmarks.pressure.freezes import Interrupted
from benchmarks.pressure.grounds import Grounds, arranged, fake_settings
from benchmarks.pressure.options import Options, chosen
from benchmarks.result import Measure
from benchmarks.running import BenchError, Run
from controller.client import FleetClient
from tests.controller.conversing import MIB, NEVER, controlled
from workers.local_pool import LocalPool
from workers.processes import MARK

FREEZES = Options(freezes=1, maximum_s=0.2, parts=("freeze",))
pytestmark = pytest.mark.timeout(300)


def quiet() -> Run:
    return Run("pressure", {}, seed=1, say=lambda _: None)


@asynccontextmanager
async def grounds(directory: Path, budget_gib: float) -> AsyncIterator[tuple[Grounds, LocalPool]]:
    sizes = {"device_bytes": 1000 * MIB, "kv_bytes": 400 * MIB, "residual_bytes": MIB}
    engine_args = {**sizes, "token_delay_s": 0.01}
    model = {"path": "x", "kind": "fake", "engine_args": engine_args}
    raw: dict[str, Any] = {
        "device": "cpu",
        "memory": {"device_budget_gib": budget_gib},
        "policy": {
            "maximum_wait_behind_s": FREEZES.maximum_s,
            "minimum_awake_s": 0,
            "prefetch_start": False,
            "restart_backoff_s": 0.05,
        },
        "defaults": {"footprint": {"awake_gib": 1.0}, "idle": NEVER},
        "models": [{"name": name, **model} for name in ("a", "b")],
    }
    pool = LocalPool()
    async with controlled(directory, raw, pool) as url:
        http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        with FleetClient(url) as client, closing(http):
            yield Grounds(client, http, psutil.Process(), turn_s=0.0), pool


async def test_a_model_waits_its_maximum_and_a_switch_behind_an_answer(tmp_path: Path) -> None:
    run = quiet()
    async with grounds(tmp_path, 1.5) as (fleet, _):
        await asyncio.to_thread(parts, run, FREEZES, fleet, ("a", "b"))
    found = run.result()
    pair = {"frozen": "a", "waiting": "b"}
    (first,) = found.find("first_token", **pair)
    (frozen,) = found.find("frozen_after", **pair)
    assert len(first.values) == FREEZES.freezes
    assert len(frozen.values) == FREEZES.freezes
    assert min(first.values) > FREEZES.maximum_s, "nobody is frozen before"
    (switch,) = found.find("switch", to="b")
    allowed = FREEZES.maximum_s + switch.values[0]
    (share,) = found.find("of_maximum_and_switch", **pair)
    assert share.values == pytest.approx([first_s / allowed for first_s in first.values])
    (same,) = found.find("same_answer", **pair)
    assert set(same.values) == {1.0}
    assert complaint(run) is None


async def test_room_for_both_is_no_measure_of_a_switch(tmp_path: Path) -> None:
    async with grounds(tmp_path, 4.0) as (fleet, _):
        with pytest.raises(BenchError, match="room for both"):
            await asyncio.to_thread(parts, quiet(), FREEZES, fleet, ("a", "b"))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """That bears an engine's mark."""
    bearing = subprocess.Popen(["sleep", "infinity"], env={MARK: "test/a#0"})
    yield bearing
    bearing.kill()
    bearing.wait()


async def test_a_death_is_noticed_and_the_next_answer_is_right(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    """The engine is in this process; a stand-in for it is killed, and its end told to the pool."""
    run, once = quiet(), Options(kills=1, parts=("deaths",))
    async with grounds(tmp_path, 1.5) as (fleet, pool):
        measuring = asyncio.create_task(asyncio.to_thread(parts, run, once, fleet, ("a",)))
        await asyncio.to_thread(process.wait)
        pool.kill_engine("a#0")
        await measuring
    found = run.result()
    (noticed,) = found.find("noticed", model="a", killed="engine")
    (held,) = found.find("held_when_killed", model="a", killed="engine")
    assert held.values[0] > 0
    (answered,) = found.find("answered_again", model="a", killed="engine")
    assert 0 <= noticed.values[0] < answered.values[0]
    (right,) = found.find("right_after_death", model="a", killed="engine")
    assert right.values == (1.0,)
    assert not found.find("noticed", killed="core"), "it has no process of its own"


def test_an_answer_is_compared_beyond_where_it_was_frozen() -> None:
    frozen = Interrupted(["one", " two", " three"], length=7)
    assert frozen.agrees("one two three four")
    assert frozen.agrees("one two th")
    assert not frozen.agrees("one two four")
    with pytest.raises(BenchError, match="nothing was read"):
        frozen.agrees("one two")


def test_another_answer_is_complained_of() -> None:
    run = quiet()
    run.add(Measure(name="same_answer", unit="ratio", values=(1.0, 0.0)))
    assert complaint(run) == "1 answers were others than undisturbed: frozen"


def test_a_fleet_is_arranged_for_it(tmp_path: Path) -> None:
    settings = fake_settings()
    stiff = [m._replace(spec=replace(m.spec, can_freeze=False)) for m in settings.models]
    told = arranged(replace(settings, models=tuple(stiff)), tmp_path, 2.5)
    assert told.policy == replace(settings.policy, maximum_wait_behind_s=2.5, prefetch_start=False)
    assert all(model.spec.can_freeze for model in told.models)
    assert chosen(told, Options()) == ("fake-a", "fake-b")
    with pytest.raises(BenchError, match="'c' that generates: fake-a, fake-b"):
        chosen(told, Options(models=("c",)))
    with pytest.raises(BenchError, match="two models"):
        chosen(told, Options(models=("fake-a",)))


@pytest.mark.parametrize("arguments", [[], ["--fake", "x.yaml"], ["--fake", "--parts", "speed"]])
def test_what_cannot_be_asked_is_one_line(arguments: list[str]) -> None:
    found = CliRunner().invoke(bench, ["pressure", *arguments])
    assert found.exit_code == 2
    assert len(found.stderr.strip().splitlines()) == 1
