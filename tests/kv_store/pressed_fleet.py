"""A whole controller over fake engines, beside them a node's real KV server, on a real port.

What others hold of the node's memory is a test's to say; how large the KV tier is, its server's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from kv_store.settings import MIB
from tests.controller.conversing import NEVER, controlled, fake
from workers.local_pool import LocalPool
from workers.node_agent import NodeAgent
from workers.pool_values import NodeFound, NodeMemory, ResourceMemory

WHOLE_BYTES, TIER_BYTES = 300 * MIB, 64 * MIB
ENGINES = ("a", "b")
"""Each of 100 MiB, of 268 that the fleet may use: 4 are left beside the tier."""
RAW = {
    "device": "cpu",
    "memory": {
        "device_budget_gib": 268 / 1024,
        "follow": "always",
        "headroom_fraction": 0.0,
        "calm_s": 0.0,
    },
    "kv": {"host_gib": TIER_BYTES / 1024**3},
    "defaults": {"footprint": {"awake_gib": 0.09}, "idle": NEVER},
    "models": [fake(name, token_delay_s=0.01) for name in ENGINES],
}


class PressedPool(LocalPool):
    def __init__(self, agent: NodeAgent) -> None:
        super().__init__([NodeFound("local", (("cpu", WHOLE_BYTES),), WHOLE_BYTES)])
        self._agent = agent

    async def resize_kv(self, node: str, to_bytes: int, limit_s: float) -> int:
        return await self._agent.resize_kv(to_bytes, limit_s)

    async def others_hold(self, size: int) -> None:
        """It is looked at, as every few seconds."""
        tier_bytes = (await self._agent.memory("local")).tier_bytes
        cpu = ResourceMemory("cpu", WHOLE_BYTES, free_bytes=WHOLE_BYTES - size, own_bytes=0)
        self.measured.put_nowait([NodeMemory("local", (cpu,), cpu, 0.0, tier_bytes)])


@dataclass
class PressedFleet:
    client: httpx.AsyncClient
    pool: PressedPool

    async def ask(self, model: str, tokens: int = 2) -> httpx.Response:
        body = {"model": model, "prompt": "one two three", "max_tokens": tokens}
        return await self.client.post("/v1/completions", json=body)

    async def until_tier_holds(self, is_so: Callable[[int], bool]) -> int:
        """Its size then, by the fleet; meanwhile no engine sleeps."""
        while True:
            view = (await self.client.get("/fleet")).json()
            assert [model["state"] for model in view["models"]] == ["awake"] * len(ENGINES)
            [node] = view["nodes"]
            if node["kv_tier"] is not None and is_so(node["kv_tier"][1]):
                return int(node["kv_tier"][1])


@asynccontextmanager
async def pressed_fleet(directory: Path, agent: NodeAgent) -> AsyncIterator[PressedFleet]:
    pool = PressedPool(agent)
    async with (
        controlled(directory, RAW, pool) as url,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
    ):
        yield PressedFleet(client, pool)
