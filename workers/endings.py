"""The end of a process, noticed when it begins.

A process's own pidfd tells of its end once the kernel has taken its memory back, which took 0.1 to
0.2 s for a GiB. Its threads end before that, all but one, and each of them can have a pidfd of its
own (``PIDFD_THREAD``, Linux 6.9; on an older kernel the process's has to do). So the oldest threads
are watched too. A thread may also end by itself: whether the process ends with it, its first thread
shows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PIDFD_THREAD = os.O_EXCL
_THREADS = 3
"""Watched at a time. Two are enough for one to be not the last that ends."""
_AGAIN_S = (0.01, 0.1)
"""The first thread of a killed process may take a moment to notice, on a busy machine."""
_PROC = Path("/proc")
_EXITING = 0x4
_KILL = 1 << 8


class Ending:
    """Of one process. ``begins`` is called once, in this loop, when it has begun to end."""

    def __init__(self, pid: int, begins: Callable[[], None]) -> None:
        """Raises ProcessLookupError: it is gone."""
        self.pidfd = os.pidfd_open(pid)
        """Readable when nothing of it is left. Open until ``close``."""
        self._pid = pid
        self._begins = begins
        self._loop = asyncio.get_running_loop()
        self._threads: dict[int, int] = {}
        """pidfd by thread."""
        self._is_watched = True
        self._loop.add_reader(self.pidfd, self._has_begun)
        self._watch_threads()

    def let_go(self) -> None:
        """Nobody wants to know any more."""
        if not self._is_watched:
            return
        self._is_watched = False
        self._loop.remove_reader(self.pidfd)
        for thread in list(self._threads):
            self._forget(thread)

    def close(self) -> None:
        self.let_go()
        os.close(self.pidfd)

    def _has_begun(self) -> None:
        self.let_go()
        self._begins()

    def _watch_threads(self) -> None:
        for thread in _threads(self._pid):
            if len(self._threads) >= _THREADS:
                return
            if thread not in self._threads:
                with suppress(OSError):
                    watching = os.pidfd_open(thread, _PIDFD_THREAD)
                    self._threads[thread] = watching
                    self._loop.add_reader(watching, self._thread_ended, thread)

    def _thread_ended(self, thread: int) -> None:
        self._forget(thread)
        if is_ending(self._pid):
            return self._has_begun()
        for after_s in _AGAIN_S:
            self._loop.call_later(after_s, self._look)
        return None

    def _look(self) -> None:
        if not self._is_watched:
            return
        if is_ending(self._pid):
            self._has_begun()
        else:
            self._watch_threads()

    def _forget(self, thread: int) -> None:
        watching = self._threads.pop(thread)
        self._loop.remove_reader(watching)
        os.close(watching)


def is_ending(pid: int) -> bool:
    """It is gone, or about to be: its first thread is a zombie, on its way, or told to be."""
    try:
        told = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        if told[0] in "ZX" or int(told[6]) & _EXITING:
            return True
        status = (_PROC / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = next(line for line in status.splitlines() if line.startswith("SigPnd:"))
    return bool(int(pending.split()[1], 16) & _KILL)


def _threads(pid: int) -> list[int]:
    """The oldest first."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return sorted(int(thread) for thread in os.listdir(_PROC / str(pid) / "task"))
    return []
