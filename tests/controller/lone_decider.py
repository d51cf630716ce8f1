"""A deciding process without Ray, before one engine that is somebody else's:
``lone_decider.py SETTINGS.json SOCKETS ENGINE_PORT ENGINE_KEY``."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.gateway.pool import StandingPool
from controller.serving import DeciderSockets, log_as, serve
from controller.settings import Settings
from controller.wiring import assemble
from workers.engine import Endpoint
from workers.listening import listen_at

if __name__ == "__main__":
    settings = Settings.from_json(Path(sys.argv[1]).read_text())
    log_as(settings)
    sockets = DeciderSockets(Path(sys.argv[2]))
    endpoint = Endpoint("127.0.0.1", int(sys.argv[3]), sys.argv[4])
    pool = StandingPool(settings.models[0].engine, endpoint)
    with listen_at(sockets.api) as listening:
        sys.exit(serve(assemble(settings, pool, sockets), listening))
