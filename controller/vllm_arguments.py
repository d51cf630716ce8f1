"""Which of a model's ``engine_args`` are refused, and why.

The names that vLLM has are read from its source without importing it (``workers.engine_args``).
Where vLLM is not installed only torpor's own reasons are known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from controller.config_errors import did_you_mean
from workers.engine_args import OURS, known_engine_args

_ELSEWHERE = {
    "model": "path",
    "served_model_name": "name",
    "revision": "revision",
    "tensor_parallel_size": "tensor_parallel",
    "kv_cache_memory_bytes": "kv_cache_gib",
}
_ONE_NODE = ("pipeline_parallel_size", "nnodes", "node_rank", "master_addr", "master_port")
_SOCKET = ("ssl_", "allow_credentials", "allowed_", "h11_", "uvicorn_", "dp_supervisor_")
"""Of a server that only the controller reaches, on loopback."""
_NOT_THOSE = ("allowed_local_media_path", "allowed_media_domains")


def refusals(engine_args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(argument, reason) for each that torpor sets, cannot honour, or vLLM does not know."""
    known = known_engine_args()
    for name, value in engine_args.items():
        reason = _reason(name, known)
        if name == "distributed_executor_backend" and value == "ray":
            reason = "an engine's processes are not actors of Ray; leave it out, or mp"
        if reason:
            yield name, reason


def _reason(name: str, known: Collection[str]) -> str | None:
    if name in _ELSEWHERE:
        return f"not here: use {_ELSEWHERE[name]}"
    if name in _ONE_NODE or name.startswith("data_parallel_"):
        return "an engine lives on one node; use replicas for more"
    if name in OURS or (name.startswith(_SOCKET) and name not in _NOT_THOSE):
        return "not here: torpor decides it"
    if known and (name not in known or name.startswith("_")):
        return f"vLLM has no such argument{_hint(name, known)}"
    return None


def _hint(name: str, known: Collection[str]) -> str:
    python_name = name.lstrip("-").replace("-", "_")
    if python_name in known:
        return f" (write {python_name})"
    return did_you_mean(python_name, sorted(known))
