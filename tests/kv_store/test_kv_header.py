"""The tier in ``x-torpor-kv``: asked of a KV server over a socket, which may be slow or odd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kv_store.lmcache_client import LMCacheClient, TierUnavailable
from kv_store.reports import Found, Reporter, Reports
from tests.api.engine import running
from workers.kv_header import KVHeader

HOST = {"wanted_tokens": 100, "host_tokens": 64, "durable_tokens": 0}
PATIENCE_S = 60.0
REDIS = {"wanted_tokens": 100, "host_tokens": 0, "durable_tokens": 64}


class Lookups:
    """Answers as it is told to, or not at all."""

    def __init__(self) -> None:
        self.says: object = {"looked": None}
        self.is_silent = False
        self.asked: list[str] = []
        self.over = asyncio.Event()

    async def answer(self, request: Request) -> Response:
        self.asked.append(request.path_params["request"])
        if self.is_silent:
            await self.over.wait()
        return JSONResponse(self.says)


@pytest.fixture
async def lookups() -> Lookups:
    return Lookups()


@pytest.fixture
async def tier(lookups: Lookups) -> AsyncIterator[LMCacheClient]:
    app = Starlette(routes=[Route("/torpor/lookups/{request:path}", lookups.answer)])
    async with running(app) as port:
        client = LMCacheClient(f"http://127.0.0.1:{port}", limit_s=PATIENCE_S)
        yield client
        lookups.over.set()
        await client.close()


@pytest.fixture
def look_s() -> float:
    return PATIENCE_S


@pytest.fixture
async def engine(
    tier: LMCacheClient, tmp_path: Path, look_s: float
) -> AsyncIterator[httpx.AsyncClient]:
    reports, reporter = Reports(tmp_path / "reports"), Reporter(str(tmp_path / "reports"))

    async def answer(request: Request) -> Response:
        asked = request.headers["x-request-id"]
        reporter.send(Found(f"chatcmpl-{asked}-1", 100, engine_tokens=0, tier_tokens=64))
        return PlainTextResponse("one")

    routes = [Route("/ask", answer, methods=["POST"])]
    app: Any = KVHeader(
        Starlette(routes=routes),
        reports,
        tier=tier,
        durable={"": "redis", "vault": "disk"},
        look_s=look_s,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as asking:
        yield asking
    reporter.close()
    reports.close()


async def told(engine: httpx.AsyncClient) -> str:
    answer = await engine.post("/ask", headers={"x-request-id": "one"})
    assert answer.text == "one"
    return str(answer.headers["x-torpor-kv"])


@pytest.mark.parametrize(
    ("looked", "where"),
    [
        (HOST, "host"),
        (REDIS, "redis"),
        (REDIS | {"destination": "vault"}, "disk"),
        (REDIS | {"destination": "not told"}, "unknown"),
    ],
)
async def test_a_tier_that_is_known_is_told(
    lookups: Lookups, tier: LMCacheClient, engine: httpx.AsyncClient, looked: object, where: str
) -> None:
    await tier.looked("opens the connection")
    lookups.says = {"looked": looked}
    assert await told(engine) == f"hit=64 of 100 tier={where}"


class Stream:
    """An answer of so many events; a report of what was found comes before one of them."""

    def __init__(self, directory: Path, events: int, report_before: int | None) -> None:
        self.reports = Reports(directory / "reports")
        self._reporter = Reporter(str(directory / "reports"))
        self._events = events
        self._report_before = report_before
        self.made = 0
        self.header = b""
        self.sent: list[tuple[int, int]] = []
        """Which event, and how many were made by then."""

    async def run(self, path: str) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"x-request-id", b"one")],
        }
        header = KVHeader(self._answer, self.reports, tier=None, durable={"": "disk"})
        await header(scope, self._nothing, self._send)
        self._reporter.close()
        self.reports.close()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for event in range(1, self._events + 1):
            if event == self._report_before:
                self._reporter.send(Found("resp_one-1", 100, engine_tokens=64, tier_tokens=0))
            self.made = event
            body = {"type": "http.response.body", "body": b"%d" % event}
            await send(body | {"more_body": event < self._events})

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.header = dict(message["headers"]).get(b"x-torpor-kv", b"")
        else:
            self.sent.append((int(message["body"]), self.made))

    async def _nothing(self) -> Any:
        return {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("path", "events", "report_before", "header", "sent"),
    [
        ("/v1/responses", 4, 3, b"hit=64 of 100 tier=engine", [(1, 3), (2, 3), (3, 3), (4, 4)]),
        ("/v1/responses", 4, 2, b"hit=64 of 100 tier=engine", [(1, 2), (2, 2), (3, 3), (4, 4)]),
        ("/v1/responses", 4, None, b"", [(1, 3), (2, 3), (3, 3), (4, 4)]),
        ("/v1/responses", 1, None, b"", [(1, 1)]),
        ("/v1/chat/completions", 3, None, b"", [(1, 1), (2, 2), (3, 3)]),
        ("/v1/chat/completions", 2, 1, b"hit=64 of 100 tier=engine", [(1, 1), (2, 2)]),
    ],
)
async def test_events_that_are_made_before_the_prompt_is_looked_at_wait_for_that(
    tmp_path: Path,
    path: str,
    events: int,
    report_before: int | None,
    header: bytes,
    sent: list[tuple[int, int]],
) -> None:
    stream = Stream(tmp_path, events, report_before)
    await stream.run(path)
    assert (stream.header, stream.sent) == (header, sent)


@pytest.mark.parametrize("strange", [{"looked": None}, {"looked": {"a": 1}}, {}, [], 5])
async def test_a_tier_that_is_not_known_is_not_claimed(
    lookups: Lookups, engine: httpx.AsyncClient, strange: object
) -> None:
    lookups.says = strange
    assert await told(engine) == "hit=64 of 100 tier=unknown"


@pytest.mark.timeout(PATIENCE_S / 2)
@pytest.mark.parametrize("look_s", [0.01])
async def test_a_head_does_not_wait_for_a_silent_server(
    lookups: Lookups, engine: httpx.AsyncClient
) -> None:
    lookups.is_silent = True
    assert await told(engine) == "hit=64 of 100 tier=unknown"


@pytest.mark.parametrize(
    "request_id", ["chatcmpl-team/7-1", "chatcmpl-x/../../cache/objects-1", "a?b#c"]
)
async def test_any_request_can_be_asked_for(
    lookups: Lookups, tier: LMCacheClient, request_id: str
) -> None:
    assert await tier.looked(request_id) is None
    assert lookups.asked == [request_id]


@pytest.mark.parametrize("strange", [{}, [], [1], 5, {"looked": {"a": 1}}, {"looked": 5}])
async def test_a_strange_answer_is_no_answer(
    lookups: Lookups, tier: LMCacheClient, strange: object
) -> None:
    lookups.says = strange
    with pytest.raises(TierUnavailable):
        await tier.looked("one")
