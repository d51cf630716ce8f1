"""What orders take and what engines hold in a simulation, for each of its models.

A model that the cost table knows by name has the table's figures. For another they are
interpolated by the size of its weights between the table's models; below the smallest they are
the smallest's, above the largest they grow with the weights. What a table leaves out is stood
for by the nearest thing that is certainly not quicker, see ``complete``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from benchmarks.costs import CostTable, ModelCosts
from controller.core.commands import ExportKV, SleepEngine, StartEngine, StopEngine, WakeEngine
from controller.core.names import CostGuess, Depth, Footprint, ModelName
from controller.drivers.world import Order
from controller.footprints import Demand, estimate

TOKENS_PER_S = 40.0
PREFILL_TOKENS_PER_S = 4000.0
"""Where a table does not say."""


@dataclass(frozen=True, slots=True)
class Price:
    """Of one model."""

    start_s: float
    stop_s: float
    sleep_s: Mapping[Depth, float]
    wake_s: Mapping[Depth, float]
    sizes: Mapping[Depth, Footprint]
    tokens_per_s: float = TOKENS_PER_S
    prefill_tokens_per_s: float = PREFILL_TOKENS_PER_S

    def holding(self, sizes: Mapping[Depth, Footprint]) -> Price:
        return replace(self, sizes=sizes)

    def seconds(self, order: Order) -> float:
        match order:
            case StartEngine():
                return self.start_s
            case StopEngine():
                return self.stop_s
            case SleepEngine(depth=depth):
                return self.sleep_s[depth]
            case WakeEngine(depth=depth):
                return self.wake_s[depth]
            case ExportKV():
                return CostGuess().export_s


Prices = Mapping[ModelName, Price]


def seconds_of(prices: Prices) -> Callable[[Order, ModelName], float]:
    """An engine whose model is gone stops at once."""

    def seconds(order: Order, model: ModelName) -> float:
        return prices[model].seconds(order) if model in prices else 0.0

    return seconds


def guess(prices: Iterable[Price]) -> CostGuess:
    """What a fleet would be told before it has measured anything: the medians."""
    known = list(prices)
    return CostGuess(
        start_s=median(p.start_s for p in known),
        stop_s=median(p.stop_s for p in known),
        sleep_s=median(p.sleep_s[Depth.LEVEL_1] for p in known),
        wake_kv_released_s=median(p.wake_s[Depth.KV_RELEASED] for p in known),
        wake_level_1_s=median(p.wake_s[Depth.LEVEL_1] for p in known),
        wake_level_2_s=median(p.wake_s[Depth.LEVEL_2] for p in known),
    )


def price(table: CostTable, name: str, weights_bytes: int, kv_bytes: int | None = None) -> Price:
    """``kv_bytes``: of each device; None: as the table's model has it."""
    if name in table.models:
        return complete(table.models[name])
    known = sorted(table.models.values(), key=lambda costs: costs.weights_bytes)
    nearest = min(known, key=lambda costs: abs(costs.weights_bytes - weights_bytes))
    return replace(_between(known, weights_bytes), sizes=_resized(nearest, weights_bytes, kv_bytes))


def complete(costs: ModelCosts) -> Price:
    """A wake from level 2 that was not measured takes as long as a start, one from level 1 as
    long as one from level 2, one from "KV released" as long as one from level 1; a sleep as
    long as the slowest that was measured."""
    level_2 = _first(costs.wake_level_2_s, costs.start_s)
    level_1 = _first(costs.wake_level_1_s, level_2)
    slowest = max(costs.sleep_s.values(), default=CostGuess().sleep_s)
    measured = {Depth[name.upper()]: seconds for name, seconds in costs.sleep_s.items()}
    rungs = (Depth.KV_RELEASED, Depth.LEVEL_1, Depth.LEVEL_2)
    return Price(
        start_s=costs.start_s,
        stop_s=_first(costs.stop_s, CostGuess().stop_s),
        sleep_s={depth: measured.get(depth, slowest) for depth in rungs},
        wake_s={
            Depth.KV_RELEASED: _first(costs.wake_kv_released_s, level_1),
            Depth.LEVEL_1: level_1,
            Depth.LEVEL_2: level_2,
        },
        sizes=_sizes(costs),
        tokens_per_s=costs.tokens_per_s or TOKENS_PER_S,
        prefill_tokens_per_s=costs.prefill_tokens_per_s or PREFILL_TOKENS_PER_S,
    )


def _first(value: float | None, other: float) -> float:
    return other if value is None else value


def _sizes(costs: ModelCosts) -> dict[Depth, Footprint]:
    """As measured; what was not is what the fleet itself would estimate for a GPU."""
    sizes = estimate(Demand(costs.weights_bytes, costs.kv_bytes, ranks=1), "cuda")
    for name, held in costs.footprints.items():
        sizes[Depth[name.upper()]] = Footprint(held.device_bytes, held.host_bytes)
    return sizes


def _resized(costs: ModelCosts, weights_bytes: int, kv_bytes: int | None) -> dict[Depth, Footprint]:
    """Those of the nearest model with other weights and KV, what else it holds unchanged. Where
    a depth holds the weights is told by what it holds more than level 2, which holds none."""
    sizes = _sizes(costs)
    bare, half = sizes[Depth.LEVEL_2], costs.weights_bytes / 2
    more = weights_bytes - costs.weights_bytes
    more_kv = (costs.kv_bytes if kv_bytes is None else kv_bytes) - costs.kv_bytes

    def grown(depth: Depth, held: Footprint) -> Footprint:
        on_device = more if held.device_bytes - bare.device_bytes > half else 0
        on_host = more if held.host_bytes - bare.host_bytes > half else 0
        kv = more_kv if depth is Depth.AWAKE else 0
        return Footprint(held.device_bytes + on_device + kv, held.host_bytes + on_host)

    return {depth: grown(depth, held) for depth, held in sizes.items()}


def _between(known: Sequence[ModelCosts], weights_bytes: int) -> Price:
    """``known`` in order of their weights."""
    for below, above in pairwise(known):
        if below.weights_bytes <= weights_bytes < above.weights_bytes:
            way = above.weights_bytes - below.weights_bytes
            share = (weights_bytes - below.weights_bytes) / way
            return _mixed(complete(below), complete(above), 1 - share, share)
    edge = known[0] if weights_bytes < known[0].weights_bytes else known[-1]
    times = max(1.0, weights_bytes / max(1, edge.weights_bytes))
    return _mixed(complete(edge), complete(edge), times, 0.0)


def _mixed(one: Price, other: Price, of_one: float, of_other: float) -> Price:
    """Times are mixed; speeds as the times that a token takes."""

    def mix(first: float, second: float) -> float:
        return first * of_one + second * of_other

    return Price(
        start_s=mix(one.start_s, other.start_s),
        stop_s=mix(one.stop_s, other.stop_s),
        sleep_s={d: mix(s, other.sleep_s[d]) for d, s in one.sleep_s.items()},
        wake_s={d: mix(s, other.wake_s[d]) for d, s in one.wake_s.items()},
        sizes=one.sizes,
        tokens_per_s=1 / mix(1 / one.tokens_per_s, 1 / other.tokens_per_s),
        prefill_tokens_per_s=1 / mix(1 / one.prefill_tokens_per_s, 1 / other.prefill_tokens_per_s),
    )
