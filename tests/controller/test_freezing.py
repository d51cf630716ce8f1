"""A whole controller over fake engines: long answers frozen for others, on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.controller.conversing import MIB, NEVER, controlled
from tests.workers.stand import eventually
from workers.local_pool import LocalPool

COMPLETIONS = "/v1/completions"
COMMENT = ": torpor phase=frozen"
TOKENS = 60
pytestmark = pytest.mark.timeout(120)


@dataclass
class Stand:
    client: httpx.AsyncClient
    pool: LocalPool

    async def view(self, model: str) -> dict[str, Any]:
        return dict((await self.client.get(f"/fleet/models/{model}")).json())

    async def until(self, model: str, **wanted: Any) -> None:
        while not wanted.items() <= (await self.view(model)).items():
            pass

    async def metric(self, line: str) -> float:
        lines = (await self.client.get("/metrics")).text.splitlines()
        return sum(float(text.split()[-1]) for text in lines if text.startswith(line + " "))

    async def freezes(self, model: str) -> float:
        return await self.metric(f'torpor_freezes_total{{model="{model}"}}')

    async def ask(self, model: str, tokens: int = 2, **more: Any) -> httpx.Response:
        return await self.client.post(COMPLETIONS, json=asked(model, tokens), **more)

    async def awake(self, model: str) -> None:
        answer = await self.client.post(f"/fleet/models/{model}/wake", params={"wait": "true"})
        assert answer.status_code == 200, answer.text


@dataclass
class Stream:
    """A long answer as its client reads it: its tokens, and the comments among its events."""

    stand: Stand
    model: str
    headers: dict[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    frozen: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> str:
        body = asked(self.model, TOKENS, stream=True)
        raw = ""
        async with self.stand.client.stream(
            "POST", COMPLETIONS, json=body, headers=self.headers
        ) as answer:
            assert answer.status_code == 200
            async for text in answer.aiter_text():
                raw += text
                self.begun.set()
                if COMMENT in raw:
                    self.frozen.set()
        parts = raw.split("\n\n")
        assert parts.pop() == ""
        self.comments = [part for part in parts if part.startswith(":")]
        self.events = [part for part in parts if not part.startswith(":")]
        assert all(part.startswith(("data: ", "event: error\n")) for part in self.events)
        return "".join(_text(event) for event in self.events)


def _text(event: str) -> str:
    said = event.partition("data: ")[2]
    choices = json.loads(said).get("choices", ()) if said.startswith("{") else ()
    return "".join(choice["text"] for choice in choices)


def asked(model: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "one two three", "max_tokens": tokens, **more}


def fake(name: str, **arguments: Any) -> dict[str, Any]:
    size = {"device_bytes": 1000 * MIB, "kv_bytes": 400 * MIB, "residual_bytes": MIB}
    engine_args = {**size, "token_delay_s": 0.01, **arguments}
    return {"name": name, "path": "x", "kind": "fake", "engine_args": engine_args}


LONG = fake("b", token_delay_s=0.05) | {"freeze": False}


@asynccontextmanager
async def a_stand(directory: Path, *models: dict[str, Any]) -> AsyncIterator[Stand]:
    """There is room for one of the models."""
    raw = {
        "device": "cpu",
        "memory": {"device_budget_gib": 1.5},
        "policy": {
            "maximum_wait_behind_s": 0.2,
            "minimum_awake_s": 0.05,
            "prefetch_start": False,
            "restart_backoff_s": 0.05,
        },
        "defaults": {"footprint": {"awake_gib": 1.0}, "idle": NEVER},
        "models": list(models),
    }
    pool = LocalPool()
    async with (
        controlled(directory, raw, pool) as url,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
    ):
        yield Stand(client, pool)


async def undisturbed(stand: Stand, model: str) -> str:
    return str((await stand.ask(model, TOKENS)).json()["choices"][0]["text"])


async def test_a_frozen_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    """The other's answer is long, too, so that the client is told of the freeze meanwhile."""
    async with a_stand(tmp_path, fake("a"), LONG) as stand:
        whole = await undisturbed(stand, "a")
        stream = Stream(stand, "a")
        reading = asyncio.create_task(stream.read())
        await stream.begun.wait()
        other = asyncio.create_task(stand.ask("b", 40))
        await stand.until("a", state="frozen")
        assert (await stand.view("a"))["replicas"][0]["frozen"] == 1
        assert (await other).status_code == 200
        assert await reading == whole
        assert COMMENT in stream.comments
        assert stream.events[-1] == "data: [DONE]"
        freezes = await stand.freezes("a")
        seconds = await stand.metric('torpor_frozen_seconds_count{model="a"}')
        told = (await stand.client.get("/fleet/models/a/why")).json()["story"]
    assert freezes == seconds >= 1
    assert any("frozen with 1 running: evicted for b" in line["what"] for line in told)


