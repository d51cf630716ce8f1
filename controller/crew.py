"""The children that the supervisor keeps beside the controller: carriers, and the records' store.

Each carrier has a listening socket of its own on the one port; the supervisor holds all of them, so
that connections to a carrier that died wait for the next one and are not lost. A store that died is
started again where it was; meanwhile the fleet serves without records.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from select import select
from socket import socket
from typing import Protocol

from workers.listening import listen

Child = subprocess.Popen[bytes]
Start = Callable[[socket], Child]

_PAUSE_S = 1.0
"""A child is started again no sooner than so long after its last start."""


class Kept(Protocol):
    """What is started and stopped by somebody else, and started again here."""

    @property
    def process(self) -> Child | None:
        """None: it does not run, and is not wanted."""
        ...

    def start_again(self) -> None:
        """Returns at once. Raises RuntimeError or OSError."""
        ...


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
    store: Kept | None = None
    store_died: Callable[[int], None] = lambda code: None
    is_leaving: bool = False
    _carriers: list[_Carrier] = field(default_factory=list)
    _store_due: float = 0.0
    """When the store may be started again."""

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
        """Until the controller ends; others that end meanwhile are started again. Its exit
        code."""
        while controller.poll() is None:
            self._raise()
            self._raise_store()
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
        carriers = [one.process for one in self._carriers]
        store = self.store.process if self.store is not None else None
        children = carriers if store is None else [*carriers, store]
        return [child for child in children if child.poll() is None]

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

    def _is_store_gone(self) -> bool:
        process = self.store.process if self.store is not None else None
        return not self.is_leaving and process is not None and process.poll() is not None

    def _raise_store(self) -> None:
        """One that cannot be started is tried again."""
        if self.store is None or not self._is_store_gone():
            return
        if time.monotonic() < self._store_due:
            return
        assert self.store.process is not None
        self.store_died(self.store.process.returncode)
        self._store_due = time.monotonic() + _PAUSE_S
        with suppress(RuntimeError, OSError):
            self.store.start_again()

    def _wait_for_one(self, children: Sequence[Child]) -> None:
        """To end, or for the moment when one that is gone may be started again."""
        dues = [self._carriers[i].started + _PAUSE_S for i in self._gone()]
        due = min([*dues, *([self._store_due] if self._is_store_gone() else [])], default=inf)
        timeout_s = max(0.0, due - time.monotonic()) if due < inf else None
        with ExitStack() as stack:
            fds = [os.pidfd_open(child.pid) for child in children]
            for fd in fds:
                stack.callback(os.close, fd)
            select(fds, [], [], timeout_s)
