"""A carrier: ``python -m controller.carrier SETTINGS.json SOCKETS LISTENING_FD``.

One of ``server.workers`` processes that carry the bytes of requests and answers. It asks the
deciding process for leases and for all that it does not answer itself, by the two sockets in the
directory SOCKETS, and goes on while that one is started again. Ray is not imported here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from socket import socket

from controller.api.app import create_carrier
from controller.api.forwarding import Forwarding
from controller.api.status import Readiness
from controller.drivers.remote_leases import RemoteCounts, RemoteLeases
from controller.serving import (
    DeciderSockets,
    Served,
    api_settings,
    log_as,
    serve,
    take_all_descriptors,
)
from controller.settings import Settings


def main() -> int:
    settings = Settings.from_json(Path(sys.argv[1]).read_text())
    take_all_descriptors()
    log_as(settings)
    with socket(fileno=int(sys.argv[3])) as listening:
        return serve(assemble_carrier(settings, DeciderSockets(Path(sys.argv[2]))), listening)


def assemble_carrier(settings: Settings, sockets: DeciderSockets) -> Served:
    leases = RemoteLeases(sockets.leases)
    app = create_carrier(
        api_settings(settings),
        leases,
        RemoteCounts(leases),
        lambda: leases.known,
        Forwarding(sockets.api),
        lifespan=lambda: leases,
    )
    return Served(app, settings, Readiness())


if __name__ == "__main__":
    sys.exit(main())
