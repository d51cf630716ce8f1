"""The controller's process: ``python -m controller.process SETTINGS.json RAY_ADDRESS [SOCKETS]``.

Joins the Ray that the supervisor started, drives the fleet, serves the API, and when it is told to
stop leaves the engines as they are. With SOCKETS, a directory, it decides and carriers carry: it
serves them there and does not listen on the port itself. The terminal belongs to the announcer;
the log is a file, unless ``log_dir: "-"`` gives it stderr.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from controller.reload import with_models_as_written
from controller.serving import DeciderSockets, log_as, serve, take_all_descriptors
from controller.settings import Settings
from controller.supervisor import CANNOT_RUN
from controller.wiring import build
from workers.listening import listen, listen_at


def main() -> int:
    settings = Settings.from_json(Path(sys.argv[1]).read_text())
    take_all_descriptors()
    log_as(settings)
    settings = with_models_as_written(settings)
    if len(sys.argv) > 3:
        return _serve_carriers(settings, DeciderSockets(Path(sys.argv[3])))
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


def _serve_carriers(settings: Settings, sockets: DeciderSockets) -> int:
    with listen_at(sockets.api) as listening:
        return serve(build(settings, sys.argv[2], sockets), listening)


if __name__ == "__main__":
    sys.exit(main())
