"""What an engine's process must be told before vLLM is imported. Imports nothing heavy.

The settings aim at the fewest processes and the quickest start, and each stands beside its
reason. Whoever hosts a ``VllmEngine`` puts ``engine_env(spec)`` into the process environment
first of all: vLLM, torch and OpenMP read most of these once, at import.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from workers.engine import EngineSpec

_ALWAYS = {
    # Usage statistics would leave the machine.
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "LMCACHE_TRACK_USAGE": "false",
    # Administrative routes (sleep, collective_rpc, reset) are not to exist.
    "VLLM_SERVER_DEV_MODE": "0",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "0",
    # Warnings come a hundred at a time, again at each reload; what is fatal is raised.
    "VLLM_LOGGING_LEVEL": "ERROR",
    "LMCACHE_LOG_LEVEL": "ERROR",
    "LMCACHE_DISABLE_BANNER": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_CPU = {
    # "uni" stays "uni" only like this; otherwise the CPU platform makes it "mp": a process more.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Several engines on one host would all bind to the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # An eager engine compiles nothing but one line of the sampler, at the first request for
    # log-probabilities, and that takes up to 25 s.
    "TORCHDYNAMO_DISABLE": "1",
    # Nothing to be found there, and looking costs time.
    "CUDA_VISIBLE_DEVICES": "",
}

_WITHOUT_COMPILER = "TORCHDYNAMO_DISABLE"


def engine_env(spec: EngineSpec, *, device: str = "cpu") -> dict[str, str]:
    """The environment for the process of one engine; ``device`` is ``cpu`` or ``cuda``.

    Ray sets ``OMP_NUM_THREADS=1`` for actors without CPUs of their own, so it is always given.
    ``spec.env`` goes over everything but the settings that keep routes and data closed.
    """
    env = dict(_ALWAYS)
    if device == "cpu":
        threads = max(1, len(os.sched_getaffinity(0)) // spec.ranks)
        env |= _CPU | {"OMP_NUM_THREADS": str(threads)}
        if not is_eager(spec):
            del env[_WITHOUT_COMPILER]
    if Path(spec.path).is_dir():
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    closed = {name: env[name] for name in ("VLLM_SERVER_DEV_MODE", "VLLM_NO_USAGE_STATS")}
    return env | spec.env | closed


def is_eager(spec: EngineSpec) -> bool:
    """On a CPU an engine is eager unless it is asked to compile.

    Compiling makes a start two to five times as long; and with vllm-cpu 0.32 on an AMD EPYC
    SmolLM2, compiled, answers fluent nonsense, in stock ``vllm serve`` just as here.
    """
    return bool(spec.engine_args.get("enforce_eager", True))


def device_kind() -> str:
    """``cpu`` or ``cuda``, by which build of vLLM is installed."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return "cuda"
    return "cpu"
