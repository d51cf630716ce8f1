"""Answers of engines that are frozen in the middle: what the client is told, and what ends none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from controller.api.upstream import UpstreamLimits
from tests.api.conftest import Stand
from tests.api.engine import ScriptedEngine, Seen, Turn
from tests.api.test_inference import CHAT, EVENT, asks

COMMENT = b": torpor phase=frozen\n\n"
SILENCE_S = 0.1
"""A frozen engine is looked for twice as often."""


def says_then_freezes(before: tuple[bytes, ...], after: bytes, kind: str) -> Turn:
    """Each piece is sent by itself; the rest when told to."""

    async def turn(engine: ScriptedEngine, seen: Seen, send: Any) -> None:
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in before:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await rounds(0.2)
        engine.busy.set()
        await engine.go_on.wait()
        await send({"type": "http.response.body", "body": after})

    return turn


@asynccontextmanager
async def frozen(
    stand: Stand, *before: bytes, after: bytes = EVENT, kind: str = "text/event-stream"
) -> AsyncIterator[tuple[ScriptedEngine, httpx.AsyncClient]]:
    """The engine counts as frozen all the while, so that no slow machine makes it silent."""
    limits = UpstreamLimits(connect_s=2.0, silence_s=SILENCE_S)
    stand.settings = replace(stand.settings, upstream=limits)
    engine = await stand.engine(says_then_freezes(before, after, kind))
    stand.leases.cold.append(engine.endpoint)
    yield engine, await stand.open()


def events(got: bytes) -> list[bytes]:
    """Without comments."""
    return [part + b"\n\n" for part in got.split(b"\n\n")[:-1] if not part.startswith(b":")]


async def rounds(count: float) -> None:
    """So many looks at frozen engines have been taken; more on a slow machine."""
    await asyncio.wait({asyncio.create_task(asyncio.Event().wait())}, timeout=count * SILENCE_S)


@pytest.mark.parametrize("before", [(EVENT,), ()], ids=["begun", "before the first event"])
async def test_a_frozen_stream_is_told_so_again_and_again(
    stand: Stand, before: tuple[bytes, ...]
) -> None:
    async with frozen(stand, *before) as (engine, client):
        got = b""
        async with client.stream("POST", CHAT, json=asks(stream=True)) as stream:
            async for chunk in stream.aiter_bytes():
                got += chunk
                if len(events(got)) == len(before) and got.endswith(COMMENT * 3):
                    engine.go_on.set()
    assert events(got) == [*before, EVENT]
    assert COMMENT * 3 in got


async def test_never_in_the_middle_of_an_event(stand: Stand) -> None:
    half, rest = EVENT[:9], EVENT[9:]
    async with frozen(stand, half, after=rest) as (engine, client):
        asking = asyncio.create_task(client.post(CHAT, json=asks(stream=True)))
        await engine.busy.wait()
        await rounds(3)
        assert not asking.done()
        engine.go_on.set()
        assert (await asking).content.endswith(EVENT)


async def test_an_event_that_ends_in_pieces_has_ended(stand: Stand) -> None:
    """Its last line feed comes alone."""
    async with frozen(stand, EVENT[:-1], EVENT[-1:]) as (engine, client):
        got = b""
        async with client.stream("POST", CHAT, json=asks(stream=True)) as stream:
            async for chunk in stream.aiter_bytes():
                got += chunk
                if EVENT + COMMENT in got:
                    engine.go_on.set()
    assert events(got) == [EVENT, EVENT]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_that_is_no_stream_is_told_nothing_and_not_given_up(
    stand: Stand, is_stream: bool
) -> None:
    """Also where a stream was asked for, and half of it is here."""
    whole = frozen(stand, b'{"a"', after=b": 1}", kind="application/json")
    async with whole as (engine, client):
        asking = asyncio.create_task(client.post(CHAT, json=asks(stream=is_stream)))
        await engine.busy.wait()
        await rounds(3)
        engine.go_on.set()
        answer = await asking
    assert (answer.status_code, answer.content) == (200, b'{"a": 1}')
    assert stand.leases.broken == []


async def test_once_it_has_thawed_its_silence_counts_again(stand: Stand) -> None:
    async with frozen(stand, EVENT) as (_, client):
        got, answer = b"", client.stream("POST", CHAT, json=asks(stream=True))
        async with answer as stream:
            async for chunk in stream.aiter_bytes():
                got += chunk
                if COMMENT in got:
                    stand.leases.cold.clear()
    assert b"engine_silent" in got


async def test_a_client_that_leaves_a_frozen_engine_ends_the_request_there(stand: Stand) -> None:
    async with frozen(stand, EVENT) as (engine, client):
        asking = asyncio.create_task(client.post(CHAT, json=asks(stream=True)))
        await engine.busy.wait()
        asking.cancel()
        await asyncio.wait_for(engine.aborted.wait(), 10)
        await asyncio.wait_for(stand.leases.idle.wait(), 10)


async def test_the_requests_own_word_reaches_the_lease(stand: Stand) -> None:
    await stand.engine()
    client = await stand.open()
    await client.post(CHAT, json=asks())
    await client.post(CHAT, json=asks(), headers={"x-torpor-freeze": "never"})
    assert [wait.can_freeze for wait in stand.leases.waits] == [True, False]
    wrong = await client.post(CHAT, json=asks(), headers={"x-torpor-freeze": "sometimes"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-torpor-freeze")
