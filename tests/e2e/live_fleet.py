"""A fleet as a user starts it: ``torpor serve`` in a process of its own, real engines below."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from controller import journal
from controller.client import FleetClient
from controller.core.commands import StartEngine
from controller.ports import ConfigView

_START_S = 240.0
_STOP_S = 60.0


class LiveFleet:
    """``config`` is a fleet.yaml; everything the fleet writes lies below ``directory``."""

    def __init__(self, config: Path, directory: Path, *options: str) -> None:
        self.directory = directory
        self.tmp = directory / "tmp"
        self.tmp.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = FleetClient(self.url)
        self.told: list[str] = []
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from controller.cli import main; main()"),
                *("serve", str(config), "--port", str(self.port), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "TORPOR_STATE_DIR": str(directory / "state"),
                "TMPDIR": str(self.tmp),
            },
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def await_ready(self) -> None:
        assert self._ready.wait(_START_S), "".join(self.told)
        assert self._process.poll() is None, "".join(self.told)

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        code = self._process.wait(_STOP_S)
        self._reader.join(_STOP_S)
        self.client.close()
        return code

    def kill_controller(self) -> None:
        for process in psutil.Process(self._process.pid).children():
            if "controller.process" in process.cmdline():
                process.kill()

    def engine(self, model: str) -> psutil.Process:
        """The process of the engine of ``model``; Python's resource tracker may be its child."""
        found = {p.pid: p for p, mark in self.marked() if f"/{model}#" in mark}
        (root,) = [process for process in found.values() if process.ppid() not in found]
        return root

    def marked(self) -> Iterator[tuple[psutil.Process, str]]:
        """Every process of every engine of this fleet, with its mark."""
        for process in psutil.process_iter():
            try:
                environ = process.environ()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if "TORPOR_ENGINE" in environ and environ.get("TMPDIR", "").startswith(str(self.tmp)):
                yield process, environ["TORPOR_ENGINE"]

    def starts(self) -> int:
        """Engines that this fleet was ordered to start, by its journal."""
        book = self.directory / "state" / "journal.jsonl"
        steps = journal.read(book) if book.exists() else ()
        return sum(isinstance(c, StartEngine) for _, commands in steps for c in commands)

    def await_state(self, model: str, *states: str) -> None:
        """Follows the fleet's events until the model is in one of the states."""
        with self.client.stream("GET", "/fleet/events") as events:
            lines = events.iter_lines()
            while self.client.model(model).state not in states:
                next(lines)

    def await_running(self, model: str, count: int) -> None:
        """Asks until so many requests are being answered."""
        while self.client.model(model).running < count:
            assert self._process.poll() is None, "".join(self.told)

    def await_costs(self, model: str) -> None:
        """Asks until something that was measured of it is on record."""
        record = self.directory / "state" / "costs.json"
        while not record.exists() or f'"{model}"' not in record.read_text():
            assert self.client.model(model).model == model

    def await_config(self, after: float) -> ConfigView:
        """Follows the fleet's events until its file was looked at again."""
        with self.client.stream("GET", "/fleet/events") as events:
            lines = events.iter_lines()
            while (config := self.client.fleet().config) is None or config.at <= after:
                next(lines)
        return config

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.told.append(line)
                if "torpor is ready" in line or '"event": "ready"' in line:
                    self._ready.set()
        self._ready.set()
