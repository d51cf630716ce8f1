"""What is on record of a model is told to the core: at the start, and when one comes or changes."""

from __future__ import annotations

from dataclasses import replace

from controller.core.costs import Took
from controller.core.events import CostsFound
from controller.core.lifecycle import Action
from controller.core.names import Depth, Footprint, Instant, ModelName, ModelSpec
from controller.drivers.catalogue import Configured
from controller.ports import ConfigView, EngineSeen
from tests.core.fleets import spec
from tests.drivers.stand import Stand, a_fleet, engine
from tests.drivers.virtual_loop import run
from tests.drivers.world_pool import NOBODY
from workers.engine import EngineSpec, Memory, Rest

A, B = ModelName("a"), ModelName("b")


class OnRecord:
    """So many seconds for a start, by the engine's revision."""

    def __init__(self, **start_s: float) -> None:
        self._start_s = start_s

    def found(self, at: Instant, spec: ModelSpec, engine: EngineSpec) -> CostsFound | None:
        seconds = self._start_s.get(engine.revision or "none")
        if seconds is None:
            return None
        took = Took(Action.START, Depth.STOPPED, (seconds,))
        return CostsFound(at, spec.name, (took,), ((Depth.LEVEL_1, Footprint(3)),))


def start_s(stand: Stand, model: ModelName) -> float:
    return stand.driver.fleet.costs.raising(model, Depth.STOPPED)


def of_revision(name: str, revision: str) -> Configured:
    return spec(name), replace(engine(name), revision=revision)


def reread(stand: Stand, *models: Configured) -> None:
    stand.control.reconfigure(models, ConfigView("fleet.yaml", 1.0, 1.0))


def test_costs_are_known_before_engines_are_adopted_and_nodes_join() -> None:
    """What an engine that is found holds is newer than what is on record."""
    held = Memory(9, 0)
    seen = EngineSeen("a#0", "a", 7, Rest.LEVEL_1, "n", ("0",), held, NOBODY, 100, engine("a"))

    async def story() -> None:
        async with a_fleet(running=[seen], costs=OnRecord(none=4.0)) as stand:
            told = ["ModelAdded", "CostsFound", "ModelAdded", "CostsFound", "EngineFound"]
            assert stand.seen.kinds()[:6] == [*told, "NodeJoined"]
            assert start_s(stand, A) == start_s(stand, B) == 4.0
            footprints = {m: stand.driver.fleet.models[m].footprint(Depth.LEVEL_1) for m in (A, B)}
            assert footprints == {A: Footprint(9), B: Footprint(3)}

    run(story())


def test_a_model_that_comes_or_changes_has_its_own() -> None:
    async def story() -> None:
        async with a_fleet(spec("a"), costs=OnRecord(v1=20.0, v2=30.0)) as stand:
            guessed = start_s(stand, A)
            reread(stand, of_revision("a", "v1"), of_revision("b", "v2"))
            assert (start_s(stand, A), start_s(stand, B)) == (20.0, 30.0)
            reread(stand, of_revision("a", "v3"), of_revision("b", "v2"))
            assert (start_s(stand, A), start_s(stand, B)) == (guessed, 30.0)
            reread(stand, of_revision("a", "v1"), of_revision("b", "v2"))
            assert start_s(stand, A) == 20.0

    run(story())


def test_a_model_that_is_added_over_the_api_has_its_own() -> None:
    async def story() -> None:
        async with a_fleet(spec("a"), costs=OnRecord(none=40.0)) as stand:
            stand.control.add_model({"name": "b"})
            assert start_s(stand, B) == 40.0

    run(story())
