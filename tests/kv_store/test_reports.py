"""Reports over a real socket, and the response header that is made of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from kv_store.reports import MOST_TOKENS, Found, Reporter, Reports, Stored
from kv_store.turns import PATH, TurnTold
from workers.kv_header import KVHeader
from workers.kv_turns import KVTurns

FOUND = Found("cmpl-abc-0-1234", prompt_tokens=1834, engine_tokens=0, tier_tokens=1792)
STORED = Stored("cmpl-abc-0-1234", tokens=2000, stored_tokens=1920, already_tokens=1792)


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[Reports]:
    received = Reports(tmp_path / "reports")
    yield received
    received.close()


@pytest.fixture
def reporter(reports: Reports, tmp_path: Path) -> Iterator[Reporter]:
    telling = Reporter(str(tmp_path / "reports"))
    yield telling
    telling.close()


def test_what_was_told_is_known_by_a_part_of_its_id(reports: Reports, reporter: Reporter) -> None:
    reporter.send(FOUND)
    reporter.send(STORED)

    assert reports.receive() == [FOUND, STORED]
    assert reports.found("abc") == FOUND
    assert reports.stored("cmpl-abc-0-1234") == STORED
    assert reports.found("another") is None


def test_the_latest_of_equal_ids_counts(reports: Reports, reporter: Reporter) -> None:
    again = Found("cmpl-abc-0-9999", 10, 0, 0)
    reporter.send(FOUND)
    reporter.send(again)

    assert reports.found("abc") == again


def test_a_store_that_failed_shortens_what_was_stored() -> None:
    assert STORED.up_to(None) == STORED
    assert STORED.up_to(1792).stored_tokens == 1792
    assert STORED.up_to(1952).stored_tokens == 1920


def test_nobody_waits_for_a_reader(tmp_path: Path) -> None:
    unread = Reports(tmp_path / "unread")
    for address in (None, str(tmp_path / "nobody"), str(tmp_path / "unread")):
        telling = Reporter(address)
        for _ in range(10_000):
            telling.send(FOUND)
        telling.close()
    assert 0 < len(unread.receive()) < 10_000, "a socket's buffer is finite"
    unread.close()


class Answering:
    """An app whose request finds what it is told to find, as its first byte comes."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.finds: dict[str, Any] | None = None

    async def answer(self, request: Request) -> Response:
        asked = request.headers["x-request-id"]

        async def body() -> AsyncIterator[bytes]:
            if self.finds is not None:
                self._reporter.send(Found(f"chatcmpl-{asked}-1", 100, **self.finds))
            yield b"one"
            yield b"two"

        return StreamingResponse(body())

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("ok")


@pytest.fixture
def answering(reporter: Reporter) -> Answering:
    return Answering(reporter)


@pytest.fixture
async def client(answering: Answering, reports: Reports) -> AsyncIterator[httpx.AsyncClient]:
    routes = [
        Route("/ask", answering.answer, methods=["POST"]),
        Route("/health", answering.health),
    ]
    app: Any = KVHeader(Starlette(routes=routes), reports, tier=None, durable={"": "redis"})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as asking:
        yield asking


@pytest.mark.parametrize(
    ("finds", "header"),
    [
        ({"engine_tokens": 0, "tier_tokens": 0}, "hit=0 of 100 tier=none"),
        ({"engine_tokens": 96, "tier_tokens": 0}, "hit=96 of 100 tier=engine"),
        ({"engine_tokens": 16, "tier_tokens": 64}, "hit=64 of 100 tier=unknown"),
        (
            {"engine_tokens": 0, "tier_tokens": 0, "why": "slow"},
            "hit=0 of 100 tier=none why=slow",
        ),
        (None, None),
    ],
)
async def test_the_header_tells_what_was_found(
    client: httpx.AsyncClient,
    answering: Answering,
    finds: dict[str, Any] | None,
    header: str | None,
) -> None:
    answering.finds = finds

    answer = await client.post("/ask", headers={"X-Request-Id": "one"})

    assert answer.text == "onetwo"
    assert answer.headers.get("x-torpor-kv") == header


async def test_a_request_without_an_id_is_given_one(
    client: httpx.AsyncClient, answering: Answering
) -> None:
    answering.finds = {"engine_tokens": 5, "tier_tokens": 0}

    assert (await client.post("/ask")).headers["x-torpor-kv"] == "hit=5 of 100 tier=engine"


async def test_other_methods_pass_untouched(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).text == "ok"


def turn(tokens: int) -> Stored:
    ids = tuple(range(tokens))
    return Stored("chatcmpl-me-turn-1-0", tokens, tokens - 1, 0, ranks=4, token_ids=ids)


@pytest.mark.parametrize("tokens", [1, 2000, MOST_TOKENS])
def test_a_turn_tells_its_tokens(reports: Reports, reporter: Reporter, tokens: int) -> None:
    told: list[Stored] = []
    reports.on_tokens = told.append
    reporter.send(turn(tokens))

    reports.found("another request's header, which reads what there is")

    assert told == [turn(tokens)]
    assert reports.stored("me-turn-1") == replace(turn(tokens), token_ids=())


def test_of_a_long_turn_the_beginning_is_told(reports: Reports, reporter: Reporter) -> None:
    told: list[Stored] = []
    reports.on_tokens = told.append
    reporter.send(turn(MOST_TOKENS + 1))
    reports.receive()

    assert len(told[0].token_ids) == MOST_TOKENS
    assert told[0].tokens == MOST_TOKENS + 1


@pytest.fixture
async def turns(reports: Reports) -> AsyncIterator[httpx.AsyncClient]:
    reading = asyncio.get_running_loop()
    app: Any = KVTurns(Starlette(), reports, chunk_tokens=128, limit_s=0.05)
    reading.add_reader(reports.fileno(), reports.receive)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as asking:
        yield asking
    reading.remove_reader(reports.fileno())


async def test_the_controller_asks_for_a_turn_once(
    turns: httpx.AsyncClient, reporter: Reporter
) -> None:
    reporter.send(turn(300))

    told = TurnTold.unpacked((await turns.post(PATH, content=b"me-turn-1")).content)

    assert (told.chunks, told.ranks, list(told.tokens)) == (2, 4, list(range(300)))
    assert (await turns.post(PATH, content=b"me-turn-1")).status_code == 404


async def test_who_asks_early_waits(turns: httpx.AsyncClient, reporter: Reporter) -> None:
    asking = asyncio.create_task(turns.post(PATH, content=b"me-turn-1"))
    await asyncio.sleep(0)
    reporter.send(turn(3))

    assert TurnTold.unpacked((await asking).content).chunks == 0


async def test_an_empty_id_is_nobodys(turns: httpx.AsyncClient, reporter: Reporter) -> None:
    reporter.send(turn(3))
    assert (await turns.post(PATH)).status_code == 404
