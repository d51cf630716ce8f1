"""Measured memory of an engine: its processes on the host, and what they hold on devices.

Host bytes are proportional set size (each shared page divided among its users, so that a
sum over processes counts it once), device bytes are what NVML says the same processes hold.
Resident set size is never used: it counts torch's libraries once for each process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from workers.engine import Memory

PROC = Path("/proc")
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of one or several processes, from ``/proc/PID/smaps_rollup``."""

    pss: int = 0
    anonymous: int = 0
    shmem_pss: int = 0
    """The part of ``pss`` that lies in shared memory."""

    def __add__(self, other: Resident) -> Resident:
        return Resident(
            self.pss + other.pss,
            self.anonymous + other.anonymous,
            self.shmem_pss + other.shmem_pss,
        )


def family(pid: int) -> tuple[int, ...]:
    """The process and all its descendants, itself first; those that are gone are left out."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return ()
    return (pid, *sorted(child.pid for child in children))


def resident(*pids: int, proc: Path = PROC) -> Resident:
    """The sum over ``pids``; a process that ended meanwhile counts nothing."""
    total = Resident()
    for pid in pids:
        try:
            total += parse_rollup((proc / str(pid) / "smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return total


def parse_rollup(text: str) -> Resident:
    fields: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        amount = rest.split()
        if amount and amount[0].isdigit():
            fields[name] = int(amount[0]) * _KIB
    return Resident(fields.get("Pss", 0), fields.get("Anonymous", 0), fields.get("Pss_Shmem", 0))


def anonymous_bytes() -> int:
    """Anonymous memory of this process, now."""
    return parse_rollup((PROC / "self" / "smaps_rollup").read_text()).anonymous


def on_devices(*pids: int) -> int:
    """Bytes that these processes hold on NVIDIA devices; 0 where there is no NVML."""
    try:
        import pynvml
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        return sum(
            process.usedGpuMemory or 0
            for handle in handles
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if process.pid in pids
        )
    finally:
        pynvml.nvmlShutdown()


def measure(pid: int, *, device: str) -> Memory:
    """What the engine whose first process is ``pid`` holds; without a GPU all of it is device."""
    pids = family(pid)
    host = resident(*pids).pss
    if device == "cpu":
        return Memory(device_bytes=host, host_bytes=0)
    return Memory(device_bytes=on_devices(*pids), host_bytes=host)
