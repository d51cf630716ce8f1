"""What happens to a model between two turns, and how it comes back."""

from __future__ import annotations

import time

import psutil

from benchmarks.running import BenchError
from benchmarks.wake.options import LEVELS
from controller.client import FleetClient
from controller.ports import OperationView
from workers.processes import MARK

KILLED = "engine_killed"
RESTARTED = "restart"
KV_RELEASED = "kv_released"
AFTER = (KV_RELEASED, "level_1", "level_2", KILLED)
"""Within the life of one fleet."""
_NOTICED_S = 60.0
_POLL_S = 0.05


def disturb(client: FleetClient, supervisor: int, model: str, how: str) -> None:
    if how == KILLED:
        _kill(client, supervisor, model)
    else:
        done(client.sleep(model, LEVELS[how]))


def bring_back(client: FleetClient, model: str) -> float:
    """Seconds of the wake, or of the start."""
    return done(client.wake(model)).seconds


def done(operation: OperationView) -> OperationView:
    if operation.status != "done":
        raise BenchError(f"{operation.kind} {operation.model}: {operation.error}")
    return operation


def _kill(client: FleetClient, supervisor: int, model: str) -> None:
    """Returns when the fleet has noticed."""
    for process in _processes(supervisor, model):
        process.kill()
    until = time.monotonic() + _NOTICED_S
    while client.model(model).state == "awake":
        if time.monotonic() > until:
            raise BenchError(f"the fleet did not notice that {model} was killed")
        time.sleep(_POLL_S)


def _processes(supervisor: int, model: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(supervisor).children(recursive=True):
        try:
            if f"/{model}#" in process.environ().get(MARK, ""):
                found.append(process)
        except psutil.Error:
            continue
    if not found:
        raise BenchError(f"no process of {model} was found")
    return found
