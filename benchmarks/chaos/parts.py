"""The processes of a fleet by what they are: everything below its supervisor.

Found anew each time, by arguments and marks, since they come and go.
"""

from __future__ import annotations

from enum import Enum

import psutil

from workers.processes import MARK

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)
_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


class Part(Enum):
    ENGINE = "engine"
    """The process of an engine's actor."""
    CORE = "core"
    """A process below an engine: vLLM's EngineCore or one of its workers."""
    CONTROLLER = "controller"
    CARRIER = "carrier"
    KV = "kv"
    """LMCache's server."""
    STORE = "store"
    """Redis or Valkey, the fleet's own or one beside it."""
    AGENT = "agent"
    """The Ray actor that watches a node."""


OF_ENGINES = (Part.ENGINE, Part.CORE)
_NAMED = {
    Part.CONTROLLER: "controller.process",
    Part.CARRIER: "controller.carrier",
    Part.KV: "kv_store.server_main",
    Part.STORE: "valkey-server",
    Part.AGENT: "ray::NodeAgent",
}


def everything(supervisor: psutil.Process) -> list[psutil.Process]:
    try:
        return supervisor.children(recursive=True)
    except _GONE:
        return []


def parts(supervisor: psutil.Process, part: Part, model: str = "") -> list[psutil.Process]:
    """Of the engines of ``model`` where one is named."""
    processes = everything(supervisor)
    if part in _NAMED:
        return [process for process in processes if _NAMED[part] in _arguments(process)]
    bears = f"/{model}#" if model else "/"
    marked = {process.pid: process for process in processes if bears in _mark(process)}
    return [
        process
        for process in marked.values()
        if (_parent(process) not in marked) == (part is Part.ENGINE) and not _is_helper(process)
    ]


def _mark(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK, "")
    except (*_GONE, OSError):
        return ""


def _arguments(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except _GONE:
        return ""


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except _GONE:
        return 0


def _is_helper(process: psutil.Process) -> bool:
    said = _arguments(process)
    return any(name in said for name in _HELPERS)
