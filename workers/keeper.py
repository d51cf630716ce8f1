"""``python -m workers.keeper DIRECTORY COMMAND…``: runs a command and lets nothing outlive it.

It makes itself the reaper of its descendants, however they detach themselves, and kills them all
when its standard input ends: that is, when whoever started it says so, or has died. Then their
shared memory goes, and the directory. If the command ends by itself, the directory stays, for
whoever wants to know why, and its exit code is the keeper's.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from workers import processes

_PR_SET_CHILD_SUBREAPER = 36
_POLITE_S = 2.0
"""How long the command may take to end by itself after SIGTERM."""


def main(directory: str, *command: str) -> int:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    orphan_ended = _wakeup()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_default_signals)
    _until_told_or_ended(child.pid, orphan_ended)
    code = child.poll()
    if code is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLITE_S)
    bury_descendants()
    if code is None:
        processes.remove_tree(Path(directory))
    return code or 0


def bury_descendants() -> None:
    """Kill and reap until there is neither child nor grandchild, nor their shared memory."""
    segments: set[Path] = set()
    while left := [process.pid for process in psutil.Process().children(recursive=True)]:
        segments |= processes.segments(left)
        processes.end(left, time.monotonic() + 1.0)
        _reap(time.monotonic() + 1.0)
    processes.reap(segments)


def _wakeup() -> int:
    """A file descriptor that is readable after the end of a child."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return reading


def _until_told_or_ended(pid: int, orphan_ended: int) -> None:
    ended = os.pidfd_open(pid)
    stdin = sys.stdin.fileno()
    while True:
        ready = select.select([ended, stdin, orphan_ended], [], [])[0]
        if ended in ready or (stdin in ready and not os.read(stdin, 1)):
            os.close(ended)
            return
        if orphan_ended in ready:
            os.read(orphan_ended, 4096)
            _reap_others(pid)


def _reap_others(pid: int) -> None:
    """Every zombie but the command itself, whose exit code is wanted."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (zombie := os.waitid(os.P_ALL, 0, options)) is not None and zombie.si_pid != pid:
        os.waitpid(zombie.si_pid, 0)


def _reap(deadline: float) -> None:
    """The zombies among our children, until there are no more to come for the moment."""
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.01)


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
