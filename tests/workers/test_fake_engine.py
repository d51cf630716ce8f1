"""The fake engine's server speaks as a client of the real one expects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.workers.stand import eventually
from workers.engine import EngineSpec, Rest, Started, StartFailed
from workers.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "hello out there"}]


@asynccontextmanager
async def running(**args: Any) -> AsyncIterator[tuple[FakeEngine, Started]]:
    engine = FakeEngine(EngineSpec("m", "nowhere", kind="fake", engine_args=args), key="secret")
    started = await engine.start()
    yield engine, started
    await engine.close()


def url(started: Started) -> str:
    return f"http://{started.endpoint.host}:{started.endpoint.port}"


def client(started: Started) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url(started), headers={"authorization": "Bearer secret"})


async def test_the_official_openai_client_is_answered() -> None:
    async with running() as (_, started):
        base_url = f"{url(started)}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key="secret") as api:
            chat = await api.chat.completions.create(model="m", messages=HELLO, max_tokens=4)
            stream = await api.chat.completions.create(
                model="m", messages=HELLO, max_tokens=4, stream=True
            )
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            vector = await api.embeddings.create(model="m", input=["a", "b"])
    said = chat.choices[0].message.content
    assert said is not None
    assert said.endswith(" hello out there")
    assert "".join(parts) == said
    assert len(parts) == 4
    assert vector.data[0].embedding != vector.data[1].embedding


async def test_the_official_anthropic_client_is_answered() -> None:
    async with running() as (_, started):
        headers = {"authorization": "Bearer secret"}
        api = anthropic.AsyncAnthropic(
            base_url=url(started), api_key="unused", default_headers=headers
        )
        async with api:
            whole = await api.messages.create(model="m", messages=HELLO, max_tokens=3)
            async with api.messages.stream(model="m", messages=HELLO, max_tokens=3) as stream:
                parts = [text async for text in stream.text_stream]
    assert "".join(parts) == whole.content[0].text  # type: ignore[union-attr]


async def test_answers_depend_on_model_and_prompt_alone() -> None:
    async with running() as (_, one), running() as (_, another):
        prompt = {"prompt": "x y", "max_tokens": 3}
        said = [await _completion(started, prompt) for started in (one, another)]
        other = await _completion(one, {"prompt": "x z", "max_tokens": 3})
    assert said[0] == said[1] != other


async def test_usage_ends_a_stream_when_asked_for() -> None:
    async with running() as (_, started), client(started) as api:
        body = {"prompt": "a b", "stream": True, "stream_options": {"include_usage": True}}
        lines = (await api.post("/v1/completions", json=body)).text.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    assert json.loads(lines[-3].removeprefix("data: "))["usage"]["prompt_tokens"] == 2


async def test_only_health_is_for_everybody() -> None:
    async with running() as (_, started), httpx.AsyncClient(base_url=url(started)) as stranger:
        assert (await stranger.get("/health")).status_code == 200
        assert (await stranger.post("/tokenize", json={"prompt": "a"})).status_code == 401


@pytest.mark.parametrize(
    ("path", "content", "status"), [(CHAT, b"{", 400), ("/v1/unheard-of", b"{}", 404)]
)
async def test_what_it_cannot_serve_is_an_error_object(
    path: str, content: bytes, status: int
) -> None:
    async with running() as (_, started), client(started) as api:
        answer = await api.post(path, content=content)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_asleep_it_tokenizes_but_requests_hang_until_it_wakes() -> None:
    async with running() as (engine, started), client(started) as api:
        await engine.sleep(Rest.LEVEL_1)
        tokens = (await api.post("/tokenize", json={"prompt": "a b"})).json()
        assert (tokens["count"], tokens["max_model_len"]) == (2, 4096)
        asking = asyncio.create_task(api.post(CHAT, json={"messages": HELLO}))
        await eventually(lambda: engine.counts.while_asleep == 1)
        assert not asking.done()
        await engine.wake()
        assert (await asking).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_aborts_its_generation(stream: bool) -> None:
    async with running(token_delay_s=60.0) as (engine, started), client(started) as api:
        asking = asyncio.create_task(api.post(CHAT, json={"messages": HELLO, "stream": stream}))
        await eventually(lambda: engine.counts.running == 1)
        asking.cancel()
        await eventually(lambda: engine.counts.aborted == 1)
        assert engine.counts.running == 0


async def test_requests_break_in_the_order_that_was_asked_for() -> None:
    faults = {"request": ["fail", "drop", "ok"]}
    async with running(faults=faults) as (_, started), client(started) as api:
        assert (await api.post(CHAT, json={"messages": HELLO})).status_code == 500
        with pytest.raises(httpx.RemoteProtocolError):
            await api.post(CHAT, json={"messages": HELLO, "stream": True})
        assert (await api.post(CHAT, json={"messages": HELLO})).status_code == 200


async def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(StartFailed, match="tensor_paralel_size"):
        async with running(tensor_paralel_size=2):
            pass


async def _completion(started: Started, body: dict[str, Any]) -> str:
    async with client(started) as api:
        answer = (await api.post("/v1/completions", json=body)).json()
        return str(answer["choices"][0]["text"])
