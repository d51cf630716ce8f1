"""The carriers of one fleet, as the supervisor keeps them.

Each has a listening socket of its own on the one port; the supervisor holds all of them, so that
connections to a carrier that died wait for the next one and are not lost.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from select import select
from socket import socket

from workers.listening import listen

Child = subprocess.Popen[bytes]
Start = Callable[[socket], Child]

_PAUSE_S = 1.0
"""A carrier is started again no sooner than so long after its last start."""


@contextmanager
def doors(host: str, port: int, count: int) -> Iterator[list[socket]]:
    """So many listening sockets on one port; nobody else may have it. Raises OSError."""
    with ExitStack() as stack:
        if count:
            with listen(host, port) as alone:
                port = alone.getsockname()[1]
        yield [stack.enter_context(listen(host, port, is_shared=True)) for _ in range(count)]


def command(settings: Path, sockets: Path, door: socket) -> list[str]:
    """Of a carrier, which is to inherit ``door``."""
    fd = str(door.fileno())
    return [sys.executable, "-m", "controller.carrier", str(settings), str(sockets), fd]


@dataclass(slots=True)
class _Carrier:
    door: socket
    process: Child
    started: float


@dataclass(slots=True)
class Crew:
    """``start`` gives a process to a door. Without doors there is nobody to keep."""

    doors: Sequence[socket]
    start: Start
    died: Callable[[int], None]
    """Told the exit code of a carrier that will be started again."""
    is_leaving: bool = False
    _carriers: list[_Carrier] = field(default_factory=list)

    def begin(self) -> None:
        """Again: nothing happens."""
        if not self._carriers:
            self._carriers = [self._started(door) for door in self.doors]

    def signal(self, number: int) -> None:
        """Told once to leave, none is started again."""
        self.is_leaving = True
        for carrier in self._carriers:
            carrier.process.send_signal(number)

    def tend(self, controller: Child) -> int:
        """Until the controller ends; carriers that end meanwhile are started again. Its exit
        code."""
        while controller.poll() is None:
            self._raise()
            self._wait_for_one([controller, *self._running()])
        return controller.returncode

    def close(self) -> None:
        """They are told to leave, if they were not yet, and waited for."""
        if not self.is_leaving:
            self.signal(signal.SIGTERM)
        for carrier in self._carriers:
            carrier.process.wait()

    def _started(self, door: socket) -> _Carrier:
        return _Carrier(door, self.start(door), time.monotonic())

    def _running(self) -> list[Child]:
        return [one.process for one in self._carriers if one.process.poll() is None]

    def _gone(self) -> list[int]:
        if self.is_leaving:
            return []
        return [i for i, one in enumerate(self._carriers) if one.process.poll() is not None]

    def _raise(self) -> None:
        for index in self._gone():
            carrier = self._carriers[index]
            if time.monotonic() >= carrier.started + _PAUSE_S:
                self.died(carrier.process.returncode)
                self._carriers[index] = self._started(carrier.door)

    def _wait_for_one(self, children: Sequence[Child]) -> None:
        """To end, or for the moment when one that is gone may be started again."""
        due = min((self._carriers[i].started + _PAUSE_S for i in self._gone()), default=inf)
        timeout_s = max(0.0, due - time.monotonic()) if due < inf else None
        with ExitStack() as stack:
            fds = [os.pidfd_open(child.pid) for child in children]
            for fd in fds:
                stack.callback(os.close, fd)
            select(fds, [], [], timeout_s)
