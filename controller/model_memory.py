"""The memory of one configured model: its checkpoint, its KV, its footprints, does it fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from controller.checkpoint import Checkpoint, UnreadableCheckpoint, read_checkpoint
from controller.config_errors import ConfigError, Problem
from controller.config_schema import FootprintSection, ModelEntry
from controller.core.names import Depth, Footprint
from controller.footprints import (
    DEFAULT_KV_BYTES,
    GIB,
    Demand,
    estimate,
    kv_tokens,
    weighing,
)
from controller.hub import HubAccess, read_hub
from controller.memory_budget import MemoryBudget
from workers.engine import EngineSpec

_BLOCK_TOKENS = 128
"""vLLM's KV block without a GPU, and a multiple of those on one."""


def kv_bytes_of(entry: ModelEntry, device: str) -> int:
    """On each device. A fake engine keeps none unless it is told to."""
    if entry.kv_cache_gib is not None:
        return int(entry.kv_cache_gib * GIB)
    return 0 if entry.kind == "fake" else DEFAULT_KV_BYTES[device]


def checkpoint_where_needed(
    entry: ModelEntry, engine: EngineSpec, hub: HubAccess
) -> Checkpoint | None:
    """None for fake engines and where the file itself says what the model weighs; a directory
    that is here is read all the same. Raises ConfigError."""
    is_told = entry.footprint.weights_gib is not None or entry.footprint.awake_gib is not None
    directory = Path(engine.path)
    if entry.kind == "fake" or (is_told and not directory.is_dir()):
        return None
    try:
        if directory.is_dir():
            return read_checkpoint(directory, engine.engine_args)
        return read_hub(engine.path, engine.revision, engine.engine_args, hub)
    except UnreadableCheckpoint as error:
        raise ConfigError([Problem("path", str(error))]) from error


def must_divide(ranks: int, checkpoint: Checkpoint) -> None:
    """Raises ConfigError: vLLM gives each rank as many attention heads as every other."""
    if checkpoint.heads % ranks:
        reason = f"the model's {checkpoint.heads} attention heads cannot be shared by {ranks}"
        raise ConfigError([Problem("tensor_parallel", reason)])


def within_kv(engine: EngineSpec, checkpoint: Checkpoint, kv_bytes: int) -> EngineSpec:
    """``kv_bytes``: of each rank.

    vLLM refuses to start where one longest request does not fit into KV. A length that was not
    written is lowered to what fits; one that was is the writer's to lower: ConfigError.
    """
    tokens = kv_tokens(checkpoint, kv_bytes, engine.ranks)
    if not checkpoint.kv_token_bytes or (checkpoint.max_model_len or 0) <= tokens:
        return engine
    if "max_model_len" in engine.engine_args:
        reason = f"must be ≤ {tokens:,}, which is all that kv_cache_gib holds"
        raise ConfigError([Problem("engine_args.max_model_len", reason)])
    length = (tokens // _BLOCK_TOKENS - 1) * _BLOCK_TOKENS
    if length < _BLOCK_TOKENS:
        raise ConfigError([Problem("kv_cache_gib", f"holds {tokens} tokens: too few to serve")])
    return replace(engine, engine_args={**engine.engine_args, "max_model_len": length})


def footprints_of(
    entry: ModelEntry, checkpoint: Checkpoint | None, kv_bytes: int, device: str
) -> dict[Depth, Footprint]:
    demand = _demand(entry, checkpoint, kv_bytes, device)
    estimates = estimate(demand, device)
    return {depth: _known_better(entry.footprint, depth, f) for depth, f in estimates.items()}


def _demand(entry: ModelEntry, checkpoint: Checkpoint | None, kv_bytes: int, device: str) -> Demand:
    known = entry.footprint
    demand = Demand(
        weights_bytes=checkpoint.weights_bytes if checkpoint else 0,
        kv_bytes=0 if checkpoint and not checkpoint.kv_token_bytes else kv_bytes,
        ranks=entry.tensor_parallel,
        is_eager=bool(entry.engine_args.get("enforce_eager")),
        is_fake=entry.kind == "fake",
    )
    if known.weights_gib is not None:
        return replace(demand, weights_bytes=int(known.weights_gib * GIB))
    if known.awake_gib is not None:
        return weighing(demand, int(known.awake_gib * GIB), device)
    return demand


def _known_better(known: FootprintSection, depth: Depth, guess: Footprint) -> Footprint:
    written = known.model_dump()
    name = depth.name.lower()
    device, host = written[f"{name}_gib"], written.get(f"host_{name}_gib")
    return Footprint(
        guess.device_bytes if device is None else int(device * GIB),
        guess.host_bytes if host is None else int(host * GIB),
    )


def must_fit(footprints: Mapping[Depth, Footprint], memory: MemoryBudget) -> None:
    """Raises ConfigError for what no device can ever hold awake."""
    budget, needed = memory.largest_device_bytes(), footprints[Depth.AWAKE].device_bytes
    if budget is not None and needed > budget:
        sizes = f"needs {needed / GIB:.1f} GiB, budget {budget / GIB:.1f} GiB"
        raise ConfigError([Problem("", f"can never be awake: {sizes}")])
