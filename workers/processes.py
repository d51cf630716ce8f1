"""Processes of this host as /proc tells them: who bears an engine's mark, and their burial.

Every process of an engine inherits the mark in its environment, whatever becomes of its parent.
So the dead actor's children are found again by anybody, after any crash, without a record.

Python's own resource trackers are not killed with the rest. They end by themselves once the
processes that they track for are gone, and first remove what these shared under names that nobody
else knows: queues between vLLM's ranks, semaphores.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

MARK = "TORPOR_ENGINE"
"""The environment variable that names a process's engine."""

_PROC = Path("/proc")
_SHM = Path("/dev/shm")  # noqa: S108
_TRACKER = b"resource_tracker"
_TRACKER_S = 2.0
"""It removes a few files; one that takes longer is stopped, or tracks for a stranger."""
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def marks(prefix: str) -> dict[str, list[int]]:
    """Living processes by mark, for the marks that begin with ``prefix``."""
    found: dict[str, list[int]] = {}
    for pid in _pids():
        mark = mark_of(pid)
        if mark is not None and mark.startswith(prefix):
            found.setdefault(mark, []).append(pid)
    return found


def marked(mark: str) -> list[int]:
    return marks(mark).get(mark, [])


def mark_of(pid: int) -> str | None:
    """None for a process without one, and for one that is gone or a zombie."""
    with suppress(*_GONE):
        for entry in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == MARK.encode():
                return value.decode(errors="replace")
    return None


def segments(pids: Iterable[int]) -> set[Path]:
    """Files in /dev/shm that these processes map or hold open, or that bear their pid."""
    pids = list(pids)
    named = {path for pid in pids for path in _SHM.glob(f"torch_{pid}_*")}
    return used(pids) | named


def used(pids: Iterable[int]) -> set[Path]:
    """Files in /dev/shm that these processes map or hold open."""
    held = {path for pid in pids for path in (*_mapped(pid), *_opened(pid))}
    return {path for path in held if path.is_relative_to(_SHM) and path.exists()}


def kill(pids: Iterable[int]) -> None:
    """All but the trackers among them."""
    for pid in pids:
        if not _is_tracker(pid):
            _kill(pid)


def end(pids: Collection[int], by: float) -> None:
    """Kill these and wait for their end, at most until ``by`` (monotonic, in seconds). Only where
    nothing but trackers is left, these are waited for, and killed if they do not end."""
    working = [pid for pid in pids if not _is_tracker(pid)]
    for pid in working:
        _kill(pid)
    until = by if working else min(by, time.monotonic() + _TRACKER_S)
    for pid in working or pids:
        if not await_end(pid, max(0.0, until - time.monotonic())):
            _kill(pid)


def kill_watched(pidfd: int) -> None:
    """That very process, even in the middle of an exec, when its environment reads as empty."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def await_end(pid: int, timeout_s: float) -> bool:
    """True when the process has ended (reaped or not) within ``timeout_s``."""
    try:
        watching = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watching], [], [], timeout_s)[0])
    finally:
        os.close(watching)


def bury(
    mark: str,
    known: Iterable[Path] = (),
    ending: Mapping[int, int] = MappingProxyType({}),
    within_s: float = 20.0,
) -> list[int]:
    """Kill all that bears ``mark`` and wait for its end, then remove its shared memory.

    ``known``: segments seen with the engine earlier; those that another process still uses
    stay. ``ending``: pidfds by pid of its processes, which show no mark any more while the kernel
    takes their memory back. Returns the pids that would not die, at best none.
    """
    deadline = time.monotonic() + within_s
    candidates = set(known)
    while left := marked(mark):
        candidates |= segments(left)
        end(left, deadline)
        if time.monotonic() >= deadline:
            return marked(mark)
    reap(candidates)
    return [pid for pid, pidfd in ending.items() if not _has_ended(pidfd, deadline)]


def _is_tracker(pid: int) -> bool:
    with suppress(*_GONE):
        return _TRACKER in (_PROC / str(pid) / "cmdline").read_bytes()
    return False


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _has_ended(pidfd: int, deadline: float) -> bool:
    kill_watched(pidfd)
    return bool(select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0])


def reap(candidates: set[Path]) -> None:
    """Remove these segments, but for those that a living process uses."""
    if candidates:
        for path in candidates - used(_pids()):
            path.unlink(missing_ok=True)


def remove_tree(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir(_PROC) if entry.isdigit())


def _mapped(pid: int) -> Iterator[Path]:
    with suppress(*_GONE):
        for line in (_PROC / str(pid) / "maps").read_text(errors="replace").splitlines():
            if str(_SHM) in line:
                yield Path(line[line.index("/") :])


def _opened(pid: int) -> Iterator[Path]:
    with suppress(*_GONE):
        for link in (_PROC / str(pid) / "fd").iterdir():
            with suppress(*_GONE):
                yield link.readlink()
