"""A journal as a stage: what was asked of a fleet, asked again of another one.

Taken from it: arrivals, how long each lease was held, how long clients had patience, models and
nodes (unless a configuration stands for them), and what orders took there, unless a cost table
does. A request that was never granted is taken to need the median of its model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.costs import CostTable
from benchmarks.running import BenchError
from benchmarks.simulate.prices import Price, price
from benchmarks.simulate.recorded import Asked, Recorded
from benchmarks.simulate.stage import Stage, Work
from controller.core.commands import SleepEngine, StartEngine, StopEngine, WakeEngine
from controller.core.names import CostGuess, Depth, FleetPolicy, Footprint, ModelName, ModelSpec
from controller.footprints import booked_weights


def stage_of(
    recorded: Recorded, costs: CostTable | None, seed: int, configured: Stage | None = None
) -> Stage:
    """``configured``: the fleet to ask instead of the recorded one; its models then hold what it
    estimates, not what was measured. Raises BenchError."""
    specs = configured.specs if configured else tuple(recorded.specs.values())
    nodes = configured.nodes if configured else tuple(recorded.nodes.values())
    if not specs or not nodes:
        raise BenchError("the journal does not begin with its models and nodes: give --config")
    held = {} if configured else recorded.held
    prices = {
        spec.name: _price(spec, recorded, costs, {**spec.footprints, **held.get(spec.name, {})})
        for spec in specs
    }
    if configured and costs:
        prices = dict(configured.prices)
    return Stage(
        specs,
        nodes,
        prices,
        works(recorded),
        recorded.ended_s,
        policy=configured.policy if configured else FleetPolicy(),
        seed=seed,
        boot_s=0.0,
    )


def works(recorded: Recorded) -> tuple[Work, ...]:
    by_model: dict[ModelName, list[float]] = {}
    for asked in recorded.asked:
        if asked.held_s is not None:
            by_model.setdefault(asked.model, []).append(asked.held_s)
    every = [held_s for held in by_model.values() for held_s in held] or [1.0]

    def held_s(asked: Asked) -> float:
        return asked.held_s or median(by_model.get(asked.model, every))

    return tuple(
        Work(asked.request, asked.at_s, asked.model, 0.0, held_s(asked), asked.max_wait_s)
        for asked in recorded.asked
    )


def _price(
    spec: ModelSpec, recorded: Recorded, costs: CostTable | None, sizes: Mapping[Depth, Footprint]
) -> Price:
    """From the table, by the weights that the specification was estimated with; else as it went
    in the journal, else as a fleet guesses that has measured nothing."""
    if costs is not None:
        device = "cuda" if spec.footprints[Depth.LEVEL_1].host_bytes else "cpu"
        known = price(costs, spec.name, booked_weights(spec.footprints, device))
        return known.holding(sizes)
    guess = CostGuess()

    def took(kind: type, depth: Depth, otherwise_s: float) -> float:
        return median(recorded.orders_s.get((spec.name, kind, depth), [otherwise_s]))

    waking: Sequence[tuple[Depth, float]] = (
        (Depth.KV_RELEASED, guess.wake_kv_released_s),
        (Depth.LEVEL_1, guess.wake_level_1_s),
        (Depth.LEVEL_2, guess.wake_level_2_s),
    )
    return Price(
        start_s=took(StartEngine, Depth.STOPPED, guess.start_s),
        stop_s=took(StopEngine, Depth.STOPPED, guess.stop_s),
        sleep_s={depth: took(SleepEngine, depth, guess.sleep_s) for depth, _ in waking},
        wake_s={depth: took(WakeEngine, depth, otherwise_s) for depth, otherwise_s in waking},
        sizes=sizes,
    )
