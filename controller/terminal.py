"""What people see: the two consoles, JSON, tables of the fleet's views."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum
from math import isinf
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from controller.ports import ConfigView, FleetView, ModelView, NodeView, OperationView

_PIPED_COLUMNS = 200
out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
err = Console(stderr=True, highlight=False)

_COLOURS = {
    "awake": "green",
    "waking": "yellow",
    "starting": "yellow",
    "draining": "yellow",
    "hibernating": "yellow",
    "falling_asleep": "yellow",
    "frozen": "cyan",
    "failed": "red",
    "stopped": "dim",
}


def complain(message: str) -> None:
    err.print(Text.assemble(("torpor: ", "bold red"), message), soft_wrap=True)


def say(message: str) -> None:
    out.print(Text(message), soft_wrap=True)


def print_json(value: Any) -> None:
    out.print_json(data=_plain(value))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, float) and isinf(value):
        return None
    return str(value) if isinstance(value, Path) else value


def size(count: float | None) -> str:
    if count is None:
        return "?"
    for limit, unit in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count / 1024:.0f} KiB" if count else "0"


def seconds(count: float | None) -> str:
    if count is None or isinf(count):
        return "-"
    if count < 60:
        return f"{count:.1f} s" if count < 10 else f"{count:.0f} s"
    minutes = int(count) // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


def columns(*titles: str, **options: Any) -> Table:
    """A plain table; titles that begin with ``>`` are right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="bold", **options)
    for title in titles:
        justify: Any = "right" if title.startswith(">") else "left"
        table.add_column(title.removeprefix(">"), justify=justify, no_wrap=True)
    return table


def fleet_table(fleet: FleetView) -> RenderableType:
    table = columns("MODEL", "STATE", ">RUN", ">WAIT", ">MEMORY", ">HOST", ">WAKES IN", ">IDLE")
    for model in fleet.models:
        table.add_row(*_model_row(model))
    notes = _config_lines(fleet.config) if fleet.config else ()
    return Group(table, Text(), *(_node_line(node) for node in fleet.nodes), *notes)


def _config_lines(config: ConfigView) -> Iterable[Text]:
    """Only what somebody ought to do something about."""
    for problem in config.problems:
        yield Text(f"{config.source} is refused, the one before is kept: {problem}", "red")
    for key in config.needs_restart:
        yield Text(f"{config.source}: {key} needs a restart of the controller", "yellow")


def _model_row(model: ModelView) -> Iterable[RenderableType]:
    state = Text(model.state, _COLOURS.get(model.state, "blue"))
    if model.pinned:
        state.append(" pinned", "magenta")
    yield Text(model.model)
    yield state
    yield str(model.running)
    yield str(model.waiting)
    yield size(sum(r.device_bytes * max(1, len(r.devices)) for r in model.replicas))
    yield size(sum(r.host_bytes for r in model.replicas))
    yield "-" if model.state == "awake" else seconds(model.wake_estimate_s)
    yield seconds(model.idle_s)


def _node_line(node: NodeView) -> Text:
    used = ", ".join(f"{d} {size(held)} of {size(budget)}" for d, held, budget in node.devices)
    line = Text(f"{node.node}: {used}")
    if any(device != "cpu" for device, _, _ in node.devices):
        line.append(f", host {size(node.host_booked_bytes)} of {size(node.host_bytes)}")
    for resource, taken in node.taken:
        line.append(f" (others hold {size(taken)} of {resource})", "yellow")
    if node.kv_tier is not None and node.kv_tier[1] < node.kv_tier[2]:
        line.append(f" (KV tier {size(node.kv_tier[1])} of {size(node.kv_tier[2])})", "yellow")
    return line


def operation_line(operation: OperationView) -> str:
    phases = ", ".join(f"{name} {s:.2f} s" for name, s in operation.phases_s.items())
    taken = f" in {operation.seconds:.2f} s" if operation.status != "running" else ""
    return (
        f"{operation.kind} {operation.model}: {operation.status}{taken}"
        + (f" ({phases})" if phases else "")
        + (f": {operation.error}" if operation.error else "")
    )


def story_table(story: Iterable[dict[str, Any]]) -> RenderableType:
    table = columns("WHEN", "REPLICA", "WHAT")
    table.columns[2].no_wrap = False
    for step in story:
        at = datetime.fromtimestamp(float(step.get("at", 0))).astimezone()
        table.add_row(f"{at:%H:%M:%S}", Text(str(step.get("replica", ""))), Text(_what(step)))
    return table


def _what(step: dict[str, Any]) -> str:
    extra = {k: v for k, v in step.items() if k not in ("at", "replica", "what")}
    details = ", ".join(f"{key} {value}" for key, value in extra.items() if value not in (None, ""))
    return f"{step.get('what', '')}{f' ({details})' if details else ''}"
