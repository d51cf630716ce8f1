"""The pass-through, over real sockets: bytes, headers, streams, waits, broken engines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from controller.api.app import ApiSettings
from controller.api.routes import InferenceLimits
from controller.core.names import ModelState, Priority, RejectReason
from controller.ports import Refused
from tests.api.conftest import Stand
from tests.api.engine import KEY, ScriptedEngine, Seen, hangs, rude_engine, says, streams
from workers.engine import Endpoint

CHAT = "/v1/chat/completions"
EVENT = b'data: {"n": 1}\n\n'
NOBODY = Endpoint("127.0.0.1", 1, KEY)


def asks(model: str = "chat", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [], **more}


async def test_what_is_asked_keeps_its_sense_and_the_answer_its_bytes(stand: Stand) -> None:
    asked = b'"a":1.5,"n":123456789012345678901234567890,"e":1e22,"u":"\xe2\x80\xa8<\\u0001"}'
    body = b'{"b": "\\u00e9",  "model" :"chat", ' + asked.replace(b"1.5", b"1.50") + b"\n"
    engine = await stand.engine(says(200, b'{"said":  "\xc3\xa9"}'))
    client = await stand.open()
    answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.content == b'{"said":  "\xc3\xa9"}'
    salt, rest = engine.seen[0].body[:81], engine.seen[0].body[81:]
    assert salt.startswith(b'{"cache_salt":"')
    assert rest == b'"b":"\xc3\xa9","model":"chat",' + asked
    assert engine.seen[0].path == CHAT


async def test_only_the_engines_key_reaches_the_engine(stand: Stand) -> None:
    engine = await stand.engine()
    client = await stand.open()
    headers = {"authorization": "Bearer mine", "x-api-key": "mine", "cookie": "c=1"}
    await client.post(CHAT, json=asks(), headers=headers | {"traceparent": "00-1-2-3"})
    seen = engine.seen[0].headers
    assert seen["authorization"] == f"Bearer {KEY}"
    assert seen["traceparent"] == "00-1-2-3"
    assert not {"x-api-key", "cookie"} & seen.keys()


async def test_headers_tell_of_the_wait(stand: Stand) -> None:
    stand.leases.state = ModelState.WOKEN
    await stand.engine()
    client = await stand.open()
    answer = await client.post(CHAT, json=asks(), headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-torpor-model-state"] == "woken"
    assert int(answer.headers["x-torpor-queue-ms"]) >= 0
    assert int(answer.headers["x-torpor-wake-ms"]) >= 0
    assert answer.headers["x-engine"] == "yes"
    assert stand.leases.waits[0].request_id == "mine-1"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é".encode().decode("latin-1")])
async def test_an_odd_request_id_is_replaced(stand: Stand, given: str) -> None:
    await stand.engine()
    client = await stand.open()
    headers = {"x-request-id": given.encode("latin-1")}
    answer = await client.post(CHAT, json=asks(), headers=headers)
    assert answer.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize(
    "field",
    [
        '"cache_salt": "theirs"',
        '"cache\\u005fsalt": "theirs"',
        '"kv_transfer_params": {"lmcache.skip": true}',
        '"vllm_xargs": {"kv_transfer_params": "x"}',
    ],
)
async def test_what_steers_kv_is_removed(stand: Stand, field: str) -> None:
    engine = await stand.engine()
    client = await stand.open()
    raw = '{"model": "chat", "messages": [], ' + field + "}"
    await client.post(CHAT, content=raw)
    got = engine.seen[0].json()
    assert got.pop("vllm_xargs", {}) == {}
    assert got.pop("cache_salt") != "theirs"
    assert got == asks()


async def test_a_key_that_comes_twice_is_settled_before_the_engine(stand: Stand) -> None:
    engine = await stand.engine(model="chat")
    client = await stand.open()
    await client.post(CHAT, content=b'{"model": "other", "model": "chat"}')
    assert engine.seen[0].body.endswith(b'","model":"chat"}')


async def test_an_engines_own_error_is_passed_on(stand: Stand) -> None:
    await stand.engine(says(404, b'{"detail":"Not Found"}'))
    client = await stand.open()
    answer = await client.post("/v1/rerank", json=asks())
    assert (answer.status_code, answer.content) == (404, b'{"detail":"Not Found"}')
    assert answer.headers["x-torpor-model-state"] == "awake"


async def test_classification_is_found_where_vllm_has_it(stand: Stand) -> None:
    engine = await stand.engine()
    client = await stand.open()
    await client.post("/v1/classify", json=asks(input="x"))
    assert engine.seen[0].path == "/classify"


async def test_a_form_goes_to_the_model_it_names(stand: Stand) -> None:
    engine = await stand.engine()
    client = await stand.open()
    sound = b"\x00\x01--boundary\r\n" * 2000
    answer = await client.post(
        "/v1/audio/transcriptions", data={"model": "chat"}, files={"file": ("a.wav", sound)}
    )
    assert answer.status_code == 200
    assert sound in engine.seen[0].body
    assert engine.seen[0].headers["content-type"].startswith("multipart/form-data; boundary=")


async def test_a_large_body_arrives(stand: Stand) -> None:
    engine = await stand.engine()
    stand.settings = type(stand.settings)()
    client = await stand.open()
    await client.post(CHAT, json=asks(text="x" * 3_000_000))
    assert len(engine.seen[0].json()["text"]) == 3_000_000


async def test_a_stream_arrives_as_it_comes(stand: Stand) -> None:
    engine = await stand.engine(streams(EVENT, EVENT, then="go_on"))
    client = await stand.open()
    async with client.stream("POST", CHAT, json=asks(stream=True)) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-torpor-model-state"] == "awake"
        arriving = answer.aiter_raw()
        got = await anext(arriving)
        engine.go_on.set()
        async for chunk in arriving:
            got += chunk
    assert got == EVENT + EVENT


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_leaves_aborts_the_engines_work(stand: Stand, is_stream: bool) -> None:
    engine = await stand.engine(streams(EVENT, then="hang") if is_stream else hangs)
    client = await stand.open()
    asking = asyncio.create_task(client.post(CHAT, json=asks(stream=is_stream)))
    await engine.busy.wait()
    asking.cancel()
    await asyncio.wait_for(engine.aborted.wait(), 10)
    await asyncio.wait_for(stand.leases.idle.wait(), 10)
    assert stand.leases.held == 0
    assert not stand.leases.broken


async def test_a_client_that_leaves_while_waiting_is_withdrawn(stand: Stand) -> None:
    stand.leases.gates["chat"] = asyncio.Event()
    await stand.engine()
    client = await stand.open()
    with pytest.raises(httpx.ReadTimeout):
        await client.post(CHAT, json=asks(), timeout=0.05)
    await asyncio.wait_for(stand.leases.withdrawn.wait(), 10)


async def test_a_waiting_stream_is_told_how_it_stands(stand: Stand) -> None:
    stand.leases.gates["chat"] = asyncio.Event()
    await stand.engine(streams(EVENT))
    client = await stand.open()
    async with client.stream("POST", CHAT, json=asks(stream=True)) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "x-torpor-model-state" not in answer.headers
        lines = answer.aiter_lines()
        for _ in range(2):
            assert await anext(lines) == ": torpor phase=waking estimate_ms=850"
            assert await anext(lines) == ""
        stand.leases.gates["chat"].set()
        rest = [line async for line in lines if line and "phase=" not in line]
    assert rest[0].startswith(": torpor state=awake queue_ms=")
    assert rest[1:] == [EVENT.decode().strip()]


async def test_a_waiting_request_that_is_no_stream_waits_silently(stand: Stand) -> None:
    stand.leases.gates["chat"] = asyncio.Event()
    await stand.engine()
    client = await stand.open()
    asking = asyncio.create_task(client.post(CHAT, json=asks()))
    await stand.leases.at_the_gate.wait()
    asyncio.get_running_loop().call_later(0.1, stand.leases.gates["chat"].set)
    answer = await asking
    assert int(answer.headers["x-torpor-queue-ms"]) >= 90
    assert answer.headers["content-type"] == "application/json"


async def test_a_refusal_after_comments_is_an_error_event(stand: Stand) -> None:
    stand.leases.gates["chat"] = asyncio.Event()
    stand.leases.refusals["chat"] = Refused(RejectReason.DEADLINE_PASSED, "waited 1 s")
    client = await stand.open()
    async with client.stream("POST", CHAT, json=asks(stream=True)) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        stand.leases.gates["chat"].set()
        rest = [line async for line in lines if line and not line.startswith(":")]
    assert rest[0] == "event: error"
    assert json.loads(rest[1].removeprefix("data: "))["error"]["code"] == "deadline_passed"


async def test_an_engines_error_after_comments_is_an_error_event(stand: Stand) -> None:
    stand.leases.gates["chat"] = asyncio.Event()
    await stand.engine(says(400, b'{"error": {"message": "too long", "code": 400}}'))
    client = await stand.open()
    async with client.stream("POST", CHAT, json=asks(stream=True)) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        stand.leases.gates["chat"].set()
        rest = [line async for line in lines if line and not line.startswith(":")]
    assert rest == ["event: error", 'data: {"error":{"message":"too long","code":400}}']


async def test_the_requests_own_limit_reaches_the_lease(stand: Stand) -> None:
    await stand.engine()
    client = await stand.open()
    await client.post(CHAT, json=asks(), headers={"x-torpor-max-wait-s": "2.5"})
    await client.post(CHAT, json=asks())
    assert [wait.max_wait_s for wait in stand.leases.waits] == [2.5, None]


@pytest.mark.parametrize("is_stream", [True, False])
async def test_engines_that_break_before_a_byte_are_replaced(stand: Stand, is_stream: bool) -> None:
    dead = says(500, b'{"error":{"message":"EngineCore encountered an issue. See stack trace"}}')
    dying = streams(b'data: {"error": {"message": "EngineCore encountered an issue."}}\n\n')
    good = streams(EVENT) if is_stream else says(200, EVENT)
    engine = await stand.engine(dying if is_stream else dead, good)
    async with rude_engine() as rude:
        stand.leases.endpoints["chat"] = [NOBODY, rude, engine.endpoint, engine.endpoint]
        client = await stand.open()
        answer = await client.post(CHAT, json=asks(stream=is_stream))
    assert answer.content == EVENT
    assert len(stand.leases.broken) == 3
    assert stand.leases.held == 0
    assert [wait.max_wait_s is None for wait in stand.leases.waits] == [True, False, False, False]


async def test_a_model_whose_engines_all_break_is_given_up(stand: Stand) -> None:
    stand.leases.endpoints["chat"] = [NOBODY]
    client = await stand.open()
    answer = await client.post(CHAT, json=asks())
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_failed"
    assert answer.headers["retry-after"] == "1"
    assert len(stand.leases.broken) == 4


async def test_a_stream_that_breaks_between_events_ends_with_an_error_event(stand: Stand) -> None:
    await stand.engine(streams(EVENT, then="cut"))
    client = await stand.open()
    answer = await client.post(CHAT, json=asks(stream=True))
    assert answer.content.startswith(EVENT + b"event: error\ndata: {")
    assert b"engine_failed" in answer.content
    assert len(stand.leases.broken) == 1


@pytest.mark.parametrize("turn", [streams(b"data: {", then="cut")])
async def test_an_answer_that_breaks_elsewhere_is_cut_off(stand: Stand, turn: Any) -> None:
    await stand.engine(turn)
    client = await stand.open()
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(CHAT, json=asks(stream=True))


async def test_a_silent_engine_is_not_waited_for_for_ever(stand: Stand) -> None:
    limits = type(stand.settings.upstream)(silence_s=0.05)
    stand.settings = type(stand.settings)(upstream=limits)
    await stand.engine(hangs)
    client = await stand.open()
    answer = await client.post(CHAT, json=asks())
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_silent")
    assert len(stand.leases.broken) == 1


async def test_an_engine_that_refuses_our_key_is_broken(stand: Stand) -> None:
    await stand.engine(says(401, b"{}"))
    client = await stand.open()
    answer = await client.post(CHAT, json=asks())
    assert answer.status_code == 200
    assert stand.leases.broken[0][1] == "the engine refused our key"


async def test_a_client_that_takes_nothing_loses_its_lease(stand: Stand) -> None:
    async def pours(engine: ScriptedEngine, seen: Seen, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            await asyncio.sleep(0)  # the server does not yield once its client is gone

    engine = await stand.engine(pours)
    stand.settings = ApiSettings(inference=InferenceLimits(client_stall_s=0.05))
    await stand.open()
    _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(stand.url).port)
    body = json.dumps(asks()).encode()
    writer.write(b"POST %b HTTP/1.1\r\nhost: localhost\r\n" % CHAT.encode())
    writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
    await asyncio.wait_for(engine.aborted.wait(), 10)
    await asyncio.wait_for(stand.leases.idle.wait(), 10)
    writer.transport.abort()


async def test_a_body_that_never_comes_is_not_waited_for(stand: Stand) -> None:
    stand.settings = ApiSettings(inference=InferenceLimits(body_s=0.05))
    await stand.open()
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(stand.url).port)
    writer.write(b"POST %b HTTP/1.1\r\nhost: localhost\r\n" % CHAT.encode())
    writer.write(b"content-length: 10\r\n\r\n")
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 10)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("tier", "priority"),
    [
        ("priority", Priority.PRIORITY),
        ("flex", Priority.FLEX),
        ("auto", Priority.DEFAULT),
        (None, Priority.DEFAULT),
        (["flex"], Priority.DEFAULT),
    ],
)
async def test_the_service_tier_says_who_goes_first(
    stand: Stand, tier: object, priority: Priority
) -> None:
    client = await stand.open()
    await client.post(CHAT, json={"model": "chat", "service_tier": tier})
    assert stand.leases.waits[0].priority is priority
