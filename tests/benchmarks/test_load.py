"""Open-loop load: what a client hears, that arrivals wait for nobody, a fleet of fake engines."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from benchmarks.cli import bench
from benchmarks.load.benchmark import Options, target_of
from benchmarks.load.client import Heard, body
from benchmarks.load.fake_fleet import fake_fleet
from benchmarks.load.policies import chosen
from benchmarks.load.sending import Load, send_all
from benchmarks.load.watching import seen, watch
from benchmarks.result import read
from benchmarks.running import BenchError
from benchmarks.workload import scenario as scenarios
from benchmarks.workload.arrivals import Arrival, arrivals
from benchmarks.workload.residency import Residency
from benchmarks.workload.scenario import Scenario
from controller.core.names import Depth, Ladder, ModelName
from controller.ports import FleetView, ModelView, ReplicaView
from controller.settings import load

ROOT = Path(__file__).parents[2]

TINY: dict[str, Any] = {
    "duration_s": 30,
    "models": [{"name": name, "weights_gib": 15} for name in ("a", "b")],
    "arrivals": {"kind": "poisson", "per_s": 1},
    "conversations": {"prompt_tokens": 5, "answer_tokens": 4},
    "objective": {"ttft_s": 10},
    "hardware": {"devices": 1, "device_gib": 30},
}


def arrival(number: int, at_s: float = 0.0, model: str = "a") -> Arrival:
    return Arrival(number, at_s, model, number, 0, 0, 20, 3)


def test_what_a_stream_says_is_heard() -> None:
    heard = Heard()
    for at, line in enumerate(
        (
            b": torpor phase=waking estimate_ms=900\n",
            b": torpor state=woken queue_ms=1250 wake_ms=900\n",
            b"\n",
            b'data: {"choices": [{"text": ""}]}\n',
            b'data: {"choices": [{"text": "one"}]}\n',
            b'data: {"choices": [{"text": " two"}]}\n',
            b'data: {"choices": [], "usage": {}}\n',
            b"data: [DONE]\n",
        )
    ):
        heard.line(line, float(at))
    assert heard.queue_s == 1.25
    assert heard.tokens_at == [4.0, 5.0]
    assert not heard.error
    heard.line(b'data: {"error": {"code": "engine_failed", "message": "m"}}\n', 9.0)
    assert heard.error == "engine_failed"


def test_prompts_have_their_length_share_their_beginning_and_fit_the_model() -> None:
    first = body(Arrival(0, 0.0, "a", 7, 0, 0, 20, 30), "m", None, seed=1)
    later = body(Arrival(5, 9.0, "a", 7, 1, 50, 70, 30), "m", None, seed=1)
    assert len(first["prompt"].split()) == 20
    assert later["prompt"].startswith(first["prompt"])
    assert first["max_tokens"] == 30
    cut = body(Arrival(0, 0.0, "a", 7, 0, 0, 5000, 900), "m", 1000, seed=1)
    assert len(cut["prompt"].split()) + cut["max_tokens"] <= 1000


class Engine:
    """Answers nobody before ``crowd`` have asked, then all of them; refuses model ``busy``."""

    def __init__(self, crowd: int) -> None:
        self.crowd = asyncio.Barrier(crowd)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if asked["model"] == "busy":
            error = {"error": {"code": "backlog_full", "message": "m"}}
            return web.json_response(error, status=429)
        async with asyncio.timeout(60):
            await self.crowd.wait()
        response = web.StreamResponse(headers={"x-torpor-queue-ms": "40"})
        await response.prepare(request)
        for word in range(asked["max_tokens"]):
            await response.write(b'data: {"choices": [{"text": "%d"}]}\n\n' % word)
        return response


async def sent(load: Load, engine: Engine) -> None:
    app = web.Application()
    app.router.add_post("/v1/completions", engine.answer)
    loop = asyncio.get_running_loop()
    async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("/")) as http:
        began = loop.time()
        await send_all(load, http, lambda: loop.time() - began)


def load_of(*due: Arrival) -> Load:
    named = {"a": ModelName("m"), "busy": ModelName("busy")}
    return Load(due, named, {}, 5.0, 0, Residency())


async def test_arrivals_do_not_wait_for_answers() -> None:
    load = load_of(*(arrival(number, number / 1000) for number in range(30)))
    await sent(load, Engine(crowd=30))
    assert len(load.outcomes) == 30
    assert not any(outcome.shed for outcome in load.outcomes)
    for outcome in load.outcomes:
        assert outcome.queue_s == 0.04
        assert len(outcome.inter_token_s) == 2
        assert 0 < (outcome.ttft_s or 0) <= (outcome.e2e_s or 0)


async def test_who_is_refused_is_counted_by_its_reason() -> None:
    load = load_of(arrival(0), arrival(1, model="busy"))
    await sent(load, Engine(crowd=1))
    assert sorted(outcome.shed for outcome in load.outcomes) == ["", "backlog_full"]


class SlowToGrant(Engine):
    """Counts who waits at once; no answer ends before ``crowd`` were granted."""

    waiting = most_waiting = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        for _ in range(20):
            await asyncio.sleep(0)
        self.waiting -= 1
        response = web.StreamResponse(headers={"x-torpor-queue-ms": "40"})
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"text": "a"}]}\n\n')
        async with asyncio.timeout(10):
            await self.crowd.wait()
        return response


async def test_in_order_each_is_sent_when_the_one_before_it_was_granted() -> None:
    engine, load = SlowToGrant(crowd=10), load_of(*map(arrival, range(10)))
    load.turns = asyncio.Lock()
    await sent(load, engine)
    assert engine.most_waiting == 1
    assert not any(outcome.shed for outcome in load.outcomes)
    assert all((outcome.queue_s or 0) > 0.04 for outcome in load.outcomes)


async def test_whoever_is_not_granted_in_time_leaves_and_makes_way() -> None:
    load = load_of(arrival(0), arrival(1), arrival(2))
    load.turns, load.max_wait_s = asyncio.Lock(), 0.01
    await sent(load, Engine(crowd=4))
    assert [outcome.shed for outcome in load.outcomes] == ["deadline_passed"] * 3
    assert not load.turns.locked()


async def test_the_fleets_events_become_residency() -> None:
    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        told = '{"replica": "m#0", "before": "A", "after": "%s", "why": "%s"}'
        for after, why in (("FALLING_ASLEEP", "to LEVEL_2: idle"), ("ASLEEP", "")):
            line = f"id: 1\nevent: replica\ndata: {told % (after, why)}\n\n"
            await response.write(b": torpor\n\n" + line.encode())
        return response

    app = web.Application()
    app.router.add_get("/fleet/events", events)
    replica = ReplicaView("m#0", "AWAKE", None, "hbm", "n", ("0",), 1, 0, 0, 1.0)
    model = ModelView("m", "awake", (replica,), False, 0, 0, None, 1.0, None, 0)
    residency, ready = seen(FleetView((model,), (), 0)), asyncio.Event()
    assert residency.states == {"m#0": "awake"}
    async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("/")) as http:
        await watch(http, residency, lambda: 1.0, ready)
    assert ready.is_set()
    assert residency.states == {"m#0": "level_2"}
    assert residency.demotions == {("level_2", "idle"): 1}


def test_a_fake_fleet_has_the_scenarios_models_and_shrunk_sizes() -> None:
    settings = fake_fleet(Scenario.model_validate(TINY), "a100", speed=10)
    assert [model.spec.name for model in settings.models] == ["a", "b"]
    spec, engine = settings.models[0]
    awake = spec.footprints[Depth.AWAKE].device_bytes
    assert awake == pytest.approx(23 * 2**20, rel=0.01)  # 15 GiB, 4 of KV and 4 besides
    assert 2 * awake > settings.memory.device_bytes == 30 * 2**20
    assert 3 < engine.engine_args["start_s"] < 6
    assert spec.ladder.level_1_s == 30


def test_one_fleet_is_asked_not_two(tmp_path: Path) -> None:
    asked = Scenario.model_validate(TINY)
    with pytest.raises(BenchError, match="give one of"):
        target_of(asked, tmp_path / "f.yaml", "http://x", None, None, Options())


def test_policies_are_compared_where_one_model_fits_awake() -> None:
    for file in ("examples/room-for-one.yaml", "benchmarks/fleets/room-for-one-fake.yaml"):
        raw = yaml.safe_load((ROOT / file).read_text())
        names = [model["name"] for model in raw["models"]]
        assert names == [model.name for model in scenarios.read("laptop-bursts").models]
    settings = load(ROOT / file)
    awake, asleep = (settings.models[0].spec.footprints[d] for d in (Depth.AWAKE, Depth.LEVEL_1))
    least = awake.device_bytes + 2 * asleep.device_bytes
    assert least <= settings.memory.device_bytes < 2 * awake.device_bytes


def test_a_policy_changes_what_the_fleet_decides_and_nothing_else() -> None:
    settings = fake_fleet(Scenario.model_validate(TINY), "a100", speed=10)
    known = chosen("all")
    assert known["torpor"].applied(settings) == settings
    swapping, plain = (known[name].applied(settings) for name in ("fifo-swap", "no-sleep"))
    assert swapping.policy.evict_to is plain.policy.evict_to is Depth.STOPPED
    assert known["fifo-sleep"].applied(settings).policy.evict_to is Depth.LEVEL_1
    assert [known[name].in_order for name in known] == [False, True, True, False]
    ladders = [s.models[0].spec.ladder for s in (swapping, plain)]
    assert ladders == [Ladder(), Ladder(stopped_s=settings.models[0].spec.ladder.level_2_s)]
    assert swapping.models[0].engine == settings.models[0].engine
    with pytest.raises(BenchError, match="no policy 'mine'"):
        chosen("mine")


def test_a_running_fleet_keeps_its_policy() -> None:
    asked = Scenario.model_validate(TINY)
    with pytest.raises(BenchError, match="--policy needs"):
        target_of(asked, None, "http://x", None, None, Options(policies=chosen("fifo-swap")))


@pytest.mark.parametrize("arguments", [["nope"], ["cron-agents", "--fake", "--costs", "nope"]])
def test_what_cannot_be_asked_is_one_line(arguments: list[str]) -> None:
    found = CliRunner().invoke(bench, ["load", *arguments])
    assert found.exit_code == 2
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_fleet_of_fake_engines_under_load(tmp_path: Path) -> None:
    """A swap takes seconds: of few requests, three are for the model that is not awake."""
    path, out, brief = tmp_path / "tiny.yaml", tmp_path / "r.json", TINY | {"duration_s": 8}
    due = arrivals(Scenario.model_validate(brief), seed=3)
    assert [request.model for request in due] == ["a", "b", "a", "a", "b"]
    path.write_text(yaml.safe_dump(brief))
    asked = ["load", str(path), "--fake", "--speed", "20", "--seed", "3", "--out", str(out)]
    found = CliRunner().invoke(bench, [*asked, "--policy", "torpor,fifo-swap"])
    assert found.exit_code == 0, found.stderr
    result = read(out)
    for policy in ("torpor", "fifo-swap"):
        (requests,) = result.find("requests", policy=policy)
        assert requests.values[0] == len(due)
        (ttft,) = result.find("ttft", policy=policy)
        (shed,) = result.find("shed", policy=policy)
        assert len(ttft.values) + shed.values[0] == requests.values[0]
        assert {span.lane for span in result.timelines[f"tiny {policy}"]} == {"a#0", "b#0"}
    assert result.find("wakes", level="level_1", policy="torpor")
    assert not result.find("starts", policy="torpor")
    assert not result.find("wakes", policy="fifo-swap")
    assert result.find("starts", policy="fifo-swap")
