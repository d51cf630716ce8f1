"""Who is reaped when, and how many conversations are served at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import httpx

from controller.core.conversations import Act, ConversationLimits, Job, Lifetimes, Residency
from controller.drivers.conversation_entries import Entries, Entry
from controller.drivers.conversation_reaper import Reaper
from controller.hours import parse_moment
from kv_store.conversations import ConversationKey
from tests.controller.conversing import Talk, conversing, fake
from tests.controller.test_hours import unix

LIMITS = ConversationLimits(
    Lifetimes(hibernate_after_s=100.0, expire_after_s=1000.0),
    tenants={"kept": Lifetimes(inf, inf), "brief": Lifetimes(10.0, 50.0)},
    hibernate_at=(parse_moment("22:00"),),
    time_zone="Europe/Berlin",
)
NOON, EVENING = unix("2026-11-23T12:00:00"), unix("2026-11-23T22:00:00")


class Reaped:
    """A reaper by a wall of the test's, and what it asked for."""

    def __init__(self, at: float) -> None:
        self.entries = Entries(LIMITS, "run")
        self.now = at
        self.asked: list[tuple[str, Act]] = []
        self._reaper = Reaper(self.entries, self._ask, lambda: self.now)

    def known(self, tenant: str, idle_s: float) -> Entry:
        entry = self.entries.get_or_create(ConversationKey(tenant, "c"), "m")
        entry.record = replace(entry.record, turns=1, last_use_s=self.now - idle_s)
        entry.line.residency = Residency.IN_MEMORY
        return entry

    async def look(self, later_s: float = 0.0) -> list[tuple[str, Act]]:
        self.now += later_s
        self.asked.clear()
        await self._reaper.look()
        return list(self.asked)

    def _ask(self, entry: Entry, act: Act) -> asyncio.Future[str]:
        self.asked.append((entry.key.tenant, act))
        return asyncio.get_running_loop().create_future()


async def test_tenants_have_lifetimes_of_their_own() -> None:
    reaped = Reaped(NOON)
    for tenant in ("kept", "brief", "usual"):
        reaped.known(tenant, idle_s=20.0)
    assert await reaped.look() == [("brief", Act.HIBERNATE)]
    assert await reaped.look(40.0) == [("brief", Act.DELETE)]
    assert await reaped.look(50.0) == [("brief", Act.DELETE), ("usual", Act.HIBERNATE)]
    assert ("kept", Act.HIBERNATE) not in await reaped.look(2000.0)


async def test_in_the_evening_all_that_rest_hibernate_once() -> None:
    reaped = Reaped(EVENING - 30.0)
    reaped.known("kept", idle_s=1.0)
    busy = reaped.known("usual", idle_s=1.0)
    busy.line.ask(Job(1, Act.TURN))
    assert await reaped.look() == []
    assert await reaped.look(30.0) == [("kept", Act.HIBERNATE)]
    assert await reaped.look(5.0) == []


async def test_a_jump_over_the_evening_counts() -> None:
    reaped = Reaped(EVENING - 3600.0)
    reaped.known("kept", idle_s=1.0)
    assert await reaped.look(12 * 3600.0) == [("kept", Act.HIBERNATE)]
    assert await reaped.look(-36 * 3600.0) == []


async def statistics(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await client.get("/fleet/conversations")).json()["statistics"])


async def active(client: httpx.AsyncClient, count: int) -> None:
    """Until in so many conversations something is done."""
    async with asyncio.timeout(60):
        while (await statistics(client))["active"] != count:
            pass


