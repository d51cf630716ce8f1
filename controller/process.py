"""The controller's process: ``python -m controller.process SETTINGS.json RAY_ADDRESS``.

Joins the Ray that the supervisor started, drives the fleet, serves the API. On SIGTERM it takes
no new requests, lets the running responses end for the grace time, and leaves the engines as
they are. The terminal belongs to the announcer; the log is a file. Exit code 2 says that it cannot run like this (a port taken, a bad configuration):
the supervisor does not try again.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import uvicorn

from controller.settings import Settings
from controller.wiring import Controller, build

_CANNOT_RUN = 2


def main() -> int:
    settings = Settings.from_json(Path(sys.argv[1]).read_text())
    settings.log_dir.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=settings.log_dir / "controller.log",
        level=settings.log_level,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    try:
        return asyncio.run(_serve(build(settings, sys.argv[2])))
    except OSError as error:
        sys.stderr.write(f"torpor: {error}\n")
        return _CANNOT_RUN


async def _serve(controller: Controller) -> int:
    server = uvicorn.Server(controller.uvicorn_config())
    await server.serve()
    return 0 if server.started else _CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main())
