"""What every pool promises: one suite for the pool in this process and the one on Ray."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.workers.stand import Stand, ask, counted, eventually, fake, stream
from workers.engine import (
    CanaryMismatch,
    EngineError,
    EngineGone,
    OrderTimedOut,
    Rest,
    StartFailed,
)
from workers.pool_values import EngineDied, OrderLimits


async def test_a_node_has_devices_with_memory(stand: Stand) -> None:
    [node] = await stand.pool.nodes()
    assert node.devices
    assert all(size > 0 for _, size in node.devices)


async def test_a_started_engine_answers_who_has_the_key(stand: Stand) -> None:
    started = await stand.start()
    assert await ask(started.endpoint) == await ask(started.endpoint)
    assert started.endpoint.key not in repr(started)
    url = f"http://{started.endpoint.host}:{started.endpoint.port}/v1/completions"
    async with httpx.AsyncClient() as stranger:
        assert (await stranger.post(url, json={"prompt": "x"})).status_code == 401


async def test_it_gives_memory_back_rest_by_rest_and_wakes_as_it_was(stand: Stand) -> None:
    started = await stand.start(host_bytes=7)
    before = await ask(started.endpoint)
    held = [started.memory.device_bytes]
    for rest in (Rest.KV_RELEASED, Rest.LEVEL_1, Rest.LEVEL_2):
        report = await stand.pool.sleep("m#0", rest)
        held.append(report.memory.device_bytes)
        assert report.memory.host_bytes == (7 if rest is Rest.LEVEL_1 else 0)
    assert held == sorted(held, reverse=True)
    assert (await stand.pool.wake("m#0")).memory == started.memory
    assert await ask(started.endpoint) == before


@pytest.mark.parametrize("rest", Rest)
async def test_what_is_kept_says_nothing_until_the_wake_and_then_goes_on(
    stand: Stand, rest: Rest
) -> None:
    started = await stand.start(token_delay_s=0.02)
    whole = await ask(started.endpoint, tokens=40)
    said: list[str] = []
    reading = asyncio.create_task(stream(started.endpoint, 40, said))
    await eventually(lambda: len(said) >= 3)
    await stand.pool.sleep("m#0", rest, True)
    counts = await counted(started.endpoint)
    while not counts["frozen"]:
        counts = await counted(started.endpoint)
    heard = len(said)
    assert heard < 40
    assert (await counted(started.endpoint))["running"] == 1
    assert len(said) == heard
    await stand.pool.wake("m#0")
    await reading
    assert "".join(said) == whole


async def test_what_is_kept_does_not_outlive_a_wake_that_goes_wrong(stand: Stand) -> None:
    started = await stand.start(token_delay_s=0.02, faults={"wake": ["canary"]})
    said: list[str] = []
    reading = asyncio.create_task(stream(started.endpoint, 400, said))
    await eventually(lambda: len(said) >= 3)
    await stand.pool.sleep("m#0", Rest.LEVEL_2, True)
    while not (await counted(started.endpoint))["frozen"]:
        pass
    heard = len(said)
    with pytest.raises(CanaryMismatch):
        await stand.pool.wake("m#0")
    await stand.pool.stop("m#0", 1)
    with pytest.raises(httpx.TransportError):
        await reading
    assert len(said) == heard


async def test_unknown_arguments_fail_the_start(stand: Stand) -> None:
    with pytest.raises(StartFailed, match="no_such_thing"):
        await stand.start(no_such_thing=1)
    await stand.pool.stop("m#0", 1)


async def test_an_order_that_goes_wrong_says_how(stand: Stand) -> None:
    await stand.start(faults={"sleep": ["ok", "fail"], "wake": ["canary"]})
    await stand.pool.sleep("m#0", Rest.LEVEL_1)
    with pytest.raises(CanaryMismatch):
        await stand.pool.wake("m#0")
    with pytest.raises(EngineError, match="told to fail"):
        await stand.pool.sleep("m#0", Rest.LEVEL_1)


async def test_an_order_without_an_answer_times_out(stand: Stand) -> None:
    await stand.start(faults={"sleep": ["hang"]})
    stand.pool._limits = OrderLimits(sleep_s=0.2, stop_s=0.2)
    with pytest.raises(OrderTimedOut):
        await stand.pool.sleep("m#0", Rest.LEVEL_1)
    await stand.pool.stop("m#0", 1)


@pytest.mark.parametrize("order", ["start", "sleep", "wake"])
async def test_a_death_in_an_order_is_told_by_the_order_alone(stand: Stand, order: str) -> None:
    async def a_life() -> None:
        await stand.start(faults={order: ["die"]})
        await stand.pool.sleep("m#0", Rest.LEVEL_1)
        await stand.pool.wake("m#0")

    with pytest.raises(EngineGone):
        await a_life()
    await stand.start("other#0", 7)
    stand.kill("other#0")
    died = await stand.next_death()
    assert (died.replica, died.incarnation) == ("other#0", 7)


@pytest.mark.parametrize("asleep", [False, True])
async def test_a_death_without_an_order_is_news(stand: Stand, asleep: bool) -> None:
    started = await stand.start(incarnation=3)
    if asleep:
        await stand.pool.sleep("m#0", Rest.LEVEL_2)
    stand.kill()
    died = await stand.next_death()
    assert isinstance(died, EngineDied)
    assert (died.replica, died.incarnation) == ("m#0", 3)
    with pytest.raises(EngineGone):
        await stand.pool.wake("m#0")
    with pytest.raises(httpx.TransportError):
        await ask(started.endpoint)
    await stand.pool.stop("m#0", 3)


async def test_a_stop_ends_the_engine_and_is_no_news(stand: Stand) -> None:
    started = await stand.start()
    await stand.pool.stop("m#0", 1)
    with pytest.raises(httpx.TransportError):
        await ask(started.endpoint)
    await stand.start("other#0", 2)
    stand.kill("other#0")
    assert (await stand.next_death()).replica == "other#0"


async def test_it_tells_how_far_an_engine_is(stand: Stand) -> None:
    started = await stand.start()
    before = await stand.pool.progress("m#0")
    await ask(started.endpoint)
    after = await stand.pool.progress("m#0")
    assert after.steps > before.steps
    assert after.running == 0


async def test_an_engine_that_is_killed_by_the_pool_is_news_like_any_death(stand: Stand) -> None:
    await stand.start()
    await stand.pool.kill("m#0", 2)
    assert (await stand.pool.progress("m#0")).running == 0, "another incarnation is meant"
    await stand.pool.kill("m#0", 1)
    died = await stand.next_death()
    assert (died.replica, died.incarnation) == ("m#0", 1)
    with pytest.raises(EngineGone):
        await stand.pool.progress("m#0")


async def test_a_stop_may_be_told_twice_and_of_what_never_was(stand: Stand) -> None:
    await stand.start()
    await stand.pool.stop("m#0", 1)
    await stand.pool.stop("m#0", 1)
    await stand.pool.stop("never#0", 5)


async def test_a_stop_of_another_incarnation_leaves_this_one(stand: Stand) -> None:
    started = await stand.start(incarnation=2)
    await stand.pool.stop("m#0", 1)
    assert await ask(started.endpoint)
    await stand.pool.sleep("m#0", Rest.LEVEL_1)


async def test_an_engine_that_will_not_stop_is_made_to(stand: Stand) -> None:
    started = await stand.start(faults={"stop": ["hang"]})
    await asyncio.wait_for(stand.pool.stop("m#0", 1), 60)
    with pytest.raises(httpx.TransportError):
        await ask(started.endpoint)


@pytest.mark.parametrize("rest", [None, Rest.LEVEL_2])
async def test_the_next_controller_finds_the_engine_as_it_is(
    stand: Stand, rest: Rest | None
) -> None:
    started = await stand.start(incarnation=4, token_delay_s=0.0)
    memory = started.memory
    if rest is not None:
        memory = (await stand.pool.sleep("m#0", rest)).memory
    await stand.pool.close()
    await stand.pool.open()
    [seen] = await stand.pool.discover()
    assert (seen.replica, seen.model, seen.incarnation, seen.rest) == ("m#0", "m", 4, rest)
    assert (seen.node, seen.devices, seen.memory) == (stand.node, ("cpu",), memory)
    assert (seen.endpoint, seen.endpoint.key) == (started.endpoint, started.endpoint.key)
    assert seen.spec == fake(token_delay_s=0.0)
    await stand.pool.wake("m#0")
    assert await ask(seen.endpoint)
    stand.kill()
    assert (await stand.next_death()).incarnation == 4


async def test_an_engine_whose_order_went_wrong_is_not_adopted(stand: Stand) -> None:
    await stand.start(faults={"sleep": ["fail"]})
    with pytest.raises(EngineError):
        await stand.pool.sleep("m#0", Rest.LEVEL_1)
    await stand.pool.close()
    await stand.pool.open()
    assert await stand.pool.discover() == []
