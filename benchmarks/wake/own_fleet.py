"""A fleet of the benchmark's own: ``torpor serve`` in another process, below a temporary directory.

Nothing in it acts by itself: no prefetching, no idle ladder, no pins. One replica of each model, no
keys, a free port of the loopback.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import yaml

from benchmarks.running import BenchError
from benchmarks.wake.fate import die_with_parent
from controller.core.names import Depth, Ladder
from controller.model_settings import ConfiguredModel
from controller.settings import Settings, load

_UP_S = 180.0
_DOWN_S = 60.0
_MIB = 1 << 20
_LISTENING = "torpor: listening on "
FAKE_FLEET: dict[str, Any] = {
    "device": "cpu",
    "memory": {"device_budget_gib": 1},
    "defaults": {
        "kind": "fake",
        "footprint": {"awake_gib": 0.2},
        "engine_args": {"device_bytes": 200 * _MIB, "kv_bytes": 80 * _MIB},
    },
    "models": [{"name": name, "path": "nowhere"} for name in ("fake-a", "fake-b")],
}
"""Two engines without a model, in real Ray actors."""


def fake_settings(**more: Any) -> Settings:
    """``more``: other sections of fleet.yaml."""
    with TemporaryDirectory() as directory:
        config = Path(directory) / "fleet.yaml"
        config.write_text(yaml.safe_dump(FAKE_FLEET | more), encoding="utf-8")
        return load(config)


def undisturbed(settings: Settings, directory: Path) -> Settings:
    """The same models and budgets, where nothing happens unasked; files below ``directory``. The
    file they came from is not read again."""
    return replace(
        settings,
        models=tuple(_unmoved(model) for model in settings.models),
        policy=replace(settings.policy, prefetch_start=False),
        server=replace(settings.server, host="127.0.0.1", port=0, keys=()),
        state_dir=directory / "state",
        log_dir=directory / "state" / "logs",
        source=None,
    )


def _unmoved(model: ConfiguredModel) -> ConfiguredModel:
    spec = replace(model.spec, replicas=1, ladder=Ladder(), deepest=Depth.STOPPED, pinned=False)
    return ConfiguredModel(spec, model.engine)


class OwnFleet:
    """``url`` answers until the context that made it ends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process = process
        self.url = ""
        self._said: deque[str] = deque(maxlen=8)
        self._is_up = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()

    def await_up(self) -> None:
        if not self._is_up.wait(_UP_S) or not self.url:
            raise BenchError(f"the fleet did not come up: {' | '.join(self._said)}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(_DOWN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(_DOWN_S)

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._said.append(line.strip())
                if line.startswith(_LISTENING):
                    self.url = line.removeprefix(_LISTENING).strip()
                    self._is_up.set()
        self._is_up.set()


@contextmanager
def own_fleet(
    settings: Settings,
    arranged: Callable[[Settings, Path], Settings] = undisturbed,
    environment: Mapping[str, str] | None = None,
) -> Iterator[OwnFleet]:
    """Up when entered, gone when left, with its directory. ``arranged``: what of the settings
    is otherwise here, and where in that directory its files lie."""
    own = {"PYTHONPATH": _python_path(), "PYTHONWARNINGS": "ignore"}
    with TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as directory:
        place = Path(directory)
        order = place / "settings.json"
        order.touch(mode=0o600)
        order.write_text(arranged(settings, place).to_json(), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.wake.serving", str(order)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,
            env={**os.environ, **own, **(environment or {})},
        )
        fleet = OwnFleet(process)
        try:
            fleet.await_up()
            yield fleet
        finally:
            fleet.stop()


def _python_path() -> str:
    """This project's, so that the child finds it from whatever directory it was called in."""
    here = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
