"""What a reader of a wake result has to know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.wake.options import Options

ALWAYS = (
    "first_token: from sending the request (vllm: from before its process) to the first token a "
    "client sees; after says where the model was; a wake and a start include the canary.",
    "cold_start_phase: process is Ray's actor process and the orders to it, load is weights, "
    "packing and KV, first_token what the client still waits once the engine is up.",
    "held and freed are the whole engine's memory as the fleet measures it; freed_by_kind and "
    "not_freed are the engine's own books of what its model took.",
    "The page cache was not dropped: each model was started once before its repeats "
    "(start_as_found), which find its weights and the packages in memory.",
)
_WITHOUT_GPU = "Without a GPU host and device are one memory: everything is held as device memory."
_STOCK = {
    "vllm": "vllm: stock vllm serve with the arguments that the fleet gives its engine",
    "vllm-defaults": "vllm-defaults: stock vllm serve with its own defaults but for memory",
}
_COMPILES = "By its own default stock vLLM compiles a model: --against vllm-defaults starts that."


def notes(options: Options, device: str | None, stock: dict[str, dict[str, Any]]) -> Iterator[str]:
    """``stock``: vLLM's arguments by side."""
    if options.cycles:
        return
    yield from ALWAYS
    if device == "cpu":
        yield _WITHOUT_GPU
    for side, arguments in stock.items():
        yield f"{_STOCK[side]}: {_written(arguments.items())}."
        if arguments.get("enforce_eager"):
            yield _COMPILES


def _written(arguments: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments)
