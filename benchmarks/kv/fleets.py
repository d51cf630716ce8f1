"""The fleets that are measured: one model with its KV tier, and beside it a twin without.

Fleets that follow one another find each other's KV: a directory of theirs outlives them. A Redis
that the configuration names is used as it is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.running import BenchError
from benchmarks.wake.own_fleet import undisturbed
from controller.core.names import ModelName
from controller.model_settings import ConfiguredModel
from controller.settings import Settings
from kv_store.settings import Directory


def chosen(settings: Settings, name: str | None) -> ConfiguredModel:
    """Raises BenchError where it, or the fleet, keeps no KV."""
    if settings.kv is None:
        raise BenchError("CONFIG has no `kv`: there is nothing to measure")
    keeping = {m.engine.model: m for m in settings.models if m.engine.keeps_kv}
    if name is not None and name not in keeping:
        raise BenchError(f"no model {name!r} that keeps KV: {', '.join(keeping) or 'none'}")
    if not keeping:
        raise BenchError("no model of CONFIG keeps KV")
    return keeping[name] if name is not None else next(iter(keeping.values()))


def twin_of(model: ConfiguredModel) -> ConfiguredModel:
    """The same, but that it keeps no KV."""
    name = f"{model.engine.model}-without"
    return ConfiguredModel(
        replace(model.spec, name=ModelName(name), keeps_kv=False),
        replace(model.engine, model=name, keeps_kv=False),
    )


def only(settings: Settings, *models: ConfiguredModel) -> Settings:
    return replace(settings, models=models)


def arranged(settings: Settings, directory: Path, kept: Path) -> Settings:
    """Nothing happens unasked, and KV lies in ``kept``, not where CONFIG has its own."""
    quiet = undisturbed(settings, directory)
    assert quiet.kv is not None
    durable = quiet.kv.durable
    if isinstance(durable, Directory):
        durable = replace(durable, path=kept)
    return replace(quiet, kv=replace(quiet.kv, durable=durable))
