"""A fleet plan as people read it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from controller.footprints import GIB
from controller.plan import FleetPlan, ModelPlan
from controller.terminal import columns, size

_TITLES = ("MODEL", ">WEIGHTS", ">KV", ">TOKENS", ">AWAKE", ">LEV 1", ">LEV 2", ">HOST", "FITS")


def plan_table(plan: FleetPlan) -> RenderableType:
    table = columns(*_TITLES)
    for model in plan.models:
        table.add_row(*_row(model))
    units = "GiB; KV and from AWAKE on each device, HOST: on the node while at level 1"
    return Group(table, Text(units, "dim"), Text(), *(Text(line) for line in _lines(plan)))


def _row(model: ModelPlan) -> list[RenderableType]:
    tokens = "?" if model.kv_tokens is None else f"{model.kv_tokens:,}" if model.kv_tokens else "-"
    depths = (model.footprints[depth] for depth in ("awake", "level_1", "level_2"))
    return [
        Text(_named(model)),
        _gib(model.weights_bytes),
        _gib(model.kv_bytes),
        tokens,
        *(_gib(footprint.device_bytes) for footprint in depths),
        _gib(model.footprints["level_1"].host_bytes),
        Text("yes", "green") if model.fits_alone else Text("no", "red"),
    ]


def _named(model: ModelPlan) -> str:
    replicas = f" ×{model.replicas}" if model.replicas > 1 else ""
    return f"{model.name}{replicas}" + (f" /{model.devices} GPUs" if model.devices > 1 else "")


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}" if count else "-"


def _lines(plan: FleetPlan) -> list[str]:
    lines = [f"{node.node}: {_devices(node.devices)}" for node in plan.nodes]
    if plan.level_1_host_bytes:
        asked, there = size(plan.level_1_host_bytes), size(plan.host_bytes)
        lines.append(f"host memory if all slept at level 1: {asked} of {there}")
    else:
        lines.append(
            "without a GPU level 1 keeps the weights in the same memory, and gives back KV"
        )
    lines += [f"awake together: {', '.join(names)}" for names in plan.awake_together]
    lines += [
        f"{model.name} when idle, {rung.after_s:.0f} s: {rung.depth.name.lower()} ({rung.why})"
        for model in plan.models
        for rung in model.own_ladder
    ]
    lines += [
        f"{model.name} by the clock: {model.schedule}" for model in plan.models if model.schedule
    ]
    return lines


def _devices(devices: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{name} {size(budget)}" for name, budget in devices) or "no device"
