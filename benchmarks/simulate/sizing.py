"""How many devices an objective needs, the fewest with which enough requests are well served; and
the highest rate at which they are, which the field calls goodput (DistServe, OSDI 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.running import BenchError
from benchmarks.simulate.policies import Policy
from benchmarks.simulate.stage import Stage
from benchmarks.workload.scenario import Objective
from benchmarks.workload.score import Outcome, good_share
from controller.core.names import Depth

RATES = tuple(2.0 ** (step / 4) for step in range(-16, 13))
"""Times the scenario's own: from a sixteenth of it to eight times as many."""


def rate_met(
    at_rate: Callable[[float], Stage], policy: Policy, objective: Objective
) -> float | None:
    """Requests a second, counted down through ``RATES`` to the first at which enough are well
    served; None: at none. Where fewer come the share may be smaller again, as each start and wake
    is shared by fewer."""
    for factor in reversed(RATES):
        stage = at_rate(factor)
        if good_share(policy(stage).outcomes, objective) >= objective.share:
            return len(stage.works) / stage.duration_s
    return None


def needed(stage: Stage, policy: Policy, objective: Objective, most: int) -> int | None:
    """Counted up from one; None: not with ``most`` either."""
    for devices in range(1, most + 1):
        outcomes = policy(stage.resized(devices)).outcomes
        if good_share(outcomes, objective) >= objective.share:
            return devices
    return None


def one_each(stage: Stage) -> int:
    """Every model on devices of its own, awake for good."""
    return sum(spec.replicas * spec.devices_per_replica for spec in stage.specs)


def packed(stage: Stage) -> int:
    """All awake for good, as many to a device as fit: first fit by falling size."""
    size = stage.nodes[0].devices[0][1]
    left: list[int] = []
    for held in sorted(_held(stage), reverse=True):
        if held > size:
            raise BenchError(f"a model needs {held} bytes of a device, which has {size}")
        for index, free in enumerate(left):
            if held <= free:
                left[index] -= held
                break
        else:
            left.append(size - held)
    return len(left)


def _held(stage: Stage) -> list[int]:
    return [
        stage.prices[spec.name].sizes[Depth.AWAKE].device_bytes
        for spec in stage.specs
        for _ in range(spec.replicas * spec.devices_per_replica)
    ]


def always_awake(stage: Stage) -> list[Outcome]:
    """How everybody is served where nobody ever waits for a model."""
    return [
        Outcome(work.request, work.model, work.at_s, 0.0, work.prefill_s, work.serve_s)
        for work in stage.works
    ]


def dedicated(stage: Stage, objective: Objective) -> Mapping[str, int]:
    """Devices by kind of dedication; empty where not even they reach the objective."""
    if good_share(always_awake(stage), objective) < objective.share:
        return {}
    return {"dedicated, one model each": one_each(stage), "dedicated, packed": packed(stage)}
