"""What ``torpor bench pressure`` measures, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.running import BenchError
from controller.settings import Settings

PARTS = ("deaths", "freeze")


@dataclass(frozen=True, slots=True)
class Options:
    models: tuple[str, ...] = ()
    """None: all that generate. The first one's answers are frozen for the second."""
    kills: int = 5
    """Of each kind of process that a model's engine has."""
    freezes: int = 5
    maximum_s: float = 3.0
    """That a model waits behind answers that run: the fleet's ``policy.maximum_wait_behind_s``."""
    parts: tuple[str, ...] = PARTS


def chosen(settings: Settings, options: Options) -> tuple[str, ...]:
    """The models that are measured. Raises BenchError."""
    engines = [model.engine for model in settings.models]
    found = [each.model for each in engines if each.engine_args.get("runner") != "pooling"]
    for name in options.models:
        if name not in found:
            raise BenchError(f"no model {name!r} that generates: {', '.join(found) or 'none'}")
    names = options.models or tuple(found)
    if "freeze" in options.parts and len(names) < 2:
        raise BenchError("a freeze takes two models that generate")
    if not names:
        raise BenchError("no model of CONFIG generates")
    return names
