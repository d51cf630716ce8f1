"""A real engine that does what it is told: JSON lines in, JSON lines out; run by life.py.

A process of its own, because an engine's environment must stand before vLLM is imported, and
because it is there to be killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import httpx

from kv_store.settings import KVAttachment
from workers.engine import EngineSpec, Rest
from workers.env import engine_env

KEY = "a-key-of-the-test"


class Life:
    def __init__(self, engine: Any, spec: EngineSpec) -> None:
        self._engine = engine
        self._spec = spec
        self._http = httpx.AsyncClient()

    async def start(self) -> dict[str, Any]:
        started = await self._engine.start()
        self._http = httpx.AsyncClient(
            base_url=f"http://{started.endpoint.host}:{started.endpoint.port}",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=900,
        )
        return {"phases_s": started.phases_s}

    async def tokenize(self, text: str) -> dict[str, Any]:
        body = {"model": self._spec.model, "prompt": text}
        return dict((await self._http.post("/tokenize", json=body)).raise_for_status().json())

    async def ask(
        self, prompt: list[int], request: str, salt: str = "s", most: int = 24
    ) -> dict[str, Any]:
        body = {
            "model": self._spec.model,
            "prompt": prompt,
            "cache_salt": salt,
            "max_tokens": most,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        began = time.monotonic()
        headers = {"X-Request-Id": request}
        answer = await self._http.post("/v1/completions", json=body, headers=headers)
        told = answer.raise_for_status().json()
        found = self._engine._seat.reports.found(f"cmpl-{request}")
        return {
            "text": told["choices"][0]["text"],
            "tokens": told["choices"][0]["token_ids"],
            "cached": (told["usage"]["prompt_tokens_details"] or {}).get("cached_tokens", 0),
            "tier": found.tier_tokens if found is not None else None,
            "header": answer.headers.get("x-torpor-kv"),
            "seconds": time.monotonic() - began,
        }

    async def stored(self, request: str) -> dict[str, Any]:
        """The report comes a step after the answer."""
        async with asyncio.timeout(60):
            while True:
                stored = self._engine._seat.reports.stored(f"cmpl-{request}")
                if stored is not None:
                    return {"tokens": stored.tokens, "stored": stored.stored_tokens}
                await asyncio.sleep(0.01)

    async def sleep(self, rest: str) -> dict[str, Any]:
        return {"slept_s": (await self._engine.sleep(Rest(rest))).phases_s}

    async def wake(self) -> dict[str, Any]:
        woke = await self._engine.wake()
        return {"woke_s": woke.phases_s, "kv_identity": woke.kv_identity}

    async def nap(self, rest: str) -> dict[str, Any]:
        return await self.sleep(rest) | await self.wake()

    async def freeze(self, prompt: list[int], request: str, rest: str) -> dict[str, Any]:
        """An answer is frozen in its middle; what it is, and what was found when it went on."""
        body = {
            "model": self._spec.model,
            "prompt": prompt,
            "cache_salt": "s",
            "max_tokens": 24,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        said = []
        headers = {"X-Request-Id": request}
        async with self._http.stream("POST", "/v1/completions", json=body, headers=headers) as got:
            async for line in got.aiter_lines():
                if line.startswith("data: {"):
                    said.append(json.loads(line.removeprefix("data: "))["choices"][0]["text"])
                if len(said) == 8:
                    await self._engine.sleep(Rest(rest), keep=True)
                    await self._engine.wake()
                    said.append("")
        found = self._engine._seat.reports.found(f"cmpl-{request}")
        return {"text": "".join(said), "tier": found.tier_tokens, "engine": found.engine_tokens}

    async def stop(self) -> dict[str, Any]:
        await self._engine.stop()
        return {}


async def live(spec: EngineSpec) -> None:
    from workers.vllm_engine import VllmEngine

    life = Life(VllmEngine(spec, key=KEY, device="cpu"), spec)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        try:
            told = await getattr(life, order.pop("order"))(**order)
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        sys.__stdout__.write("@" + json.dumps(told) + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]


def main() -> None:
    fields = json.loads(sys.argv[1])
    kv = KVAttachment(**fields.pop("kv"))
    spec = EngineSpec(**fields, kv=kv)
    os.environ.update(engine_env(spec, device="cpu"))
    asyncio.run(live(spec))


if __name__ == "__main__":
    main()
