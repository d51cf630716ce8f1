"""One entry of ``models`` → what the core knows of it (ModelSpec) and what an engine is started
with (EngineSpec): defaults merged in, checkpoint read, memory estimated, all of it checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from controller.config_errors import ConfigError, Problem, from_pydantic
from controller.config_schema import ModelEntry, ScheduleSection
from controller.core.names import (
    Depth,
    Footprint,
    Ladder,
    Limits,
    ModelName,
    ModelSpec,
    Schedule,
)
from controller.footprints import devices_of
from controller.hours import parse_hours
from controller.hub import HubAccess
from controller.memory_budget import MemoryBudget
from controller.model_memory import (
    checkpoint_where_needed,
    footprints_of,
    kv_bytes_of,
    must_divide,
    must_fit,
    within_kv,
)
from controller.vllm_arguments import refusals
from workers.engine import EngineSpec

_NO_CHECK_OF_FREE_MEMORY = 0.01
"""vLLM's gpu_memory_utilization. The ledger places; the KV size is given to vLLM in bytes, and
its start-up check of free memory would count sleeping neighbours against a newcomer."""


class ConfiguredModel(NamedTuple):
    spec: ModelSpec
    engine: EngineSpec


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an entry is read against."""

    base: Path
    """Relative paths begin here."""
    device: str
    memory: MemoryBudget
    defaults: dict[str, Any]
    """What the file's ``defaults`` says, as it says it."""
    is_joined: bool
    """To a Ray cluster whose nodes may have directories that this one has not."""
    hub: HubAccess
    keeps_kv: bool = False
    """The fleet has a KV tier."""

    def as_in(self, running: Surroundings) -> Surroundings:
        """What a fleet that runs can have of these: defaults, and a budget to check against."""
        return replace(running, defaults=self.defaults, memory=self.memory)


def configure_models(
    entries: Sequence[ModelEntry], around: Surroundings
) -> tuple[ConfiguredModel, ...]:
    """Raises ConfigError with the problems of all entries."""
    problems = list(_name_clashes(entries))
    models = []
    for index, entry in enumerate(entries):
        try:
            models.append(_configure(entry, around))
        except ConfigError as error:
            problems += [
                Problem(f"models[{index}]{'.' if p.path else ''}{p.path}", p.reason)
                for p in error.problems
            ]
    if problems:
        raise ConfigError(problems)
    return tuple(models)


def _name_clashes(entries: Sequence[ModelEntry]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        earlier = first.setdefault(entry.name, index)
        if earlier != index:
            reason = f"{entry.name!r} is the name of models[{earlier}] already"
            yield Problem(f"models[{index}].name", reason)


def _configure(written: ModelEntry, around: Surroundings) -> ConfiguredModel:
    entry = _with_defaults(written, around.defaults)
    problems = list(_problems(entry, around))
    if problems:
        raise ConfigError(problems)
    kv_bytes = kv_bytes_of(entry, around.device)
    devices = devices_of(entry.tensor_parallel, around.device)
    rank_kv_bytes = kv_bytes * devices // entry.tensor_parallel
    engine = _engine(entry, around, rank_kv_bytes)
    checkpoint = checkpoint_where_needed(entry, engine, around.hub)
    if checkpoint:
        must_divide(entry.tensor_parallel, checkpoint)
        engine = within_kv(engine, checkpoint, rank_kv_bytes)
    footprints = footprints_of(entry, checkpoint, kv_bytes, around.device)
    must_fit(footprints, around.memory)
    return ConfiguredModel(_spec(entry, footprints, devices, engine.keeps_kv), engine)


def _with_defaults(entry: ModelEntry, defaults: Mapping[str, Any]) -> ModelEntry:
    own = entry.model_dump(exclude_unset=True)
    try:
        return ModelEntry.model_validate(_merged(defaults, own))
    except ValidationError as error:
        raise ConfigError(from_pydantic(error.errors(), ())) from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _merged(below[key], above[key])
    return merged


def _problems(entry: ModelEntry, around: Surroundings) -> Iterator[Problem]:
    if entry.kind == "fake":
        return
    for argument, reason in refusals(entry.engine_args):
        yield Problem(f"engine_args.{argument}", reason)
    path = Path(_location(entry, around.base))
    if _is_written_as_path(entry.path) and not path.is_dir() and not around.is_joined:
        yield Problem("path", f"no such directory: {path}")


def _is_written_as_path(path: str) -> bool:
    return path.startswith((".", "/", "~"))


def _location(entry: ModelEntry, base: Path) -> str:
    """An absolute directory, or a hub name as it is."""
    path = base / Path(entry.path).expanduser()
    return str(path.resolve()) if _is_written_as_path(entry.path) or path.is_dir() else entry.path


def _engine(entry: ModelEntry, around: Surroundings, rank_kv_bytes: int) -> EngineSpec:
    arguments = dict(entry.engine_args)
    if entry.kind == "vllm":
        arguments["kv_cache_memory_bytes"] = rank_kv_bytes
        arguments["tensor_parallel_size"] = entry.tensor_parallel
        if around.device == "cuda":
            arguments.setdefault("gpu_memory_utilization", _NO_CHECK_OF_FREE_MEMORY)
    return EngineSpec(
        model=entry.name,
        path=_location(entry, around.base),
        revision=entry.revision,
        engine_args=arguments,
        env=dict(entry.env),
        kind=entry.kind,
        canary_sampling=entry.canary_sampling,
        keeps_kv=around.keeps_kv and entry.keeps_kv and arguments.get("runner") != "pooling",
    )


def _spec(
    entry: ModelEntry, footprints: dict[Depth, Footprint], devices: int, keeps_kv: bool
) -> ModelSpec:
    return ModelSpec(
        name=ModelName(entry.name),
        footprints=footprints,
        replicas=entry.replicas.max,
        least_replicas=entry.replicas.min,
        spreads=entry.spread == "node",
        devices_per_replica=devices,
        ladder=Ladder() if entry.idle == "auto" else Ladder(**entry.idle.model_dump()),
        sets_own_ladder=entry.idle == "auto",
        schedule=_schedule(entry.schedule) if entry.schedule is not None else None,
        limits=Limits(**entry.limits.model_dump()),
        deepest=Depth[entry.deepest.upper()],
        pinned=entry.pinned,
        can_freeze=entry.freeze,
        keeps_kv=keeps_kv,
        max_wait_s=entry.max_wait_s,
        max_restarts=entry.max_restarts,
    )


def _schedule(section: ScheduleSection) -> Schedule:
    return Schedule(
        time_zone=section.time_zone,
        awake=tuple(map(parse_hours, section.awake)),
        asleep=tuple(map(parse_hours, section.asleep)),
        asleep_to=Depth[section.asleep_to.upper()],
        asleep_after_s=section.asleep_after_s,
    )
