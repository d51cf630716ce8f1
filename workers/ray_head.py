"""A Ray head of our own, for whoever outlives the controllers: the supervisor, or a test session.

Ray dies with the driver that started it, so no controller may start it: ``ray start`` runs under
``workers.keeper``, which kills all of Ray and of the engines when this process closes the pipe or
dies, by whatever signal. Decisions that will be asked about again:

- No dashboard, no log monitor, no usage statistics: three processes less, nothing leaves.
- Ray's memory monitor is off (``RAY_memory_monitor_refresh_ms=0``): it would kill engine actors
  when the host runs full, by rules that know nothing of models. The ledger keeps the budget.
- The object store is small: tokens never travel through Ray, and RPCs carry little.
- Ray remembers a thousand calls, not 100,000 (``RAY_task_events_max_num_task_in_gcs``): every order
  and every look at an engine is one, and with them its control store grew to hundreds of MiB.
- The keys of histories stay out of its environment, which every engine would inherit.
- Ray's ports demand a token (``RAY_AUTH_MODE=token``): who joins needs ``environment``.
- No workers in advance, and no server for Ray's remote clients: it would be one more process, on
  a fixed port. ``ray start`` leaves it out only where its requirements are not installed, so that
  is what it is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

from kv_store.history import KEYS_VARIABLE
from workers.capacity import gpu_bytes, gpu_names

_RAY = (
    "from ray.scripts import scripts\n"
    "scripts.get_ray_client_dependency_error = lambda: 'not wanted'\n"
    "scripts.main()\n"
)
_START_S = 60.0
_STOP_S = 30.0
_ADDRESS = "ray_current_cluster"
"""The file below Ray's directory into which it writes the address of the head."""


class RayHead:
    """``directory`` is created, and removed by ``stop``. Its path must be short (50 characters):
    sockets lie far below it. ``devices`` are told to Ray by name, for engines that take several;
    None: this machine's GPUs."""

    def __init__(
        self,
        directory: Path,
        *,
        object_store_mib: int = 80,
        num_cpus: int | None = None,
        devices: tuple[str, ...] | None = None,
    ) -> None:
        self._directory = directory
        self._object_store_bytes = object_store_mib << 20
        self._num_cpus = num_cpus or os.cpu_count() or 1
        self._devices = gpu_names(len(gpu_bytes())) if devices is None else devices
        self._keeper: subprocess.Popen[bytes] | None = None
        self.address = ""

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment, before it imports Ray, to join."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self._directory / "token")}

    def start(self) -> str:
        """The head's address, once it listens. Raises RuntimeError if it does not come up."""
        (self._directory / "tmp").mkdir(parents=True, mode=0o700)
        token = self._directory / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        with (self._directory / "start.log").open("wb") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "workers.keeper", str(self._directory), *self._command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._head_environment(),
                start_new_session=True,
            )
        self.address = self._await_address(self._keeper)
        return self.address

    def stop(self) -> None:
        """Returns when no process, segment or file of this Ray or its engines is left."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            assert keeper.stdin is not None
            keeper.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                keeper.wait(_STOP_S)
            keeper.kill()
            keeper.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-c", _RAY, "start", "--head", "--block"),
            *("--port=0", "--dashboard-agent-listen-port=0"),
            *("--include-dashboard=false", "--include-log-monitor=false", "--disable-usage-stats"),
            f"--object-store-memory={self._object_store_bytes}",
            f"--num-cpus={self._num_cpus}",
            f"--resources={json.dumps(dict.fromkeys(self._devices, 1))}",
            f"--temp-dir={self._directory / 'ray'}",
        ]

    def _head_environment(self) -> dict[str, str]:
        root = str(Path(__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        surroundings = {n: v for n, v in os.environ.items() if n != KEYS_VARIABLE}
        return {
            **surroundings,
            **self.environment,
            "TMPDIR": str(self._directory / "tmp"),
            "PYTHONPATH": os.pathsep.join(paths),
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_task_events_max_num_task_in_gcs": "1000",
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }

    def _await_address(self, keeper: subprocess.Popen[bytes]) -> str:
        written = self._directory / "ray" / _ADDRESS
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if written.exists() and (address := written.read_text().strip()):
                return address
            with contextlib.suppress(subprocess.TimeoutExpired):
                keeper.wait(0.05)
                break
        said = (self._directory / "start.log").read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"Ray did not start: {said}")
