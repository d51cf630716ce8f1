"""A stage of a scenario: on the hardware it names, or on a fleet.yaml's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.costs import CostTable, read
from benchmarks.result import ResultError
from benchmarks.simulate.prices import Price, price
from benchmarks.simulate.stage import Stage, works_of
from benchmarks.workload.arrivals import arrivals
from benchmarks.workload.scenario import Scenario
from controller.core.names import Ladder, ModelName, ModelSpec
from controller.footprints import GIB, booked_weights
from controller.machine import this_machine
from controller.plan import plan
from controller.ports import NodeFound
from controller.settings import Settings

TABLES = Path(__file__).parents[1] / "cost_tables"
DEVICE_FRACTION = 0.9
"""Of a device that a fleet may use, as fleet.yaml's default has it."""
LADDER = Ladder(kv_released_s=60.0, level_1_s=300.0, level_2_s=1800.0)
"""Where no configuration says otherwise: that of ``torpor serve --model``."""


def table(name: str) -> CostTable:
    """A shipped table by its name, or a file. Raises ResultError."""
    shipped = {path.stem: path for path in sorted(TABLES.glob("*.yaml"))}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise ResultError(f"{name}: neither a file nor a shipped table ({', '.join(shipped)})")
    return read(path)


def named_by_rank(asked: Sequence[str], there: Sequence[ModelName]) -> dict[str, ModelName]:
    """The fleet's model for each of a scenario's: of the same name if the fleet has them all,
    else of the same rank, beginning anew where the fleet has fewer."""
    if set(asked) <= set(there):
        return {name: ModelName(name) for name in asked}
    return {name: there[rank % len(there)] for rank, name in enumerate(asked)}


def on_own_hardware(scenario: Scenario, costs: CostTable, seed: int) -> Stage:
    hardware = scenario.hardware
    size = int((costs.device_bytes or 80 * GIB) * DEVICE_FRACTION)
    if hardware.device_gib is not None:
        size = int(hardware.device_gib * GIB)
    prices = {
        ModelName(model.name): price(
            costs, model.name, int(model.weights_gib * GIB), int(model.kv_gib * GIB)
        )
        for model in scenario.models
    }
    specs = tuple(
        ModelSpec(name, dict(cost.sizes), ladder=LADDER, max_wait_s=scenario.max_wait_s)
        for name, cost in prices.items()
    )
    works = works_of(arrivals(scenario, seed), prices, scenario.max_wait_s)
    bare = Stage(
        specs, (_node(size, hardware.host_gib),), prices, works, scenario.duration_s, seed=seed
    )
    return bare.resized(hardware.devices)


def _node(size: int, host_gib: float) -> NodeFound:
    return NodeFound("n0", (("0", size),), int(host_gib * GIB))


def of_settings(settings: Settings, costs: CostTable) -> tuple[Stage, dict[ModelName, Price]]:
    """The configured fleet with nobody asking yet."""
    specs = tuple(model.spec for model in settings.models)
    prices = {spec.name: _priced(spec, costs, settings.device) for spec in specs}
    nodes = plan(settings, this_machine()).nodes
    return Stage(specs, nodes, prices, (), 0.0, settings.policy), prices


def _priced(spec: ModelSpec, costs: CostTable, device: str) -> Price:
    """What the table does not know by name holds what the configuration estimates."""
    known = price(costs, spec.name, booked_weights(spec.footprints, device))
    if spec.name in costs.models:
        return known
    return known.holding(spec.footprints)
