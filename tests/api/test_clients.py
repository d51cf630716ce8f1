"""The official clients: what they understand is what we mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anthropic
import openai
import pytest

from controller.core.names import RejectReason
from controller.ports import Refused
from tests.api.conftest import Stand
from tests.api.engine import says, streams

CHUNK = {
    "id": "1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "chat",
    "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}],
}
CHUNKS = [b"data: " + json.dumps(CHUNK).encode() + b"\n\n", b"data: [DONE]\n\n"]
SAID = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "chat",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "chat",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
ASKED = [{"role": "user", "content": "Hello"}]


@asynccontextmanager
async def openai_client(stand: Stand) -> AsyncIterator[openai.AsyncOpenAI]:
    await stand.open()
    async with openai.AsyncOpenAI(
        base_url=f"{stand.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@asynccontextmanager
async def anthropic_client(stand: Stand) -> AsyncIterator[anthropic.AsyncAnthropic]:
    await stand.open()
    async with anthropic.AsyncAnthropic(
        base_url=stand.url, api_key="none", max_retries=0
    ) as client:
        yield client


async def test_openai_chat(stand: Stand) -> None:
    await stand.engine(says(200, json.dumps(SAID).encode()))
    async with openai_client(stand) as client:
        said = await client.chat.completions.create(model="chat", messages=ASKED)
    assert said.choices[0].message.content == "Hi"


async def test_openai_stream_after_a_wait(stand: Stand) -> None:
    stand.leases.gates["chat"] = asyncio.Event()
    await stand.engine(streams(*CHUNKS))
    async with openai_client(stand) as client:
        stream = await client.chat.completions.create(model="chat", messages=ASKED, stream=True)
        stand.leases.gates["chat"].set()
        texts = [chunk.choices[0].delta.content async for chunk in stream]
    assert texts == ["Hi"]


async def test_openai_models(stand: Stand) -> None:
    async with openai_client(stand) as client:
        found = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("org/embed")
    assert found == ["chat", "org/embed"]
    assert one.model_extra is not None
    assert (one.model_extra["state"], one.model_extra["max_model_len"]) == ("awake", 4096)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (RejectReason.UNKNOWN_MODEL, openai.NotFoundError),
        (RejectReason.BACKLOG_FULL, openai.RateLimitError),
        (RejectReason.WAIT_TOO_LONG, openai.InternalServerError),
        (RejectReason.DEADLINE_PASSED, openai.InternalServerError),
    ],
)
async def test_openai_typed_errors(
    stand: Stand, reason: RejectReason, kind: type[openai.APIStatusError]
) -> None:
    stand.leases.refusals["chat"] = Refused(reason, "no", 3.2)
    async with openai_client(stand) as client:
        with pytest.raises(kind) as raised:
            await client.chat.completions.create(model="chat", messages=ASKED)
    assert raised.value.request_id is not None


async def test_openai_sees_an_error_inside_a_stream(stand: Stand) -> None:
    await stand.engine(streams(CHUNKS[0], then="cut"))
    async with openai_client(stand) as client:
        stream = await client.chat.completions.create(model="chat", messages=ASKED, stream=True)
        with pytest.raises(openai.APIError, match="failed while answering"):
            async for _ in stream:
                pass


async def test_anthropic_messages(stand: Stand) -> None:
    await stand.engine(says(200, json.dumps(MESSAGE).encode()))
    async with anthropic_client(stand) as client:
        said = await client.messages.create(model="chat", messages=ASKED, max_tokens=5)
    assert said.content[0].text == "Hi"


async def test_anthropic_count_tokens(stand: Stand) -> None:
    engine = await stand.engine(says(200, b'{"input_tokens": 7}'))
    async with anthropic_client(stand) as client:
        count = await client.messages.count_tokens(model="chat", messages=ASKED)
    assert count.input_tokens == 7
    assert engine.seen[0].path == "/v1/messages/count_tokens"


@pytest.mark.parametrize(
    ("reason", "kind", "type_"),
    [
        (RejectReason.UNKNOWN_MODEL, anthropic.NotFoundError, "not_found_error"),
        (RejectReason.BACKLOG_FULL, anthropic.RateLimitError, "rate_limit_error"),
        (RejectReason.CANNOT_START, anthropic.InternalServerError, "overloaded_error"),
    ],
)
async def test_anthropic_typed_errors(
    stand: Stand, reason: RejectReason, kind: type[anthropic.APIStatusError], type_: str
) -> None:
    stand.leases.refusals["chat"] = Refused(reason, "no", 3.2)
    async with anthropic_client(stand) as client:
        with pytest.raises(kind) as raised:
            await client.messages.create(model="chat", messages=ASKED, max_tokens=5)
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["type"] == "error"
    assert raised.value.body["error"]["type"] == type_


async def test_anthropic_sees_an_error_inside_a_stream(stand: Stand) -> None:
    stand.leases.gates["chat"] = asyncio.Event()
    stand.leases.refusals["chat"] = Refused(RejectReason.DEADLINE_PASSED, "waited too long")
    async with anthropic_client(stand) as client:
        stream = await client.messages.create(
            model="chat", messages=ASKED, max_tokens=5, stream=True
        )
        stand.leases.gates["chat"].set()
        with pytest.raises(anthropic.APIStatusError, match="waited too long"):
            async for _ in stream:
                pass
