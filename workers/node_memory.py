"""What a node's memory is used for at this moment: free, the fleet's own, and the rest others'.

On the host the fleet's own is the anonymous memory of its processes, which their mark tells, and
of the KV server, and the shared memory of both, each segment once. On a GPU it is what NVML says
of the same processes. Where NVML does not know them (another pid namespace) it cannot be seen, nor
can it on the host of a node with GPUs: memory pinned for CUDA shows in no process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from workers import processes
from workers.capacity import GpuMemory, gpus
from workers.host_memory import CGROUP, PROC, file_bytes, host_memory, own_bytes
from workers.pool_values import NodeMemory, ResourceMemory


@dataclass(frozen=True, slots=True)
class Own:
    """What belongs to the fleet on this node."""

    pids: list[int] = field(default_factory=list)
    segments: list[Path] = field(default_factory=list)


def own_of(fleet: str, pids: Iterable[int], segments: Iterable[Path]) -> Own:
    """``pids``, ``segments``: beside those of the fleet's engines."""
    marked = [pid for of_one in processes.marks(fleet).values() for pid in of_one]
    return Own([*marked, *pids], list(segments))


def node_memory(
    node: str,
    own: Own,
    devices: list[GpuMemory] | None = None,
    proc: Path = PROC,
    cgroup: Path = CGROUP,
) -> NodeMemory:
    """``devices``: instead of the GPUs that NVML finds."""
    found = gpus() if devices is None else devices
    host = host_memory(proc, cgroup)
    held = own_bytes(own.pids, proc) + file_bytes(own.segments)
    cpu = ResourceMemory("cpu", host.total_bytes, host.available_bytes, held)
    if not found:
        return NodeMemory(node, (cpu,), cpu, host.stalled_percent)
    on_gpus = tuple(_on_gpu(index, gpu, own) for index, gpu in enumerate(found))
    of_host = ResourceMemory("host", host.total_bytes, host.available_bytes, None)
    return NodeMemory(node, on_gpus, of_host, host.stalled_percent)


def _on_gpu(index: int, gpu: GpuMemory, own: Own) -> ResourceMemory:
    held = gpu.held_by
    ours = None if held is None else [held[pid] for pid in own.pids if pid in held]
    can_see = ours or not held or not own.pids
    return ResourceMemory(
        f"cuda:{index}",
        gpu.total_bytes,
        gpu.free_bytes,
        sum(ours) if ours is not None and can_see else None,
    )
