"""The engine's process: tells its port, serves until its standard input ends."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Literal

import uvloop

from benchmarks.gateway.children import read_order, tell
from benchmarks.gateway.quick_engine import QuickEngine, Script
from workers.engine import EngineSpec
from workers.fake_engine import FakeEngine
from workers.listening import listen


@dataclass(frozen=True, slots=True)
class EngineOrder:
    """What the process is told."""

    kind: Literal["quick", "fake"]
    script: Script


async def serve(order: EngineOrder) -> None:
    loop = asyncio.get_running_loop()
    if order.kind == "fake":
        port = await _serve_fake(order.script)
    else:
        script = order.script
        whole, chunks = script.whole(), script.chunks()
        listening = listen("127.0.0.1")
        await loop.create_server(lambda: QuickEngine(script, whole, chunks), sock=listening)
        port = listening.getsockname()[1]
    tell(port)
    await loop.run_in_executor(None, sys.stdin.read)


async def _serve_fake(script: Script) -> int:
    arguments = {"token_delay_s": script.event_interval_s}
    spec = EngineSpec(script.model, "nowhere", engine_args=arguments, kind="fake")
    started = await FakeEngine(spec, key=script.key).start()
    return started.endpoint.port


if __name__ == "__main__":
    uvloop.run(serve(read_order(EngineOrder)))
