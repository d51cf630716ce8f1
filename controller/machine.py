"""The machine that this process runs on: its memory and its GPUs."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass

from controller.ports import NodeFound
from workers.capacity import memory_limit


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    memory_bytes: int
    """What this process may use: a container's limit, where that is less."""
    gpus: tuple[Gpu, ...]

    def as_node(self, device: str) -> NodeFound:
        """As the pool would find it; without a GPU all memory is the one device's."""
        if device == "cpu":
            return NodeFound(self.name, (("cpu", self.memory_bytes),), self.memory_bytes)
        devices = tuple((str(i), gpu.memory_bytes) for i, gpu in enumerate(self.gpus))
        return NodeFound(self.name, devices, self.memory_bytes)


def this_machine() -> Machine:
    return Machine(platform.node(), memory_limit(), tuple(_gpus()))


def _gpus() -> list[Gpu]:
    """As nvidia-smi tells; none where it is missing or fails."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version"]
    try:
        told = subprocess.run(
            [*query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in told.splitlines()]
    return [Gpu(r[0], int(r[1]) << 20, r[2]) for r in rows if len(r) == 3 and r[1].isdigit()]
