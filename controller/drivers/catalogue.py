"""The models that the configuration file names, and what another reading of it changes.

What was added or removed over the API is the API's: a file that is read again leaves it alone,
and what the file says of such a model counts when the controller is started again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from controller.core.events import ModelRemoved
from controller.core.names import ModelName, ModelSpec
from controller.drivers.live import LiveDriver
from workers.engine import EngineSpec

Configured = tuple[ModelSpec, EngineSpec]


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done about the models, by their names."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    restarted: tuple[str, ...]
    """Of the changed ones: their engines are replaced as soon as their responses have ended."""
    removed: tuple[str, ...]
    left: tuple[str, ...]
    """What the API has a hand in, each with how."""


class Catalogue:
    def __init__(self, driver: LiveDriver) -> None:
        self._driver = driver
        self._said = dict(driver.configured)
        """Of each model of the file, what it said last."""
        self._of_the_api: dict[ModelName, None] = {}

    def added_over_the_api(self, model: ModelName) -> None:
        self._of_the_api[model] = None

    def removed_over_the_api(self, model: ModelName) -> None:
        self._of_the_api.pop(model, None)

    def apply(self, models: Iterable[Configured]) -> Applied:
        """Make the fleet's models those of the file."""
        before, after = self._said, {spec.name: (spec, engine) for spec, engine in models}
        self._said = after
        differs = [name for name in before | after if before.get(name) != after.get(name)]
        left = {name: how for name in differs if (how := self._why_left(name, name in before))}
        mine = [name for name in differs if name not in left]
        removed = [name for name in mine if name not in after]
        added = [name for name in mine if name not in before]
        changed = [name for name in mine if name in before and name in after]
        restarted = [name for name in changed if _needs_restart(before[name], after[name])]
        for name in removed:
            self._driver.feed(ModelRemoved(self._driver.now(), name))
        for name in changed:
            self._change(before[name], after[name], name in restarted)
        for name in added:
            self._driver.add_model(*after[name])
        return Applied(
            added=tuple(added),
            changed=tuple(changed),
            restarted=tuple(restarted),
            removed=tuple(removed),
            left=tuple(f"models.{name} ({how})" for name, how in left.items() if name in after),
        )

    def _why_left(self, model: ModelName, was_in_the_file: bool) -> str:
        if model in self._of_the_api:
            return "added over the API"
        known = self._driver.fleet.models.get(model)
        is_gone = known is None or known.is_removed
        return "removed over the API" if was_in_the_file and is_gone else ""

    def _change(self, before: Configured, after: Configured, restart: bool) -> None:
        """A pin that was set or taken at run time stays, unless the file changes its own."""
        spec, engine = after
        if spec.pinned == before[0].pinned:
            spec = replace(spec, pinned=self._driver.fleet.models[spec.name].spec.pinned)
        self._driver.change_model(spec, engine, restart)


def _needs_restart(before: Configured, after: Configured) -> bool:
    """Its engines run with something else."""
    is_wider = before[0].devices_per_replica != after[0].devices_per_replica
    return is_wider or before[1] != after[1]
