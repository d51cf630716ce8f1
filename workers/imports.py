"""Importing vLLM, by far the longest phase of a start, apart from starting an engine.

A process that has ``workers.env.engine_env`` in its environment and has gone through this starts
an engine 16 s sooner; it holds about 500 MiB meanwhile.
"""

from __future__ import annotations

import gc
from importlib import import_module

_FIRST = (
    # The order matters: vLLM's stand-in for Triton breaks when others come before it.
    "vllm.entrypoints.launchers.api_server.entry",
    "workers.launch",
    "workers.arguments",
)
_BY_DEVICE = {"cpu": ("workers.sleep.cpu",), "cuda": ()}
_OF_THE_APP = (
    # vLLM imports these when it builds its app; here they are no part of a model's memory.
    "vllm.entrypoints.anthropic.api_router",
    "vllm.entrypoints.cohere.api_router",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.generate.structured_decisions.api_router",
    "vllm.entrypoints.openai.chat_completion.api_router",
    "vllm.entrypoints.openai.completion.api_router",
    "vllm.entrypoints.openai.models.api_router",
    "vllm.entrypoints.openai.responses.api_router",
    "vllm.entrypoints.pooling.factories",
    "vllm.entrypoints.scale_out.factories",
    "vllm.entrypoints.serve.instrumentator.metrics",
    "vllm.entrypoints.serve.tokenize.api_router",
)


def import_vllm(device: str) -> None:
    """All that a start needs, with the garbage collector off: everything imported stays."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        for module in (*_FIRST, *_BY_DEVICE[device], *_OF_THE_APP):
            import_module(module)
    finally:
        gc.freeze()
        if was_collecting:
            gc.enable()
