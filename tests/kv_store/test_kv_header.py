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
        Starlette(routes=routes), reports, tier=tier, durable="redis", look_s=look_s
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


@pytest.mark.parametrize(("looked", "where"), [(HOST, "host"), (REDIS, "redis")])
async def test_a_tier_that_is_known_is_told(
    lookups: Lookups, tier: LMCacheClient, engine: httpx.AsyncClient, looked: object, where: str
) -> None:
    await tier.looked("opens the connection")
    lookups.says = {"looked": looked}
    assert await told(engine) == f"hit=64 of 100 tier={where}"


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
