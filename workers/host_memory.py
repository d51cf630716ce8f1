"""Host memory as the kernel tells it: what there is, what can be had, how much is waited for it.

What can be had is what the kernel calls available (free, and page cache that it would give up),
and no more than the tightest of the limits that this process's control group and those above it
have. Page cache counts as free there too; shared memory does not, since the kernel cannot drop it.
Swap is left out: what lives on swap is no memory for weights.

Control groups are looked for where this process is (``/proc/self/cgroup``) and, since a container
may see its own group as the root, at every level up to it; version 2 and version 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
_KIB = 1024
_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
_V1_RECLAIMABLE = ("total_inactive_file", "total_active_file")


@dataclass(frozen=True, slots=True)
class HostMemory:
    total_bytes: int
    """A control group's limit, where that is less than the machine has."""
    available_bytes: int
    """Beyond what everybody, we included, holds."""
    stalled_percent: float
    """So much of the last ten seconds did some task stall for memory; 0 where nobody counts it."""


def host_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> HostMemory:
    meminfo = _table((proc / "meminfo").read_text(), _KIB)
    total, available = meminfo["MemTotal"], meminfo["MemAvailable"]
    stalled = [_stalled(proc / "pressure" / "memory")]
    for group in _groups(proc, cgroup):
        stalled.append(_stalled(group / "memory.pressure"))
        limited = _limited(group)
        if limited is not None and limited[0] < meminfo["MemTotal"]:
            total = min(total, limited[0])
            available = min(available, max(0, limited[0] - limited[1]))
    return HostMemory(total, available, max(stalled))


def kills(proc: Path = PROC) -> int:
    """So many processes has the kernel killed for want of memory, on this machine, since it
    started."""
    try:
        return _table((proc / "vmstat").read_text(), 1).get("oom_kill", 0)
    except OSError:
        return 0


def own_bytes(pids: list[int], proc: Path = PROC) -> int:
    """Memory of these processes that nobody else has and the kernel cannot drop; shared memory is
    not in it. Cheap: the kernel keeps count."""
    return sum(_anonymous(proc / str(pid) / "status") for pid in pids)


def file_bytes(paths: list[Path]) -> int:
    """What files of shared memory really take."""
    total = 0
    for path in paths:
        try:
            total += path.stat().st_blocks * 512
        except OSError:
            continue
    return total


def _anonymous(status: Path) -> int:
    try:
        return _table(status.read_text(), _KIB).get("RssAnon", 0)
    except OSError:
        return 0


def _groups(proc: Path, cgroup: Path) -> Iterator[Path]:
    """This process's and those above it, of either version."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = cgroup / "memory" if controllers else cgroup
        inner = root / path.lstrip("/")
        while inner != root and root in inner.parents:
            yield inner
            inner = inner.parent
        yield root


def _limited(group: Path) -> tuple[int, int] | None:
    """A group's limit and what it uses that cannot be dropped; None where it has no limit."""
    v2 = (group / "memory.max", group / "memory.current", _RECLAIMABLE)
    v1 = (group / "memory.limit_in_bytes", group / "memory.usage_in_bytes", _V1_RECLAIMABLE)
    for limit, usage, reclaimable in (v2, v1):
        try:
            most, used = limit.read_text().strip(), int(usage.read_text())
            table = _table((group / "memory.stat").read_text(), 1)
        except (OSError, ValueError):
            continue
        if most.isdigit():
            return int(most), max(0, used - sum(table.get(name, 0) for name in reclaimable))
    return None


def _stalled(path: Path) -> float:
    """``some avg10=0.00 avg60=…``"""
    try:
        words = path.read_text().split()
    except OSError:
        return 0.0
    averages = [word for word in words if word.startswith("avg10=")]
    return float(averages[0].removeprefix("avg10=")) if averages else 0.0


def _table(text: str, unit: int) -> dict[str, int]:
    """Names and numbers of ``MemTotal:  123 kB`` and of ``inactive_file 123``."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, *rest = line.replace(":", " ").split()
        if rest and rest[0].isdigit():
            found[name] = int(rest[0]) * unit
    return found
