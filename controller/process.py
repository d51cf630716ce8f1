"""The controller's process: ``python -m controller.process SETTINGS.json RAY_ADDRESS``.

Joins the Ray that the supervisor started, drives the fleet, serves the API. On SIGTERM it takes
no new requests, lets the running responses end for the grace time, and leaves the engines as
they are. The terminal belongs to the announcer; the log is a file. Exit code 2 says that it
cannot run like this (its port is taken): the supervisor does not try again.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import replace
from pathlib import Path
from socket import socket

import uvicorn

from controller.settings import Settings
from controller.wiring import Controller, build
from workers.listening import listen

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
        listening = listen(settings.server.host, settings.server.port)
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        sys.stderr.write(f"torpor: cannot listen on {where}: {error.strerror}\n")
        return _CANNOT_RUN
    # Port 0 was "any free one": from here on it has a name.
    server = replace(settings.server, port=listening.getsockname()[1])
    settings = replace(settings, server=server)
    with listening:
        return asyncio.run(_serve(build(settings, sys.argv[2]), listening))


async def _serve(controller: Controller, listening: socket) -> int:
    server = uvicorn.Server(controller.uvicorn_config())
    await server.serve(sockets=[listening])
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
