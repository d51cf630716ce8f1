"""Results as pictures (matplotlib): a measure's distribution by label, residency over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.result import Labels, Measure, Result, Span
from benchmarks.statistics import summary
from benchmarks.tables import by_name, told

mpl.use("agg")

_STATES = {
    "awake": "#2a9d57",
    "starting": "#f2a541",
    "waking": "#f6d365",
    "falling_asleep": "#9fb8d8",
    "draining": "#9fb8d8",
    "kv_released": "#8fd3b6",
    "level_1": "#5b8def",
    "level_2": "#b4a2d8",
    "stopping": "#888888",
    "stopped": "#e6e6e6",
    "failed": "#d64545",
}
_OTHER = "#555555"
_WIDTH_IN = 9.0
_WIDE = 300.0


def draw_all(result: Result) -> dict[str, Figure]:
    """Each picture by the name of its file: one a measure of several values, one a timeline."""
    pictures = {
        name: distribution(name, group)
        for name, group in by_name(result.measures).items()
        if any(len(measure.values) > 1 for measure in group) or len(group) > 1
    }
    timelines = {f"residency {name}": spans for name, spans in result.timelines.items()}
    return pictures | {name: timeline(name, spans) for name, spans in timelines.items()}


def save_all(result: Result, directory: Path) -> list[Path]:
    """As PNG files; the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in draw_all(result).items():
        path = directory / f"{name.replace(' ', '_').replace('/', '_')}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight")
        paths.append(path)
    return paths


def distribution(name: str, measures: Sequence[Measure]) -> Figure:
    """A bar to the median of each measure, a line to its 95th percentile, a dot at its 99th. A
    logarithmic axis has no zero for bars to begin at: there a square stands at the median."""
    figure = Figure(figsize=(_WIDTH_IN, 0.8 + 0.34 * len(measures)))
    axes = figure.add_subplot()
    rows = range(len(measures))
    unit, size = _axis(measures)
    shared = _shared(measures)
    said = [summary([value / size for value in measure.values]) for measure in measures]
    medians, mark = [s.median for s in said], "bar"
    if _is_wide(medians):
        axes.set_xscale("log")
        unit, mark = f"{unit}, logarithmic", "square"
        axes.plot(medians, rows, "s", color="#5b8def", markersize=9)
    else:
        axes.barh(rows, medians, color="#5b8def", height=0.6)
    for row, s in zip(rows, said, strict=True):
        if s.count > 1:
            axes.plot([s.low, s.p95], [row, row], color="#1d3557", linewidth=1.2)
            axes.plot([s.p99], [row], "o", color="#d64545", markersize=4)
    if mark == "bar":  # last, since an axis with a limit set no longer widens for what is drawn
        axes.set_xlim(left=min(0.0, *(s.low for s in said)))
    axes.set_yticks(rows, [_own(measure, shared) or name for measure in measures], fontsize=8)
    axes.set_ylim(len(measures) - 0.4, -0.6)
    axes.set_xlabel(f"{unit} ({mark}: median; line: least to p95; dot: p99)", fontsize=8)
    axes.set_title(f"{name.replace('_', ' ')}  {told(shared)}".rstrip(), fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _axis(measures: Sequence[Measure]) -> tuple[str, float]:
    """The unit that the axis has, and how many of the measures' own it is."""
    unit = measures[0].unit
    if unit != "bytes":
        return unit, 1.0
    largest = max(abs(value) for measure in measures for value in measure.values)
    return ("GiB", float(1 << 30)) if largest >= 1 << 30 else ("MiB", float(1 << 20))


def _shared(measures: Sequence[Measure]) -> Labels:
    """The labels that all have alike; of a single measure none."""
    first, *others = (measure.labels for measure in measures)
    return {k: v for k, v in first.items() if others and all(o.get(k) == v for o in others)}


def _own(measure: Measure, shared: Labels) -> str:
    return told({k: v for k, v in measure.labels.items() if k not in shared})


def _is_wide(medians: Sequence[float]) -> bool:
    """Too far apart for one linear axis (which parts of a whole rarely are)."""
    return min(medians) > 0 and max(medians) / min(medians) > _WIDE


def timeline(name: str, spans: Sequence[Span]) -> Figure:
    """A lane a replica, coloured by its state."""
    lanes = sorted({span.lane for span in spans})
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + 0.26 * len(lanes)))
    axes = figure.add_subplot()
    for span in spans:
        axes.broken_barh(
            [(span.begins_s, span.ends_s - span.begins_s)],
            (lanes.index(span.lane) - 0.4, 0.8),
            color=_STATES.get(span.state, _OTHER),
        )
    axes.set_yticks(range(len(lanes)), lanes, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds", fontsize=8)
    axes.set_title(name, fontsize=10, loc="left")
    seen = {span.state for span in spans}
    states = [state for state in _STATES if state in seen] + sorted(seen - _STATES.keys())
    legend = [Patch(color=_STATES.get(state, _OTHER), label=state) for state in states]
    axes.legend(handles=legend, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7)
    return figure
