"""The controller's process: as ``torpor serve`` has it, but for Ray.

Settings from a fleet.yaml, the real core, driver, leases, journal, metrics and API with one key.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import yaml

from benchmarks.gateway.children import read_order, tell
from benchmarks.gateway.pool import StandingPool
from controller import process
from controller.keyring import new_key
from controller.settings import Settings, load
from controller.wiring import assemble
from workers.engine import Endpoint
from workers.listening import listen


@dataclass(frozen=True, slots=True)
class GatewayOrder:
    """What the process is told."""

    model: str
    engine_port: int
    engine_key: str


def serve(order: GatewayOrder, directory: Path) -> None:
    key, kept = new_key("bench", "bench", ["inference"])
    listening = listen("127.0.0.1")
    port = listening.getsockname()[1]
    known = {"name": kept.name, "tenant": kept.tenant, "roles": ["inference"]}
    server = {"port": port, "keys": [{**known, "sha256": kept.sha256}]}
    settings = _settings(order.model, server, directory)
    endpoint = Endpoint("127.0.0.1", order.engine_port, order.engine_key)
    controller = assemble(settings, StandingPool(settings.models[0].engine, endpoint))
    tell({"port": port, "key": key})
    Thread(target=_end_with_input, daemon=True).start()
    process.serve(controller, listening)


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


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    with TemporaryDirectory(prefix="torpor-bench-") as directory:
        serve(read_order(GatewayOrder), Path(directory))
