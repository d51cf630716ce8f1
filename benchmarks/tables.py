"""Results as tables in a terminal (rich)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from benchmarks.compare import Compared
from benchmarks.result import Labels, Measure, Result
from benchmarks.statistics import summary
from controller.terminal import columns

_BYTES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_VERDICTS = {"better": "green", "worse": "red"}


def result_table(result: Result) -> RenderableType:
    table = columns("MEASURE", "OF", ">MEDIAN", ">P95", ">P99", ">MIN", ">MAX", ">N")
    for measure in result.measures:
        said = summary(measure.values)
        if said.count == 1:
            figures = [quantity(said.median, measure.unit), *[""] * 4, "1"]
        else:
            shown = (said.median, said.p95, said.p99, said.low, said.high)
            figures = [*(quantity(value, measure.unit) for value in shown), str(said.count)]
        table.add_row(Text(measure.name), Text(told(measure.labels)), *figures)
    return Group(Text(heading(result), "bold"), table, *(Text(n, "dim") for n in result.notes))


def compared_table(rows: Iterable[Compared], differences: Iterable[str]) -> RenderableType:
    table = columns("MEASURE", "OF", ">FIRST", ">SECOND", ">RATIO", ">95 %", "")
    for row in rows:
        measure, spread = row.measure, f"{row.ratio.low:.3g}–{row.ratio.high:.3g}"
        table.add_row(
            Text(measure.name),
            Text(told(measure.labels)),
            quantity(row.before, measure.unit),
            quantity(row.after, measure.unit),
            f"{row.ratio.value:.3g}",
            spread if row.ratio.low != row.ratio.high else "",
            Text(row.verdict, _VERDICTS.get(row.verdict, "")),
        )
    return Group(*(Text(sentence, "yellow") for sentence in differences), table)


def heading(result: Result) -> str:
    machine = result.machine
    parts = [
        f"torpor bench {result.kind}" if result.kind != "simulate" else "torpor simulate",
        f"{result.began:%Y-%m-%d %H:%M} UTC",
        f"{machine.cores} cores {machine.processor}",
        f"{machine.memory_bytes / (1 << 30):.0f} GiB",
        ", ".join(machine.gpus) or "no GPU",
    ]
    return " · ".join(parts) + ("" if result.is_complete else " · INTERRUPTED")


def told(labels: Labels) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items())


def quantity(value: float, unit: str) -> str:
    """Three significant digits, or all of a whole number, with the unit."""
    if not math.isfinite(value):
        return "-"
    if unit == "bytes":
        return _bytes(value)
    if unit == "s" and abs(value) < 1:
        value, unit = value * 1e3, "ms"
    if unit == "count":
        return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return digits if unit == "ratio" else f"{digits} {unit}"


def _bytes(value: float) -> str:
    for limit, unit in _BYTES:
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f} B"


def by_name(measures: Iterable[Measure]) -> dict[str, list[Measure]]:
    grouped: dict[str, list[Measure]] = {}
    for measure in measures:
        grouped.setdefault(measure.name, []).append(measure)
    return grouped
