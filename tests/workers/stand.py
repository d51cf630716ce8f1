"""A pool to test, and what the tests of pools have in common."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import ray

from workers.engine import Endpoint, EngineSpec, Started
from workers.pool_values import EngineDied, OrderLimits

QUICK = OrderLimits(start_s=30, sleep_s=5, wake_s=5, stop_s=0.5, adopt_s=3)

DECLARED = ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
"""Devices that the head declares to Ray, and that nobody has."""


@dataclass
class Stand:
    """A pool, what was started in it, and the hand that kills."""

    pool: Any
    kind: str
    node: str
    started: dict[str, Started] = field(default_factory=dict)

    async def start(
        self,
        replica: str = "m#0",
        incarnation: int = 1,
        devices: tuple[str, ...] = ("cpu",),
        **args: Any,
    ) -> Started:
        started: Started = await self.pool.start(
            replica, incarnation, fake(**args), self.node, devices
        )
        self.started[replica] = started
        return started

    def kill(self, replica: str = "m#0", process: int = 0) -> None:
        """``process``: the actor, or the engine's n-th child."""
        if self.kind == "local":
            self.pool.kill_engine(replica)
        else:
            os.kill(self.started[replica].pids[process], signal.SIGKILL)

    async def next_death(self, timeout_s: float = 60.0) -> EngineDied:
        died: EngineDied = await asyncio.wait_for(anext(self.pool.deaths()), timeout_s)
        return died


def fake(**args: Any) -> EngineSpec:
    return EngineSpec("m", "nowhere", kind="fake", engine_args=args)


def _client(endpoint: Endpoint) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {endpoint.key}"}
    url = f"http://{endpoint.host}:{endpoint.port}"
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=60)


def _body(tokens: int) -> dict[str, Any]:
    return {"prompt": "one two", "max_tokens": tokens}


async def ask(endpoint: Endpoint, tokens: int = 16) -> str:
    async with _client(endpoint) as client:
        answer = await client.post("/v1/completions", json=_body(tokens))
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["text"])


async def stream(endpoint: Endpoint, tokens: int, said: list[str]) -> None:
    """What is said goes into the list, as it comes."""
    body = {**_body(tokens), "stream": True}
    async with (
        _client(endpoint) as client,
        client.stream("POST", "/v1/completions", json=body) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                said.append(json.loads(line.removeprefix("data: "))["choices"][0]["text"])


async def counted(endpoint: Endpoint) -> dict[str, int]:
    async with _client(endpoint) as client:
        return dict((await client.get("/fake/counts")).json())


async def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Returns when the condition holds; fails when it does not within ``timeout_s``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        assert loop.time() < deadline, "it did not come about"
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.02)


def places_in_ray() -> dict[str, tuple[str, ...]]:
    """The devices of the placement groups of engines, in their order, by the groups' names."""
    rows = ray.util.placement_group_table().values()
    return {
        row["name"]: tuple(
            device for _, bundle in sorted(row["bundles"].items()) for device in bundle
        )
        for row in rows
        if row["state"] != "REMOVED" and row["name"].startswith("engine:")
    }


def processes_in(directory: Path) -> list[int]:
    """Living processes with something of ``directory`` in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str(directory) in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


def is_there(path: Path) -> bool:
    return path.exists()
