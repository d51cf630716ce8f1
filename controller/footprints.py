"""What an engine that was never measured is budgeted at, on each device and on its host.

The rule: ``weights × 1.25 + KV + graphs``, and what the processes themselves take. The quarter
covers activations and, without a GPU, the packed copies of linear layers. The constants are
round and on the safe side; the ledger replaces them by measurements after the first start.

Without a GPU everything is one memory on the one ``cpu`` device, and level 1 keeps the weights
there: it gives back KV only. Level 2 leaves the processes: one, or with tensor parallelism vLLM's
core and a rank each beside it. On CUDA a sleeping engine keeps its
context and captured graphs on each device; level 1 moves the weights to the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from controller.checkpoint import Checkpoint
from controller.core.names import Depth, Footprint

GIB = 1 << 30
WEIGHTS_FACTOR = 1.25
CPU_PROCESS_BYTES = GIB
"""Measured: 754 MiB of anonymous memory before any weights (facts 1), and shared libraries."""
CUDA_CONTEXT_BYTES = GIB
CUDA_GRAPHS_BYTES = GIB
CUDA_PROCESS_HOST_BYTES = 2 * GIB
FAKE_PROCESS_BYTES = 64 << 20
DEFAULT_KV_BYTES = {"cpu": GIB // 4, "cuda": 4 * GIB}


@dataclass(frozen=True, slots=True)
class Demand:
    """What determines an engine's memory."""

    weights_bytes: int
    """Of all its devices together."""
    kv_bytes: int
    """Of each device."""
    ranks: int
    """Tensor-parallel size: so many devices, or without a GPU processes on the one."""
    is_eager: bool = False
    """No graphs are captured."""
    is_fake: bool = False


def estimate(demand: Demand, device: str) -> dict[Depth, Footprint]:
    """For AWAKE … LEVEL_2; ``device`` is ``cpu`` or ``cuda``."""
    if demand.is_fake:
        return _one_memory(demand, FAKE_PROCESS_BYTES)
    if device == "cpu":
        beside = demand.ranks + 1 if demand.ranks > 1 else 0
        return _one_memory(demand, CPU_PROCESS_BYTES * (1 + beside))
    return _on_cuda(demand)


def _one_memory(demand: Demand, process_bytes: int) -> dict[Depth, Footprint]:
    weights = ceil(demand.weights_bytes * WEIGHTS_FACTOR)
    return {
        Depth.AWAKE: Footprint(weights + demand.kv_bytes + process_bytes),
        Depth.KV_RELEASED: Footprint(weights + process_bytes),
        Depth.LEVEL_1: Footprint(weights + process_bytes),
        Depth.LEVEL_2: Footprint(process_bytes),
    }


def _on_cuda(demand: Demand) -> dict[Depth, Footprint]:
    weights = ceil(demand.weights_bytes / demand.ranks * WEIGHTS_FACTOR)
    residual = CUDA_CONTEXT_BYTES + (0 if demand.is_eager else CUDA_GRAPHS_BYTES)
    host = CUDA_PROCESS_HOST_BYTES * demand.ranks
    return {
        Depth.AWAKE: Footprint(weights + demand.kv_bytes + residual, host),
        Depth.KV_RELEASED: Footprint(weights + residual, host),
        Depth.LEVEL_1: Footprint(residual, host + demand.weights_bytes),
        Depth.LEVEL_2: Footprint(residual, host),
    }


def devices_of(ranks: int, device: str) -> int:
    """Devices of a node that an engine takes."""
    return ranks if device == "cuda" else 1


def weighing(demand: Demand, awake_bytes: int, device: str) -> Demand:
    """The demand with the weights that would make it ``awake_bytes`` on each device, awake."""
    bare = estimate(replace(demand, weights_bytes=0), device)[Depth.AWAKE].device_bytes
    weights = max(0, awake_bytes - bare) / WEIGHTS_FACTOR
    return replace(demand, weights_bytes=int(weights) * devices_of(demand.ranks, device))


def booked_weights(footprints: Mapping[Depth, Footprint], device: str) -> int:
    """The weights that estimate was given: what level 1 keeps and level 2 does not."""
    level_1, level_2 = footprints[Depth.LEVEL_1], footprints[Depth.LEVEL_2]
    if device == "cuda":
        return level_1.host_bytes - level_2.host_bytes
    return int((level_1.device_bytes - level_2.device_bytes) / WEIGHTS_FACTOR)


def kv_tokens(checkpoint: Checkpoint, kv_bytes: int, ranks: int) -> int:
    """Tokens whose KV fits into ``kv_bytes`` of each rank; a head is never split, so several may
    hold copies."""
    if not checkpoint.kv_token_bytes:
        return 0
    heads = ceil(checkpoint.kv_heads / ranks)
    return kv_bytes * checkpoint.kv_heads // (checkpoint.kv_token_bytes * heads)
