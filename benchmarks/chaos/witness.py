"""Who sees what a fleet uses while it runs, and what of it is left when the fleet has ended."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos.parts import everything
from workers.processes import used

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError)
_GONE_S = 10.0
"""A process that was told to end may take so long."""


@dataclass(slots=True)
class Memory:
    """``node_bytes``: of the whole fleet, shared pages counted once."""

    controller_bytes: int
    node_bytes: int


@dataclass(slots=True)
class Witness:
    """``temporary``: where the fleet has its temporary files, which names its processes too."""

    supervisor: psutil.Process
    temporary: Path
    processes: list[str] = field(default_factory=list)
    segments: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    _seen: set[psutil.Process] = field(default_factory=set)
    _used: set[Path] = field(default_factory=set)

    def look(self) -> None:
        family = everything(self.supervisor)
        self._seen.update(family)
        self._used |= used([process.pid for process in family])

    def conclude(self) -> None:
        """The fleet has ended: ``processes``, ``segments`` and ``files`` are what it left."""
        left = [process for process in self._seen | self._others() if process.is_running()]
        _, alive = psutil.wait_procs(left, timeout=_GONE_S)
        self.processes = [_told(process) for process in alive]
        self.segments = [str(path) for path in self._used if path.exists()]
        self.files = sorted(os.listdir(self.temporary))

    def _others(self) -> set[psutil.Process]:
        """That were never seen below the supervisor."""
        return {process for process in psutil.process_iter() if self._is_ours(process)}

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("TMPDIR", "").startswith(str(self.temporary))
        except _GONE:
            return False


def memory(supervisor: psutil.Process, controller: psutil.Process | None) -> Memory:
    whole = 0
    for process in (supervisor, *everything(supervisor)):
        try:
            whole += process.memory_full_info().pss
        except _GONE:
            continue
    return Memory(_rss(controller), whole)


def _rss(process: psutil.Process | None) -> int:
    try:
        return process.memory_info().rss if process is not None else 0
    except _GONE:
        return 0


def _told(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    except _GONE:
        return str(process.pid)
