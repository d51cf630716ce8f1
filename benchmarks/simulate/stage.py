"""What is played: a fleet on its hardware, what its orders take, and the requests that come.

A stage knows nothing of a policy; each policy plays the same stage. The fleet is there for
``boot_s`` before the first request comes, so that nobody is judged by the first start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.result import Span
from benchmarks.simulate.prices import Prices, guess
from benchmarks.workload.arrivals import Arrival
from benchmarks.workload.residency import Residency
from benchmarks.workload.score import Outcome
from controller.core.commands import Command
from controller.core.events import Event
from controller.core.names import Depth, FleetPolicy, ModelName, ModelSpec
from controller.ports import NodeFound

SPREAD = 0.2
"""An order takes up to so much more or less than its price, by the seed."""
_BOOT_MARGIN = 1.0 + 2 * SPREAD


@dataclass(frozen=True, slots=True)
class Work:
    """One request: what it takes once a replica is its to use."""

    request: str
    at_s: float
    model: ModelName
    prefill_s: float
    serve_s: float
    """From grant to the last token, the prefill included."""
    max_wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    specs: tuple[ModelSpec, ...]
    nodes: tuple[NodeFound, ...]
    prices: Prices
    works: tuple[Work, ...]
    duration_s: float
    policy: FleetPolicy = field(default_factory=FleetPolicy)
    seed: int = 0
    boot_s: float | None = None
    """None: as long as it takes to start every model once, one after the other."""

    @property
    def boots_s(self) -> float:
        if self.boot_s is not None:
            return self.boot_s
        once = [
            p.start_s + p.sleep_s[Depth.LEVEL_1]
            for spec in self.specs
            if (p := self.prices.get(spec.name)) is not None
        ]
        return sum(once) * _BOOT_MARGIN

    @property
    def devices(self) -> int:
        return sum(len(node.devices) for node in self.nodes)

    def resized(self, devices: int, per_node: int = 8) -> Stage:
        """The same on so many devices, each with its share of the first node's host memory."""
        first = self.nodes[0]
        size, share = first.devices[0][1], first.host_bytes // len(first.devices)
        counts = [min(per_node, devices - begun) for begun in range(0, devices, per_node)]
        nodes = tuple(
            NodeFound(f"n{index}", tuple((str(i), size) for i in range(count)), share * count)
            for index, count in enumerate(counts)
        )
        return replace(self, nodes=nodes)


@dataclass(slots=True)
class Played:
    """How a policy did. Times count from the first moment at which requests could come."""

    outcomes: list[Outcome]
    spans: tuple[Span, ...]
    residency: Residency
    journal: Sequence[tuple[Event, list[Command]]] = ()


def works_of(
    arrivals: Sequence[Arrival],
    prices: Prices,
    max_wait_s: float,
    named: Mapping[str, ModelName] | None = None,
) -> tuple[Work, ...]:
    """``named``: the fleet's model for each of the scenario's. The whole prompt is computed each
    time: no cache of a prefix is counted on, and streams do not slow each other down."""
    works = []
    for arrival in arrivals:
        model = named[arrival.model] if named else ModelName(arrival.model)
        price = prices[model]
        prefill_s = arrival.prompt_tokens / price.prefill_tokens_per_s
        serve_s = prefill_s + arrival.answer_tokens / price.tokens_per_s
        name = f"r{arrival.number}"
        works.append(Work(name, arrival.at_s, model, prefill_s, serve_s, max_wait_s))
    return tuple(works)


def told_costs(stage: Stage) -> FleetPolicy:
    """The stage's policy with the medians of its prices as what orders are thought to take."""
    return replace(stage.policy, costs=guess(stage.prices.values()))
