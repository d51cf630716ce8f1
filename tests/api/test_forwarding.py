"""What a carrier passes on reaches the deciding process as the client sent it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from controller.api.forwarding import Forwarding

Message = MutableMapping[str, Any]

TARGETS = [
    "/fleet/events?since=1&x=%20",
    "/v1/../fleet",
    "/fleet/models/a%2Fb/%2e%2e",
    "//fleet",
    "/fleet#x",
    "/v1/" + "a" * 70_000,
]


@pytest.mark.parametrize("target", TARGETS)
async def test_targets_are_passed_on_as_they_are(tmp_path: Path, target: str) -> None:
    asked: list[bytes] = []

    async def decide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    path, _, query = target.encode().partition(b"?")
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "raw_path": path,
        "query_string": query,
        "headers": [(b"host", b"x")],
        "torpor.request_id": "r",
    }
    server = await asyncio.start_unix_server(decide, tmp_path / "api", limit=1 << 20)
    async with server, Forwarding(tmp_path / "api") as forwarding:
        await forwarding(scope, _a_client_who_stays(), send)
    assert asked[0].split(b"\r\n")[0] == b"GET %b HTTP/1.1" % target.encode()
    assert said[0]["status"] == 204


def _a_client_who_stays() -> Any:
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.get_running_loop().create_future()
        return messages.pop()

    return receive
