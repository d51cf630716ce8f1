"""A controller's Ray side, to be killed: starts an engine, says its pids, and waits."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from workers.engine import EngineSpec
from workers.ray_pool import RayPool


async def main(address: str, state_dir: str, engine_args: str, *devices: str) -> None:
    environment = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
    pool = RayPool(address, state_dir=Path(state_dir), environment=environment)
    await pool.open()
    [node] = await pool.nodes()
    spec = EngineSpec("m", "nowhere", kind="fake", engine_args=json.loads(engine_args))
    started = await pool.start("m#0", 5, spec, node.node, devices)
    print(json.dumps(started.pids), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
