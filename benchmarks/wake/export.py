"""A wake result as a cost table: medians, a wake with its canary."""

from __future__ import annotations

from typing import Any

from benchmarks.costs import CostTable, MeasuredFootprint, ModelCosts
from benchmarks.result import Result
from benchmarks.running import BenchError
from benchmarks.statistics import statistic
from benchmarks.wake.options import LEVELS

_WEIGHTS = ("weights", "packed")


def cost_table(result: Result) -> CostTable:
    """Of every model whose cold start was measured. Raises BenchError if there is none."""
    models = [measure.labels["model"] for measure in result.find("start")]
    if not models:
        raise BenchError("--export-costs: no cold start was measured")
    machine = result.machine
    parts = [f"{machine.cores} cores {machine.processor}", *machine.gpus]
    return CostTable(
        source=f"{result.command} ({result.began:%Y-%m-%d})",
        machine=", ".join([*parts, f"{machine.memory_bytes / (1 << 30):.0f} GiB"]),
        models={model: _costs(result, model) for model in models},
    )


def _costs(result: Result, model: str) -> ModelCosts:
    found: dict[str, Any] = {
        f"wake_{level}_s": _median(result, "wake", model=model, level=level) for level in LEVELS
    }
    sleeps: dict[Any, float | None] = {level: _sleep_s(result, model, level) for level in LEVELS}
    return ModelCosts(
        weights_bytes=_weights_bytes(result, model),
        kv_bytes=_kv_bytes(result, model),
        start_s=_median(result, "start", model=model) or 0.0,
        stop_s=_median(result, "stop", model=model),
        sleep_s={level: seconds for level, seconds in sleeps.items() if seconds is not None},
        footprints=_footprints(result, model),
        tokens_per_s=_median(result, "decode", model=model),
        prefill_tokens_per_s=_median(result, "prefill", model=model),
        **found,
    )


def _sleep_s(result: Result, model: str, level: str) -> float | None:
    """A later sleep: an engine that serves for long sleeps once for the first time."""
    labels = {"model": model, "level": level}
    later = _median(result, "sleep", **labels, time="later")
    return later if later is not None else _median(result, "sleep", **labels, time="first")


def _footprints(result: Result, model: str) -> dict[Any, MeasuredFootprint]:
    found = {}
    for at in ("awake", *LEVELS):
        device = _median(result, "held", model=model, at=at, memory="device")
        host = _median(result, "held", model=model, at=at, memory="host")
        if device is not None:
            found[at] = MeasuredFootprint(device_bytes=int(device), host_bytes=int(host or 0))
    return found


def _weights_bytes(result: Result, model: str) -> int:
    by_kind = [_freed(result, model, "level_2", kind) for kind in _WEIGHTS]
    if any(size is not None for size in by_kind):
        return int(sum(size or 0 for size in by_kind))
    return _difference(result, model, "kv_released", "level_2")


def _kv_bytes(result: Result, model: str) -> int:
    for level in reversed(LEVELS):
        if (size := _freed(result, model, level, "kv")) is not None:
            return int(size)
    return _difference(result, model, "awake", "kv_released")


def _freed(result: Result, model: str, level: str, kind: str) -> float | None:
    return _median(result, "freed_by_kind", model=model, level=level, kind=kind)


def _difference(result: Result, model: str, above: str, below: str) -> int:
    held = [
        _median(result, "held", model=model, at=at, memory="device") or 0 for at in (above, below)
    ]
    return max(0, int(held[0] - held[1]))


def _median(result: Result, name: str, **labels: str) -> float | None:
    found = result.find(name, **labels)
    return round(statistic(found[0].values, "median"), 4) if found else None
