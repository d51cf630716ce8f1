"""With several replicas a conversation stays with the one that served it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from kv_store.found import PromptFound
from tests.controller.conversing import Talk, conversing, fake

PAIR = {**fake("chat", token_delay_s=0.05), "replicas": {"min": 2, "max": 2}}


async def test_a_conversation_goes_where_its_last_turn_was(tmp_path: Path) -> None:
    async with conversing(tmp_path, models=(PAIR,)) as fleet:
        client = fleet.as_("boss")
        one, other = Talk(client, "one"), Talk(client, "other")
        assert await served(one) == "chat#0"
        running = asyncio.create_task(Talk(client, "long").send("hold it", max_tokens=1000))
        await until(client, leases=[1, 0])
        assert await served(other) == "chat#1"  # since the first is the busier one
        assert await served(one) == "chat#0"  # its own, all the same
        running.cancel()
        await until(client, leases=[0, 0])
        assert await served(other) == "chat#1"


async def test_sent_to_the_other_replica_it_finds_its_kv_there(tmp_path: Path) -> None:
    async with conversing(tmp_path, models=(PAIR,), policy={"busy_leases": 1}) as fleet:
        client = fleet.as_("boss")
        talk = Talk(client, "moving")
        assert await served(talk) == "chat#0"
        running = asyncio.create_task(Talk(client, "long").send("hold it", max_tokens=1000))
        await until(client, leases=[1, 0])

        moved = await talk.send("and what then")

        assert (await talk.view())["replica"] == "chat#1"
        found = PromptFound.parse(moved.headers["x-torpor-kv"].encode())
        assert found is not None
        assert (found.hit, found.tier) == (16, "host"), "the turn before, and its answer"
        running.cancel()


async def served(talk: Talk) -> str:
    answer = await talk.send("and then")
    assert answer.status_code == 200, answer.text
    return str((await talk.view())["replica"])


async def until(client: httpx.AsyncClient, leases: list[int]) -> None:
    """Both are awake and so many requests run on each."""
    async with asyncio.timeout(60):
        while await _leases(client) != leases:
            pass


async def _leases(client: httpx.AsyncClient) -> list[int] | None:
    found: dict[str, Any] = (await client.get("/fleet/models/chat")).json()
    replicas = found["replicas"]
    if any(replica["phase"] != "AWAKE" for replica in replicas):
        return None
    return [replica["leases"] for replica in replicas]
