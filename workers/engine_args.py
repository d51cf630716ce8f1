"""vLLM's arguments by their Python names: which there are, which are ours, what we default.

The names are read out of vLLM's source without importing it, because the import takes 15 s
and ``torpor validate`` must answer at once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kv_store.attach import kv_transfer_config
from workers.engine import EngineSpec

MIB = 1024 * 1024
CPU_WORKER = "workers.sleep.cpu.SleepingCPUWorker"
CUDA_EXTENSION = "workers.sleep.cuda.SleepDeeper"
SCHEDULER = "workers.holding.scheduler"

OURS = frozenset(
    [
        "model",
        "model_tag",
        "served_model_name",
        "host",
        "port",
        "uds",
        "api_key",
        "middleware",
        "root_path",
        "headless",
        "config",
        "api_server_count",
        "grpc",
        "grpc_port",
        "worker_cls",
        "worker_extension_cls",
        "scheduler_cls",
        "enable_sleep_mode",
        "ssl_keyfile",
        "ssl_certfile",
        "ssl_ca_certs",
        "enable_ssl_refresh",
        "data_parallel_size",
        "data_parallel_rank",
        "enable_elastic_ep",
        "enable_fault_tolerance",
        "enable_scale_out",
        "tokens_only",
        "enable_log_requests",
        "enable_log_outputs",
        "kv_transfer_config",
    ]
)
"""Decided by torpor: address, key, name, sleep, and what would open another way in or log."""

_SOURCES = {
    "engine/arg_utils.py": ("EngineArgs", "AsyncEngineArgs"),
    "entrypoints/launchers/cli_args.py": ("BaseFrontendArgs", "FrontendArgs"),
}


def unknown_engine_args(args: Mapping[str, Any]) -> list[str]:
    """Names that vLLM does not have, or that torpor decides itself; empty without vLLM."""
    known = known_engine_args()
    return sorted(name for name in args if name in OURS or (known and name not in known))


@cache
def known_engine_args() -> frozenset[str]:
    vllm = find_spec("vllm")
    if vllm is None or vllm.origin is None:
        return frozenset()
    return frozenset(_declared(Path(vllm.origin).parent))


def _declared(vllm: Path) -> Iterator[str]:
    for file, classes in _SOURCES.items():
        for node in ast.parse((vllm / file).read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name in classes:
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        yield field.target.id


def effective_args(spec: EngineSpec, *, device: str) -> dict[str, Any]:
    """What vLLM is started with: our defaults, the user's over them, what is ours on top."""
    return (
        _defaults(spec, device)
        | spec.engine_args
        | {"model": spec.path, "served_model_name": [spec.model]}
        | ({"revision": spec.revision} if spec.revision else {})
        | _sleep(device)
        | _kv(spec)
    )


def _defaults(spec: EngineSpec, device: str) -> dict[str, Any]:
    args: dict[str, Any] = {
        "disable_uvicorn_access_log": True,
        "disable_fastapi_docs": True,
        "use_tqdm_on_load": False,
    }
    if device == "cpu":
        args |= {
            "distributed_executor_backend": "uni",
            "enforce_eager": True,
            "kv_cache_memory_bytes": 256 * MIB,
            # As long a context as that much KV can hold, instead of no start.
            "max_model_len": -1,
            # On a CPU a share of *host* memory, checked at start even where KV is given in bytes.
            "gpu_memory_utilization": 0.1,
        }
    if spec.ranks > 1:
        # Processes of ours. In a placement group vLLM would make them Ray actors of its own.
        args["distributed_executor_backend"] = "mp"
    return args


def _sleep(device: str) -> dict[str, Any]:
    common = {"scheduler_cls": SCHEDULER}
    if device == "cpu":
        return common | {"worker_cls": CPU_WORKER}
    return common | {"enable_sleep_mode": True, "worker_extension_cls": CUDA_EXTENSION}


def _kv(spec: EngineSpec) -> dict[str, Any]:
    """LMCache's keys end at an ``@``, so a name with one has no place in them."""
    if spec.kv is None or "@" in spec.path:
        return {}
    return {"kv_transfer_config": kv_transfer_config(spec.kv), "enable_prompt_tokens_details": True}
