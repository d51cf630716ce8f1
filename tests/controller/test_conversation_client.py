"""The Python client and ``torpor conversations``, against a whole controller."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.client import AsyncFleetClient, FleetClient, FleetError
from tests.controller.conversing import Fleet, conversing

LONG = "one two three four five six seven eight"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with conversing(tmp_path) as running:
        yield running


async def test_a_conversation_from_python(fleet: Fleet) -> None:
    def talk() -> None:
        with FleetClient(fleet.url, fleet.keys["one"]) as client:
            with client.conversation("chat") as c:
                assert LONG in c.send(LONG, max_tokens=20)
                c.send("and then")
                assert [m["role"] for m in c.messages] == ["user", "assistant"] * 2
                c.close()
                c.close()
                c.send("still there?")
            view = client.conversations.show(c.id)
            assert (view.turns, view.model) == (3, "chat")
            assert client.conversations.hibernate(c.id).status == "done"
            assert client.conversations.show(c.id).residency == "HIBERNATED"
            assert client.conversations.rehydrate(c.id).status == "done"
            assert c.reset().status == "done"
            assert c.messages == []
            assert client.conversations.hibernate_idle(0.0).status == "done"
            page = client.conversations.list(residency="NOT_CREATED", limit=5)
            assert [found.conversation for found in page.conversations] == [c.id]
            assert client.conversations.delete(c.id).status == "done"
            with pytest.raises(FleetError, match="There is no conversation"):
                client.conversations.show(c.id)

    await asyncio.to_thread(talk)


async def test_a_turn_that_fails_is_forgotten(fleet: Fleet) -> None:
    def talk() -> None:
        with FleetClient(fleet.url, fleet.keys["one"]) as client:
            c = client.conversation("nobody")
            with pytest.raises(FleetError, match="nobody"):
                c.send("x")
            assert c.messages == []
            c.close()

    await asyncio.to_thread(talk)


async def test_its_asynchronous_twin(fleet: Fleet) -> None:
    async with AsyncFleetClient(fleet.url, fleet.keys["one"]) as client:
        async with client.conversation("chat", "mine") as c:
            assert await c.send(LONG)
            await c.hibernate()
            view = (await fleet.as_("one").get("/fleet/conversations/mine")).json()
            assert view["residency"] == "HIBERNATED"
            await c.reset()
            assert c.messages == []
        with pytest.raises(FleetError, match="nobody"):
            await client.conversation("nobody").send("x")


async def torpor(fleet: Fleet, *words: str) -> str:
    command = [sys.executable, "-c", "from controller.cli import main; main()", *words]
    where = ["--url", fleet.url, "--key", fleet.keys["one"]]
    done = await asyncio.to_thread(
        subprocess.run, [*command, *where], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_the_command_line(fleet: Fleet) -> None:
    said = await torpor(fleet, "chat", "chat", LONG, "--conversation", "c", "--json")
    assert LONG.split()[0] in json.loads(said)["text"]
    assert "in_memory" in await torpor(fleet, "conversations", "list")
    assert "done" in await torpor(fleet, "conversations", "hibernate", "c")
    shown = json.loads(await torpor(fleet, "conversations", "show", "c", "--json"))
    assert (shown["residency"], shown["turns"]) == ("HIBERNATED", 1)
    assert "hibernated" in await torpor(fleet, "conversations", "show", "c")
    assert "done" in await torpor(fleet, "conversations", "rehydrate", "c")
    assert "done" in await torpor(fleet, "conversations", "hibernate", "--idle", "0")
    assert "done" in await torpor(fleet, "conversations", "reset", "c")
    assert "done" in await torpor(fleet, "conversations", "delete", "c")
    assert "0 in all" in await torpor(fleet, "conversations", "list")
