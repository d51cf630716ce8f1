"""Engines that hang are noticed, killed and stopped; who is on its way or asleep is not asked."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from controller.core.events import EngineHung
from controller.core.fleet import Fleet
from controller.core.hanging import HangTimes
from controller.core.names import ModelName
from controller.drivers.leases import LiveLeases
from controller.drivers.live import LiveDriver
from tests.core.fleets import policy, spec
from tests.drivers.stand import Stand, a_fleet
from tests.drivers.virtual_loop import run
from workers.engine import EngineSpec
from workers.local_pool import LocalPool

TIMES = HangTimes(factor=10, least_s=60, most_s=600)


async def _a_long_answer(how: str, seconds: float) -> Stand:
    """Of an engine that gets stuck, so far in."""
    async with a_fleet(hangs=TIMES) as stand:
        async with stand.leases.acquire("a", request_id="r"):
            await asyncio.sleep(100)
            if how:
                stand.pool.stalled["a#0"] = how
            await asyncio.sleep(seconds)
        return stand


def hangs(stand: Stand) -> list[EngineHung]:
    return [event for event in stand.seen.events if isinstance(event, EngineHung)]


@pytest.mark.parametrize("how", ["still", "silent"])
def test_an_engine_that_stands_still_is_killed_and_stopped(how: str) -> None:
    stand = run(_a_long_answer(how, 200.0))
    [hung] = hangs(stand)
    assert "no step for" in hung.reason
    assert 60 <= hung.at - 100 < 100
    assert stand.pool.orders[-2:] == [("stop", "a#0"), ("kill", "a#0")]
    assert stand.seen.phases_of("a#0")[-3:] == ["FAILED", "STOPPING", "COLD"]


def test_one_that_steps_is_left_alone_however_long_it_answers() -> None:
    assert not hangs(run(_a_long_answer("", 5000.0)))


async def _an_idle_engine_that_stands_still() -> Stand:
    async with a_fleet(hangs=TIMES) as stand:
        stand.pool.stalled["a#0"] = "still"
        async with stand.leases.acquire("a", request_id="r"):
            await asyncio.sleep(1)
        await asyncio.sleep(5000)
        return stand


def test_one_without_leases_is_not_asked() -> None:
    assert not hangs(run(_an_idle_engine_that_stands_still()))


STALLS = EngineSpec("a", "nowhere", kind="fake", engine_args={"faults": {"request": ["stall"]}})


async def test_the_stream_of_a_real_engine_that_stalls_breaks_off() -> None:
    """Over HTTP, and looked at by hand: nobody waits for the clock."""
    pool = LocalPool()
    times = HangTimes(factor=2, least_s=0.05, most_s=0.05)
    driver = LiveDriver(Fleet(policy()), pool, [(spec("a"), STALLS)], hangs=times)
    await driver.open()
    async with LiveLeases(driver).acquire("a", request_id="r") as lease:
        headers = {"authorization": f"Bearer {lease.endpoint.key}"}
        url = f"http://{lease.endpoint.host}:{lease.endpoint.port}/v1/completions"
        body = {"prompt": "one two three", "stream": True}
        async with (
            httpx.AsyncClient(headers=headers, timeout=60) as client,
            client.stream("POST", url, json=body) as answer,
        ):
            chunks = answer.aiter_bytes()
            await anext(chunks)
            async with asyncio.timeout(60):
                while driver.fleet.state(ModelName("a")) == "awake":
                    await driver._progress.look()
            with pytest.raises(httpx.HTTPError):
                async for _ in chunks:
                    pass
    story = driver.fleet.story(ModelName("a"))
    assert any(line.why.startswith("hung: no step for") for line in story)
    await driver.close()
    await pool.shut_down()
