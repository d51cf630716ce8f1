"""The controller's process: as ``torpor serve`` has it, but for Ray.

Settings from a fleet.yaml, the real core, driver, leases, journal, metrics and API with one key.
uvicorn ends by the signal that made it leave, so SIGTERM is an exit here: what has to be done at
the end is done, whenever it comes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import socket
from threading import Thread
from types import FrameType
from typing import Any

import yaml

from benchmarks.gateway.children import read_order, tell
from benchmarks.gateway.pool import StandingPool
from controller import serving
from controller.crew import Crew, command, doors
from controller.keyring import new_key
from controller.serving import DeciderSockets
from controller.settings import Settings, load
from controller.wiring import assemble
from workers.engine import Endpoint
from workers.listening import listen, listen_at


@dataclass(frozen=True, slots=True)
class GatewayOrder:
    """What the process is told."""

    model: str
    engine_host: str
    engine_port: int
    engine_key: str
    directory: str
    """Its own, for all of its files."""
    workers: int = 0
    """Carriers before it; 0: it carries itself."""


def serve(order: GatewayOrder) -> None:
    directory = Path(order.directory)
    key, kept = new_key("bench", "bench", ["inference"])
    known = {"name": kept.name, "tenant": kept.tenant, "roles": ["inference"]}
    keys = [{**known, "sha256": kept.sha256}]
    endpoint = Endpoint(order.engine_host, order.engine_port, order.engine_key)
    sockets = DeciderSockets(directory) if order.workers else None
    with doors("127.0.0.1", 0, order.workers) as shared:
        listening = listen_at(sockets.api) if sockets else listen("127.0.0.1")
        port = (shared or [listening])[0].getsockname()[1]
        settings = _settings(order.model, {"port": port, "keys": keys}, directory)
        pool = StandingPool(settings.models[0].engine, endpoint)
        controller = assemble(settings, pool, sockets)
        crew = Crew(shared, partial(_carrier, settings, directory), lambda code: None)
        crew.begin()
        try:
            tell({"port": port, "key": key})
            Thread(target=_end_with_input, args=[crew], daemon=True).start()
            serving.serve(controller, listening)
        finally:
            crew.close()


def _carrier(settings: Settings, directory: Path, door: socket) -> subprocess.Popen[bytes]:
    told = directory / "settings.json"
    told.write_text(settings.to_json())
    return subprocess.Popen(command(told, directory, door), pass_fds=[door.fileno()])


def _settings(model: str, server: dict[str, Any], directory: Path) -> Settings:
    never = dict.fromkeys(("kv_released_s", "level_1_s", "level_2_s", "stopped_s"), "never")
    raw = {
        "device": "cpu",
        "memory": {"device_budget_gib": 1.0},
        "defaults": {"footprint": {"awake_gib": 0.2}, "idle": never},
        "models": [{"name": model, "path": "nowhere", "kind": "fake"}],
        "server": server,
    }
    file = directory / "fleet.yaml"
    file.write_text(yaml.safe_dump(raw))
    return load(file, {"TORPOR_STATE_DIR": str(directory)})


def _end_with_input(crew: Crew) -> None:
    sys.stdin.read()
    crew.signal(signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    serve(read_order(GatewayOrder))