async def test_so_many_are_served_and_so_many_wait(tmp_path: Path) -> None:
    limits = {"live": {"tenant": 1, "queue": 1}}
    slow = fake("chat", token_delay_s=0.05)
    async with conversing(tmp_path, models=(slow,), conversations=limits) as fleet:
        one, two = fleet.as_("one"), fleet.as_("two")
        running = asyncio.create_task(Talk(one, "a").send("hello", max_tokens=1000))
        await active(one, 1)
        waiting = asyncio.create_task(Talk(one, "b").send("hello"))
        await active(one, 2)
        now = await statistics(one)
        assert [now[name] for name in ("live", "queued")] == [1, 1]
        limits_told = ("live_model_limit", "live_tenant_limit", "queue_limit")
        assert [now[name] for name in limits_told] == [None, 1, 1]
        theirs = await statistics(two)
        assert [theirs[name] for name in ("live", "queued")] == [0, 0]
        refused = await Talk(one, "c").send("hello")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "conversations_busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await Talk(two, "c").send("hello")).status_code == 200
        running.cancel()
        assert (await waiting).status_code == 200
        page = (await one.get("/fleet/conversations")).json()
        known = [conversation["conversation"] for conversation in page["conversations"]]
        assert "c" not in known  # nothing is left of the one that was refused


async def test_a_client_that_left_while_it_waited_keeps_no_place(tmp_path: Path) -> None:
    limits = {"live": {"model": 1, "queue": 1}}
    slow = fake("chat", token_delay_s=0.05)
    async with conversing(tmp_path, models=(slow,), conversations=limits) as fleet:
        one = fleet.as_("one")
        running = asyncio.create_task(Talk(one, "a").send("hello", max_tokens=1000))
        await active(one, 1)
        waiting = asyncio.create_task(Talk(one, "b").send("hello"))
        await active(one, 2)
        waiting.cancel()
        await active(one, 1)
        running.cancel()
        for _ in range(2):
            assert (await Talk(one, "c").send("hello")).status_code == 200


async def test_copies_may_be_dropped_once_a_conversation_is_back(tmp_path: Path) -> None:
    limits = {"after_rehydration": "drop"}
    async with conversing(tmp_path, conversations=limits) as fleet:
        talk = Talk(fleet.as_("one"), "c")
        await talk.send("one two three four five six seven eight")
        await talk.order("hibernate")
        assert fleet.tier.durable
        await talk.order("rehydrate")
        assert (fleet.tier.durable, (await talk.view())["durable_bytes"]) == (set(), 0)
        await talk.order("hibernate")
        await talk.send("and then")  # brought back by its next message, it leaves no copy either
        await active(talk.client, 0)
        assert (fleet.tier.durable, bool(fleet.tier.host)) == (set(), True)


async def test_what_was_evicted_is_counted_for_its_tenant(tmp_path: Path) -> None:
    async with conversing(tmp_path) as fleet:
        talk = Talk(fleet.as_("one"), "c")
        await talk.send("one two three four five six seven eight")
        await active(talk.client, 0)
        lost = len(fleet.tier.host)
        fleet.tier.host.clear()
        await talk.order("hibernate")
        assert lost
        assert (await statistics(talk.client))["evicted_chunks"] == lost
        await talk.send("and then")
        await active(talk.client, 0)
        await talk.order("hibernate")
        now = await statistics(talk.client)
        assert [now[name] for name in ("evicted_chunks", "hits", "misses")] == [lost, 0, 1]
        other = await statistics(fleet.as_("two"))
        assert [other[name] for name in ("evicted_chunks", "misses")] == [0, 0]
        boss = fleet.as_("boss")
        assert (await statistics(boss))["evicted_chunks"] == lost
        told = (await boss.get("/metrics")).text
        assert f"torpor_conversation_evicted_chunks_total {lost}.0" in told


async def test_a_changed_history_leaves_nothing_of_its_old_end(tmp_path: Path) -> None:
    async with conversing(tmp_path) as fleet:
        talk = Talk(fleet.as_("one"), "c")
        await talk.send("one two three four five six seven eight")
        await talk.order("hibernate")
        before = set(fleet.tier.durable)
        talk.said = [{"role": "user", "content": "one two three four and now for another thing"}]
        await talk.send("do go on")
        await active(talk.client, 0)
        assert len(fleet.tier.durable & before) == 1  # the four words on which both agree
        await talk.order("reset")
        assert fleet.tier.durable | fleet.tier.host == set()
