"""What orders take and what engines hold, measured on some machine: the table that
``torpor bench wake --export-costs`` writes and ``torpor simulate`` reads (YAML).

``source`` says where the figures come from. Of what was not measured the field is left out; a
reader decides what stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.result import ResultError

DepthName = Literal["awake", "kv_released", "level_1", "level_2"]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Bytes = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MeasuredFootprint(_Frozen):
    """Of one engine, on each of its devices and on its host; ``Footprint`` as a file has it."""

    device_bytes: _Bytes
    host_bytes: _Bytes = 0


class ModelCosts(_Frozen):
    """Medians, in seconds; a wake includes its canary, a start its warm-up."""

    weights_bytes: _Bytes
    kv_bytes: _Bytes
    start_s: _Seconds
    stop_s: _Seconds | None = None
    sleep_s: dict[Literal["kv_released", "level_1", "level_2"], _Seconds] = {}
    """By where to."""
    wake_kv_released_s: _Seconds | None = None
    wake_level_1_s: _Seconds | None = None
    wake_level_2_s: _Seconds | None = None
    footprints: dict[DepthName, MeasuredFootprint] = {}
    tokens_per_s: _Speed | None = None
    """One stream's decoding."""
    prefill_tokens_per_s: _Speed | None = None


class CostTable(_Frozen):
    source: str
    """A publication, or the command that measured."""
    machine: str
    models: Mapping[str, ModelCosts]
    device_bytes: _Bytes | None = None
    """Memory of one device of that machine."""

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        written = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
        path.write_text(written, encoding="utf-8")


def read(path: Path) -> CostTable:
    """Raises ResultError."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ResultError(f"{path}: {' '.join(str(error).split())}") from error
    try:
        return CostTable.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ResultError(f"{path}: {f'{place}: ' if place else ''}{first['msg']}") from error
