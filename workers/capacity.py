"""What a node has: GPUs by NVML, memory by cgroup and host."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from workers.host_memory import host_memory


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """How much of a node engines may use; ``None``: ``share`` of what was found.

    Without a GPU, device and host are one memory: ``host_bytes`` is then what the device
    ``cpu`` leaves of that share.
    """

    device_bytes: int | None = None
    """Of each device."""
    host_bytes: int | None = None
    share: float = 0.9


def devices_and_host(policy: MemoryPolicy) -> tuple[tuple[tuple[str, int], ...], int]:
    """Devices with the bytes that may be used of each, and those of the host."""
    usable = int(memory_limit() * policy.share)
    gpus = gpu_bytes()
    if gpus:
        sizes = [policy.device_bytes or int(total * policy.share) for total in gpus]
        devices = tuple(zip(gpu_names(len(sizes)), sizes, strict=True))
        host = usable
    else:
        budget = policy.device_bytes or usable
        devices = (("cpu", budget),)
        host = max(0, usable - budget)
    return devices, host if policy.host_bytes is None else policy.host_bytes


def gpu_names(count: int) -> tuple[str, ...]:
    """As the ledger knows them, and as Ray is told of them."""
    return tuple(f"cuda:{index}" for index in range(count))


def memory_limit() -> int:
    """Bytes of host memory that this node's processes can have in all."""
    return host_memory().total_bytes


def gpu_bytes() -> list[int]:
    """Bytes of each NVIDIA GPU, in PCI order; none where there is no NVML."""
    return [gpu.total_bytes for gpu in gpus()]


@dataclass(frozen=True, slots=True)
class GpuMemory:
    total_bytes: int
    free_bytes: int
    held_by: dict[int, int] | None
    """Bytes by pid; None: NVML does not tell of every process there."""


def gpus() -> list[GpuMemory]:
    """In PCI order; none where there is no NVML."""
    nvml = _nvml()
    if nvml is None:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [_gpu(nvml, handle) for handle in handles]
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> GpuMemory:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    held = {p.pid: p.usedGpuMemory for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    is_told = all(size is not None for size in held.values())
    return GpuMemory(int(memory.total), int(memory.free), held if is_told else None)


def _nvml() -> Any:
    """Ray brings its own copy along."""
    for name in ("pynvml", "ray._private.thirdparty.pynvml"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None
