"""``--gate FILE``: limits that a result has to keep.

The file is a list under ``limits``::

    limits:
      - measure: added_latency
        labels: {connections: "1"}
        statistic: p99
        max: 0.35
      - measure: wake
        labels: {level: "level_1"}
        over: {measure: cold_start}      # a ratio within the same result
        max: 0.1

A limit whose measure the result does not have is not kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.result import Labels, Result, ResultError
from benchmarks.statistics import statistic

Statistic = Literal["median", "mean", "p95", "p99", "min", "max"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Strict):
    measure: str
    labels: Labels = {}
    statistic: Statistic = "median"

    def of(self, result: Result) -> list[tuple[str, float]]:
        """Each measure that fits, with its figure."""
        return [
            (_name(measure.name, measure.labels), statistic(measure.values, self.statistic))
            for measure in result.find(self.measure, **self.labels)
        ]


class Limit(Figure):
    over: Figure | None = None
    """The figure is divided by this one of the same result."""
    max: float | None = None
    min: float | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Limit:
        if self.max is None and self.min is None:
            raise ValueError("a limit needs max or min")
        return self


class Gate(_Strict):
    limits: tuple[Limit, ...] = Field(min_length=1)


def read_gate(path: Path) -> Gate:
    """Raises ResultError."""
    try:
        return Gate.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ResultError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ResultError(f"{path}: {place}: {first['msg']}") from error


def breaches(gate: Gate, result: Result) -> list[str]:
    """A sentence for each limit that is not kept."""
    found = [sentence for limit in gate.limits for sentence in _breaches(limit, result)]
    return found if result.is_complete else [*found, "the run was interrupted"]


def _breaches(limit: Limit, result: Result) -> list[str]:
    figures = limit.of(result)
    if not figures:
        return [f"{_name(limit.measure, limit.labels)}: not measured"]
    divisor = 1.0
    if limit.over is not None:
        bases = limit.over.of(result)
        if len(bases) != 1:
            name = _name(limit.over.measure, limit.over.labels)
            return [f"{name}: one measure is needed to divide by, there are {len(bases)}"]
        divisor = bases[0][1]
    return [
        f"{name}: {limit.statistic} {figure / divisor:.4g} is {told}"
        for name, figure in figures
        if (told := _broken(limit, figure / divisor if divisor else float("inf")))
    ]


def _broken(limit: Limit, figure: float) -> str:
    if limit.max is not None and not figure <= limit.max:
        return f"above {limit.max:g}"
    if limit.min is not None and not figure >= limit.min:
        return f"below {limit.min:g}"
    return ""


def _name(measure: str, labels: Labels) -> str:
    told = ", ".join(f"{key}={value}" for key, value in labels.items())
    return f"{measure}({told})" if told else measure
