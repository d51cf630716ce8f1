"""Two carriers and a deciding process on one port, and what is left when either is killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from controller.crew import Crew, command, doors
from controller.keyring import new_key
from controller.records_server import RecordsServer
from controller.settings import load
from workers.engine import EngineSpec
from workers.fake_engine import FakeEngine

pytestmark = pytest.mark.timeout(300)

KEY, KEPT = new_key("test", "tests", ["inference", "admin"])
Child = subprocess.Popen[bytes]


@dataclass
class Stand:
    client: httpx.AsyncClient
    crew: Crew
    decider_command: list[str]
    decider: Child
    log: Path

    def kill_decider(self) -> None:
        self.decider.kill()
        self.decider.wait()

    def start_decider(self) -> None:
        self.decider = subprocess.Popen(self.decider_command)

    async def running(self) -> int:
        return int((await self.get("/fleet/models/m"))["running"])

    async def until_running(self, count: int) -> None:
        while await self.running() != count:
            pass

    async def get(self, path: str) -> Any:
        """Of a deciding process, as soon as there is one."""
        while (answer := await self.client.get(path)).status_code == 503:
            pass
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ask(self) -> httpx.Response:
        return await self.client.post("/v1/completions", json=asked(2))


def asked(tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "one two", "max_tokens": tokens, **more}


@asynccontextmanager
async def a_stand(
    conversations: dict[str, Any] | None = None, **server: Any
) -> AsyncIterator[Stand]:
    """The engine runs in this process, so that it outlives the others."""
    spec = EngineSpec("m", "x", engine_args={"token_delay_s": 0.02}, kind="fake")
    engine = FakeEngine(spec, key="engine-key")
    endpoint = (await engine.start()).endpoint
    with TemporaryDirectory(prefix="t-") as name, doors("127.0.0.1", 0, 2) as listening:
        directory = Path(name)
        port = listening[0].getsockname()[1]
        settings = _settings(directory, port, conversations or {}, **server)
        (directory / "settings.json").write_text(settings)
        decider = [
            *(sys.executable, str(Path(__file__).with_name("lone_decider.py"))),
            *(str(directory / "settings.json"), name, str(endpoint.port), endpoint.key),
        ]
        crew = Crew(
            listening,
            lambda door: subprocess.Popen(
                command(directory / "settings.json", directory, door), pass_fds=[door.fileno()]
            ),
            lambda code: None,
        )
        url = f"http://127.0.0.1:{listening[0].getsockname()[1]}"
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
            stand = Stand(client, crew, decider, _started(decider), directory)
            try:
                crew.begin()
                yield stand
            finally:
                stand.decider.kill()
                stand.decider.wait()
                crew.signal(signal.SIGKILL)
                crew.close()
                await engine.stop()


def _started(argv: list[str]) -> Child:
    return subprocess.Popen(argv)


def _settings(directory: Path, port: int, conversations: dict[str, Any], **server: Any) -> str:
    known = {"name": KEPT.name, "tenant": KEPT.tenant, "roles": ["inference", "admin"]}
    raw = {
        "device": "cpu",
        "state_dir": "state",
        "conversations": conversations,
        "server": {"port": port, "keys": [{**known, "sha256": KEPT.sha256}], **server},
        "models": [{"name": "m", "path": "x", "kind": "fake", "footprint": {"awake_gib": 0.1}}],
    }
    config = directory / "fleet.yaml"
    config.write_text(yaml.safe_dump(raw))
    return replace(load(config, {}), source=None).to_json()


async def test_requests_are_carried_and_all_else_is_passed_on() -> None:
    async with a_stand() as stand:
        answers = await asyncio.gather(*(stand.ask() for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert (await stand.get("/v1/models"))["data"][0]["id"] == "m"
        unknown = await stand.client.post("/v1/completions", json={"model": "x"})
        assert unknown.status_code == 404
        assert "Known models: m." in unknown.json()["error"]["message"]
        foreign = await stand.client.get("/fleet", headers={"authorization": "Bearer x"})
        assert foreign.status_code == 401
        pinned = await stand.client.post("/fleet/models/m/pin", headers={"x-request-id": "mine"})
        assert pinned.headers.get_list("x-request-id") == ["mine"]
        log = (stand.log / "state/logs/controller.log").read_text()
        (act,) = [line for line in log.splitlines() if '"request_id": "mine"' in line]
        assert '"who": "test"' in act
        assert '"client": "127.0.0.1"' in act


async def test_what_carriers_count_is_added_up() -> None:
    async with a_stand() as stand:
        await asyncio.gather(*(stand.ask() for _ in range(20)))
        while (found := await counted(stand)).get("torpor_requests_total") != 20:
            pass
        assert found["torpor_request_queue_seconds_count"] == 20
        assert found["torpor_request_ttft_seconds_count"] == 20


async def counted(stand: Stand) -> dict[str, float]:
    text = (await stand.client.get("/metrics")).text
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


async def test_requests_of_a_conversation_go_to_the_process_that_keeps_it() -> None:
    async with a_stand() as stand:
        await stand.get("/fleet")
        headers = {"x-conversation-id": "c-1"}
        answer = await stand.client.post("/v1/completions", json=asked(2), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["x-torpor-model-state"] == "awake"
        events = asked(3, stream=True, conversation_id="c-1")
        streamed = await stand.client.post("/v1/completions", json=events)
        assert streamed.text.endswith("data: [DONE]\n\n")
        (known,) = (await stand.get("/fleet/conversations"))["conversations"]
        assert (known["conversation"], known["turns"]) == ("c-1", 2)


async def test_what_asks_for_a_history_goes_to_the_process_that_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").write_text("00" * 32)
    with TemporaryDirectory(prefix="t-") as name:
        store = RecordsServer(Path(name), Path(name, "s"), lambda: None)
        store.start()
        monkeypatch.setenv("TORPOR_RECORDS_SOCKET", str(store.socket))
        async with a_stand({"history": {"keys_file": str(tmp_path / "keys")}}) as stand:
            await stand.get("/fleet")
            said = {"model": "m", "max_output_tokens": 8}
            first = await stand.client.post(
                "/v1/responses", json={**said, "input": "apples", "store": True}
            )
            assert first.status_code == 200, first.text
            again = {**said, "input": "pears", "previous_response_id": first.json()["id"]}
            second = (await stand.client.post("/v1/responses", json=again)).json()
            assert second["output"][0]["content"][0]["text"].split()[1] == "apples"
            made = (await stand.client.post("/v1/conversations", json={})).json()
            chat = {
                "model": "m",
                "messages": [{"role": "user", "content": "figs"}],
                "store": True,
                "conversation": made["id"],
            }
            assert (await stand.client.post("/v1/chat/completions", json=chat)).status_code == 200
            listed = await stand.get(f"/v1/conversations/{made['id']}/items")
            assert len(listed["data"]) == 2
        store.stop()


async def test_a_carrier_that_dies_holds_no_lease_and_comes_back() -> None:
    async with a_stand() as stand:
        await stand.get("/fleet")
        tending = Thread(target=stand.crew.tend, args=[stand.decider])
        tending.start()
        body = asked(10_000, stream=True)
        async with httpx.AsyncClient(timeout=60) as lone:
            request = stand.client.build_request("POST", "/v1/completions", json=body)
            running = await lone.send(request, stream=True)
            await stand.until_running(1)
            for child in psutil.Process().children():
                if "controller.carrier" in child.cmdline():
                    child.kill()
            with pytest.raises(httpx.TransportError):
                await running.aread()
            await running.aclose()
        async with fresh(stand) as client:
            stand.client = client
            await stand.until_running(0)
            assert (await stand.ask()).status_code == 200
        stand.decider.kill()
        await asyncio.to_thread(tending.join)


@asynccontextmanager
async def fresh(stand: Stand) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has no connection to anybody who is dead."""
    url, headers = stand.client.base_url, {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        yield client


async def test_streams_outlive_the_deciding_process_and_who_waits_is_served_by_the_next() -> None:
    async with a_stand() as stand:
        await stand.get("/fleet")
        events = asked(700, stream=True)
        async with stand.client.stream("POST", "/v1/completions", json=events) as running:
            lines = running.aiter_lines()
            await anext(lines)
            stand.kill_decider()
            waiting = asyncio.create_task(stand.ask())
            assert (await stand.client.get("/fleet")).status_code == 503
            stand.start_decider()
            assert (await waiting).status_code == 200
            assert await stand.running() == 1
            assert [line async for line in lines][-2:] == ["data: [DONE]", ""]
        await stand.until_running(0)


async def test_told_to_stop_carriers_let_their_responses_end() -> None:
    async with a_stand(drain_s=60) as stand:
        await stand.get("/fleet")
        events = asked(100, stream=True)
        async with stand.client.stream("POST", "/v1/completions", json=events) as running:
            lines = running.aiter_lines()
            await anext(lines)
            stand.crew.signal(signal.SIGTERM)
            stand.decider.terminate()
            assert [line async for line in lines][-2:] == ["data: [DONE]", ""]
        await asyncio.to_thread(stand.decider.wait)
