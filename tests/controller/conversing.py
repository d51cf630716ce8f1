"""A whole controller in this process, over fake engines with a fake KV tier, on a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import openai
import yaml

from controller.api.client_connection import ClientConnection
from controller.keyring import new_key
from controller.records_server import RecordsServer
from controller.settings import load
from controller.wiring import assemble
from tests.api.engine import running
from workers.fake_tier import FakeTier
from workers.local_pool import LocalPool

NEVER = dict.fromkeys(("kv_released_s", "level_1_s", "level_2_s", "stopped_s"), "never")
MIB = 1 << 20


def fake(name: str, **arguments: Any) -> dict[str, Any]:
    engine_args = {"device_bytes": 100 * MIB, "kv_bytes": 40 * MIB, **arguments}
    return {"name": name, "path": f"models-of-{name}", "kind": "fake", "engine_args": engine_args}


@contextmanager
def records_store() -> Iterator[RecordsServer]:
    """A real Valkey; a short path, since its socket lies there."""
    with TemporaryDirectory(prefix="t-") as directory:
        server = RecordsServer(Path(directory), Path(directory) / "s", lambda: None)
        server.start()
        yield server
        server.stop()


@dataclass
class Fleet:
    url: str
    keys: dict[str, str]
    tier: FakeTier
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def openai(self, who: str) -> openai.AsyncOpenAI:
        url = f"{self.url}/v1"
        return openai.AsyncOpenAI(
            base_url=url, api_key=self.keys[who], max_retries=0, http_client=self.as_(who)
        )

    def as_(self, who: str) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False)
        self.clients.append(client)
        return client


@dataclass
class Talk:
    """One conversation as its caller keeps it: the whole of it is sent each time."""

    client: httpx.AsyncClient
    id: str
    model: str = "chat"
    said: list[dict[str, str]] = field(default_factory=list)

    async def send(self, text: str, **more: Any) -> httpx.Response:
        self.said.append({"role": "user", "content": text})
        body = {"model": self.model, "messages": self.said, **more}
        headers = {"x-conversation-id": self.id}
        answer = await self.client.post("/v1/chat/completions", json=body, headers=headers)
        if answer.status_code == 200:
            content = answer.json()["choices"][0]["message"]["content"]
            self.said.append({"role": "assistant", "content": content})
        return answer

    async def view(self) -> dict[str, Any]:
        found = await self.client.get(f"/fleet/conversations/{self.id}")
        assert found.status_code == 200, found.text
        return dict(found.json())

    async def order(self, what: str, **query: str) -> httpx.Response:
        query = {"wait": "true", **query}
        return await self.client.post(f"/fleet/conversations/{self.id}/{what}", params=query)


def hit(answer: httpx.Response) -> int:
    return int(answer.headers["x-torpor-kv"].split("hit=")[1].split()[0])


@asynccontextmanager
async def lived(app: Any) -> AsyncIterator[None]:
    """The application's lifespan, to its very end."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    living = asyncio.create_task(app(scope, told.get, heard.put))
    for what in ("startup", "shutdown"):
        await told.put({"type": f"lifespan.{what}"})
        answer = await heard.get()
        assert answer["type"] == f"lifespan.{what}.complete", answer
        if what == "startup":
            try:
                yield
            except BaseException:
                living.cancel()
                raise
    await living


@asynccontextmanager
async def controlled(directory: Path, raw: dict[str, Any], pool: LocalPool) -> AsyncIterator[str]:
    """Where a controller with this configuration answers, over this pool."""
    file = directory / "fleet.yaml"
    file.write_text(yaml.safe_dump(raw))
    controller = assemble(load(file, {"TORPOR_STATE_DIR": str(directory)}), pool)
    serving = running(controller.app, lifespan="off", http=ClientConnection)
    async with lived(controller.app), serving as port:
        yield f"http://127.0.0.1:{port}"
    await pool.shut_down()


@asynccontextmanager
async def conversing(
    directory: Path, *, models: tuple[dict[str, Any], ...] = (), **more: Any
) -> AsyncIterator[Fleet]:
    keys = {
        who: new_key(who, who, roles)
        for who, roles in (
            ("one", ["inference"]),
            ("two", ["inference"]),
            ("boss", ["admin", "inference"]),
        )
    }
    raw: dict[str, Any] = {
        "device": "cpu",
        "memory": {"device_budget_gib": 2.0},
        "kv": {"host_gib": 0.01},
        "defaults": {"footprint": {"awake_gib": 0.2}, "idle": NEVER},
        "models": list(models) or [fake("chat")],
        "server": {
            "keys": [
                {"name": k.name, "tenant": k.tenant, "roles": sorted(k.roles), "sha256": k.sha256}
                for _, k in keys.values()
            ]
        },
    }
    pool = LocalPool()
    async with controlled(directory, raw | more, pool) as url:
        fleet = Fleet(url, {who: secret for who, (secret, _) in keys.items()}, pool.tier)
        try:
            yield fleet
        finally:
            for client in fleet.clients:
                await client.aclose()
