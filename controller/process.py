"""The controller's process: ``python -m controller.process SETTINGS.json RAY_ADDRESS``.

Joins the Ray that the supervisor started, drives the fleet, serves the API. On SIGTERM it takes
no new requests, lets the running responses end for the grace time, and leaves the engines as
they are. The terminal belongs to the announcer; the log is a file.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path
from socket import socket

import uvicorn

from controller.settings import Settings
from controller.supervisor import CANNOT_RUN
from controller.wiring import Controller, build
from workers.listening import listen


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
        return CANNOT_RUN
    # Port 0 was "any free one": from here on it has a name.
    server = replace(settings.server, port=listening.getsockname()[1])
    settings = replace(settings, server=server)
    with listening:
        return serve(build(settings, sys.argv[2]), listening)


def serve(controller: Controller, listening: socket) -> int:
    """Until a signal, on the event loop of uvicorn's choice (uvloop). The exit code."""
    config = controller.uvicorn_config()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(_serve(config, listening))


async def _serve(config: uvicorn.Config, listening: socket) -> int:
    server = _Server(config)
    await server.serve(sockets=[listening])
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Takes the signals back once the fleet is open: joining a Ray puts Ray's handler before
    uvicorn's, and that one prints a stack trace."""

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)


if __name__ == "__main__":
    sys.exit(main())
