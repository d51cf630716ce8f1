"""KV of a waiting turn is recalled while its engine wakes, through a whole controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.controller.conversing import Fleet, Talk, conversing, fake, hit

LONG = "one two three four five six seven eight"
VERY_LONG = " ".join(f"word{number}" for number in range(400))


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with conversing(tmp_path, models=(fake("chat", wake_s=0.2),)) as running:
        yield running


async def asleep(fleet: Fleet, talk: Talk) -> None:
    """Its KV lies in the durable tier alone, and its model sleeps."""
    assert (await talk.order("hibernate")).status_code == 200
    slept = await fleet.as_("boss").post("/fleet/models/chat/sleep", params={"wait": "true"})
    assert slept.json()["status"] == "done"


async def recalls(fleet: Fleet) -> dict[str, int]:
    """How many, by outcome."""
    told = (await fleet.as_("boss").get("/metrics")).text
    lines = [line for line in told.splitlines() if line.startswith("torpor_kv_recalls_total{")]
    return {
        line.split('outcome="')[1].split('"')[0]: int(float(line.split()[-1])) for line in lines
    }


def tier(answer: httpx.Response) -> str:
    return str(answer.headers["x-torpor-kv"].split("tier=")[1])


async def test_it_lies_in_the_host_tier_when_the_engine_is_awake(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    await asleep(fleet, talk)
    answer = await talk.send("and then")
    assert (hit(answer), tier(answer)) == (24, "host")
    assert await recalls(fleet) == {"fetched": 1}


async def test_an_engine_that_is_awake_fetches_itself(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    await talk.order("hibernate")
    answer = await talk.send("and then")
    assert (hit(answer), tier(answer)) == (24, "durable")
    assert await recalls(fleet) == {}


async def test_of_a_conversation_that_has_no_kv_nothing_is_recalled(fleet: Fleet) -> None:
    assert (await Talk(fleet.as_("one"), "c").send(LONG)).status_code == 200, "a cold start"
    await fleet.as_("boss").post("/fleet/models/chat/sleep", params={"wait": "true"})
    assert (await Talk(fleet.as_("one"), "d").send(LONG)).status_code == 200
    assert await recalls(fleet) == {}


async def test_a_tier_that_is_away_costs_the_request_nothing_but_its_kv(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    await asleep(fleet, talk)
    fleet.tier.is_away = True
    assert (await talk.send("and then")).status_code == 200
    assert await recalls(fleet) == {"failed": 1}


async def test_a_recall_that_hangs_keeps_nobody_waiting_but_orders_about_its_conversation(
    fleet: Fleet,
) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    await asleep(fleet, talk)
    fleet.tier.recalls.clear()
    answer = await talk.send("and then")
    assert (hit(answer), tier(answer)) == (24, "durable"), "fetched by the engine itself"
    assert (await talk.send("once more")).status_code == 200
    gone = asyncio.create_task(
        talk.client.delete("/fleet/conversations/c", params={"wait": "true"})
    )
    while (await talk.view())["doing"] != "delete":
        await asyncio.wait([gone], timeout=0.01)
    assert not gone.done()
    fleet.tier.recalls.set()
    assert (await gone).json()["status"] == "done"
    assert fleet.tier.host | fleet.tier.durable == set(), "nothing came back behind its back"


async def test_few_are_recalled_at_once_and_who_is_granted_before_its_turn_is_not(
    fleet: Fleet,
) -> None:
    talks = [Talk(fleet.as_("one"), f"c{number}") for number in range(5)]
    for talk in talks:
        await talk.send(f"{talk.id} {LONG}")
        await talk.order("hibernate")
    await asleep(fleet, talks[0])
    fleet.tier.recalls.clear()
    answers = await asyncio.gather(*(talk.send("and then") for talk in talks))
    assert [answer.status_code for answer in answers] == [200] * 5
    fleet.tier.recalls.set()
    for talk in talks:
        await talk.order("hibernate")
    assert await recalls(fleet) == {"fetched": 2, "late": 3}


async def test_a_turn_that_comes_during_the_wake_is_recalled_too(tmp_path: Path) -> None:
    async with conversing(tmp_path, models=(fake("chat", wake_s=2.0),)) as fleet:
        talks = [Talk(fleet.as_("one"), name) for name in ("early", "late")]
        for talk in talks:
            await talk.send(f"{talk.id} {LONG}")
            await talk.order("hibernate")
        await asleep(fleet, talks[0])
        boss = fleet.as_("boss")
        early = asyncio.create_task(talks[0].send("and then"))
        while (await boss.get("/fleet/models/chat")).json()["state"] != "waking":
            await asyncio.wait([early], timeout=0.01)
        late = await talks[1].send("and then")
        assert (tier(await early), tier(late)) == ("host", "host")
        assert await recalls(fleet) == {"fetched": 2}


async def test_where_computing_is_sooner_as_measured_the_durable_tier_is_left_alone(
    fleet: Fleet,
) -> None:
    talk = Talk(fleet.as_("one"), "c")
    async with talk.client.stream(
        "POST",
        "/v1/chat/completions",
        json={
            "model": "chat",
            "stream": True,
            "messages": [{"role": "user", "content": VERY_LONG}],
        },
        headers={"x-conversation-id": "c"},
    ) as stream:
        await stream.aread()
    assert stream.headers["x-torpor-kv"] == "hit=0 of 400 tier=none"
    await asleep(fleet, talk)
    fleet.tier.recall_s = 1000.0
    talk.said = [{"role": "user", "content": VERY_LONG}]
    assert hit(await talk.send("and then")) == 400, "it lay in the host tier by then"
    await talk.order("hibernate")
    spared = await talk.send("once more")
    assert hit(spared) == 0
    assert spared.headers["x-torpor-kv"].endswith("tier=none why=near")
    assert await recalls(fleet) == {"fetched": 1, "computed": 2}
    assert tier(await talk.send("and again")) == "host", "what was computed is kept"