async def test_both_long_streams_end_as_if_alone(tmp_path: Path) -> None:
    async with a_stand(tmp_path, fake("a"), fake("b")) as stand:
        alone = [await undisturbed(stand, model) for model in "ab"]
        streams = [Stream(stand, model) for model in "ab"]
        assert await asyncio.gather(*(stream.read() for stream in streams)) == alone
        assert sum([await stand.freezes(model) for model in "ab"]) >= 1


async def test_an_answer_that_is_no_stream_waits_silently(tmp_path: Path) -> None:
    async with a_stand(tmp_path, fake("a"), fake("b")) as stand:
        whole = await undisturbed(stand, "a")
        long = asyncio.create_task(stand.ask("a", TOKENS))
        await stand.until("a", running=1)
        other = asyncio.create_task(stand.ask("b"))
        await stand.until("a", state="frozen")
        assert (await other).status_code == 200
        assert (await long).json()["choices"][0]["text"] == whole


async def test_who_does_not_want_it_is_not_frozen(tmp_path: Path) -> None:
    async with a_stand(tmp_path, fake("a"), fake("b")) as stand:
        stream = Stream(stand, "a", {"x-torpor-freeze": "never"})
        reading = asyncio.create_task(stream.read())
        await stream.begun.wait()
        assert (await stand.ask("b")).status_code == 200
        assert len((await reading).split()) == TOKENS
        assert COMMENT not in stream.comments
        assert await stand.freezes("a") == 0
        wrong = await stand.ask("b", headers={"x-torpor-freeze": "often"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "x-torpor-freeze"


async def test_a_model_may_be_left_out(tmp_path: Path) -> None:
    async with a_stand(tmp_path, fake("a") | {"freeze": False}, fake("b")) as stand:
        reading = asyncio.create_task(stand.ask("a", TOKENS))
        await stand.until("a", running=1)
        assert (await stand.ask("b")).status_code == 200
        assert (await reading).status_code == 200
        assert await stand.freezes("a") == 0


async def test_a_client_that_leaves_while_frozen_is_forgotten_by_the_engine(
    tmp_path: Path,
) -> None:
    async with a_stand(tmp_path, fake("a"), LONG) as stand:
        stream = Stream(stand, "a")
        reading = asyncio.create_task(stream.read())
        await stream.begun.wait()
        other = asyncio.create_task(stand.ask("b", 40))
        await stand.until("a", state="frozen")
        reading.cancel()
        await stand.until("a", running=0)
        counts = stand.pool.counts("a#0")
        await eventually(lambda: not counts.running)
        assert (counts.aborted, counts.frozen) == (1, 0)
        assert (await other).status_code == 200
        assert (await stand.view("a"))["state"] != "frozen"


@pytest.mark.parametrize("fault", ["canary", "fail", "die"])
async def test_a_stream_whose_engine_wakes_wrong_ends_with_an_error(
    tmp_path: Path, fault: str
) -> None:
    """And without another word of that engine."""
    models = (fake("a", faults={"wake": [fault]}), fake("b"))
    async with a_stand(tmp_path, *models) as stand:
        stream = Stream(stand, "a")
        reading = asyncio.create_task(stream.read())
        await stream.begun.wait()
        assert (await stand.ask("b")).status_code == 200
        said = await reading
        assert len(said.split()) < TOKENS
        assert "engine_failed" in stream.events[-1]
        assert (await stand.ask("a")).status_code == 200, "a fresh engine serves"


async def test_a_stream_whose_engine_dies_frozen_ends_with_an_error(tmp_path: Path) -> None:
    async with a_stand(tmp_path, fake("a"), LONG) as stand:
        stream = Stream(stand, "a")
        reading = asyncio.create_task(stream.read())
        await stream.begun.wait()
        other = asyncio.create_task(stand.ask("b", 40))
        await stand.until("a", state="frozen")
        stand.pool.kill_engine("a#0")
        await reading
        assert "engine_failed" in stream.events[-1]
        assert (await other).status_code == 200
