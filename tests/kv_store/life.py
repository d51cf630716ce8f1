"""The test's end of ``engine_life.py``: a real engine to ask, put to sleep and kill."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kv_store.settings import KVAttachment
from workers import leavings

ROOT = Path(__file__).parents[2]
LINE_BYTES = 16 * 1024 * 1024


class Engine:
    def __init__(self, process: Process) -> None:
        self._process = process

    async def order(self, order: str, **told: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"order": order} | told).encode() + b"\n")
        await self._process.stdin.drain()
        while line := await self._process.stdout.readline():
            if line.startswith(b"@"):
                answer = dict(json.loads(line[1:]))
                assert "error" not in answer, answer["error"]
                return answer
        raise AssertionError("the engine has died")

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        leavings.sweep()


@asynccontextmanager
async def engine(
    model: Path, attachment: KVAttachment, *, lookup_limit_s: float
) -> AsyncIterator[Engine]:
    kv = asdict(replace(attachment, heartbeat_s=0.5, lookup_limit_s=lookup_limit_s))
    spec = {"model": "chat", "path": str(model), "kv": kv}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "tests/kv_store/engine_life.py"), json.dumps(spec)),
        stdin=PIPE,
        stdout=PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        limit=LINE_BYTES,
    )
    running = Engine(process)
    try:
        await running.order("start")
        yield running
    finally:
        await running.kill()
