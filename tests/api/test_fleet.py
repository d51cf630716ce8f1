"""The fleet routes: look, order, follow, listen."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from controller.ports import FleetView
from tests.api.conftest import Stand


async def test_the_fleet_as_it_stands(stand: Stand) -> None:
    client = await stand.open()
    view = TypeAdapter(FleetView).validate_json((await client.get("/fleet")).content)
    assert view == stand.control.view()


@pytest.mark.parametrize("path", ["org/embed", "org%2Fembed"])
async def test_names_with_slashes(stand: Stand, path: str) -> None:
    client = await stand.open()
    assert (await client.get(f"/fleet/models/{path}")).json()["model"] == "org/embed"
    story = (await client.get(f"/fleet/models/{path}/why")).json()
    assert story["story"][0]["what"] == "woken for req-1"
    await client.post(f"/fleet/models/{path}/sleep", json={"level": 2})
    assert stand.control.states["org/embed"] == "level_2"
    assert (await client.get(f"/v1/models/{path}")).json()["state"] == "level_2"


async def test_a_model_may_be_called_why(stand: Stand) -> None:
    stand.control.states["org/why"] = "awake"
    client = await stand.open()
    assert (await client.get("/fleet/models/org/why")).json()["state"] == "awake"
    assert "story" in (await client.get("/fleet/models/org/why/why")).json()


@pytest.mark.parametrize(
    ("path", "body", "state"),
    [
        ("/fleet/models/chat/wake", None, "awake"),
        ("/fleet/models/chat/sleep", None, "level_1"),
        ("/fleet/models/chat/sleep", {"level": 2}, "level_2"),
        ("/fleet/models/chat/stop", None, "stopped"),
        ("/fleet/switch", {"to": "org/embed", "from": "chat", "level": 2}, "level_2"),
    ],
)
async def test_orders_waited_for(stand: Stand, path: str, body: Any, state: str) -> None:
    client = await stand.open()
    answer = await client.post(path, params={"wait": "true"}, json=body)
    assert answer.status_code == 200
    assert answer.json()["status"] == "done"
    assert answer.json()["phases_s"]
    assert stand.control.states["chat"] == state


async def test_an_order_not_waited_for_is_followed(stand: Stand) -> None:
    stand.control.is_slow = True
    client = await stand.open()
    answer = await client.post("/fleet/models/chat/wake")
    assert answer.status_code == 202
    operation = answer.json()["operation"]
    followed = await client.get(f"/fleet/operations/{operation}")
    assert followed.json() == answer.json()
    assert followed.json()["status"] == "running"


async def test_a_wait_has_a_limit(stand: Stand) -> None:
    stand.control.is_slow = True
    stand.settings = type(stand.settings)(operation_wait_s=0.01)
    client = await stand.open()
    answer = await client.post("/fleet/models/chat/wake?wait=true")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")


async def test_an_order_that_fails_says_why(stand: Stand) -> None:
    stand.control.fails_with = "the canary disagreed"
    client = await stand.open()
    answer = await client.post("/fleet/models/chat/wake?wait=true")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "operation_failed"
    assert answer.json()["error"]["message"] == "the canary disagreed"
    assert answer.json()["operation"]["kind"] == "wake"


async def test_pins(stand: Stand) -> None:
    client = await stand.open()
    assert (await client.post("/fleet/models/chat/pin")).json()["pinned"] is True
    assert (await client.post("/fleet/models/chat/unpin")).json()["pinned"] is False


async def test_models_come_and_go(stand: Stand) -> None:
    client = await stand.open()
    added = await client.post("/fleet/models?wait=true", json={"name": "org/new"})
    assert added.json()["model"] == "org/new"
    assert "org/new" in stand.control.states
    removed = await client.delete("/fleet/models/org/new")
    assert removed.status_code == 200
    assert "org/new" not in stand.control.states


async def lines_of(answer: httpx.Response, count: int) -> list[str]:
    found: list[str] = []
    async for line in answer.aiter_lines():
        if line and not line.startswith(":"):
            found.append(line)
        if len(found) == count:
            break
    return found


async def test_events_are_resumed_where_they_were_left(stand: Stand) -> None:
    for number in (1, 2, 3):
        stand.control.publish(number, "phase", model="chat", phase=number)
    client = await stand.open()
    headers = {"last-event-id": "2"}
    async with client.stream("GET", "/fleet/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        stand.control.publish(4, "phase", model="chat", phase=4)
        got = await asyncio.wait_for(lines_of(answer, 6), 10)
    assert got == [
        "id: 3",
        "event: phase",
        'data: {"model":"chat","phase":3}',
        "id: 4",
        "event: phase",
        'data: {"model":"chat","phase":4}',
    ]


async def test_health(stand: Stand) -> None:
    client = await stand.open()
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready", "models": 2, "nodes": 1}
    assert (await client.get("/health")).content == b""
    assert (await client.get("/version")).json()["version"]
    assert "text/html" in (await client.get("/docs")).headers["content-type"]
    assert "/fleet/switch" in (await client.get("/openapi.json")).json()["paths"]
