"""How long one event takes the core: ``python -m benchmarks.core_speed [models] [seconds]``.

A simulated fleet of which four models in ten fit awake, under requests to all of them, the
popular ones more often: first the storm of cold starts, then the steady second half of the time.
Only ``Fleet.handle`` and ``Fleet.next_deadline`` are timed, and by the CPU's clock: what else runs
on the machine counts less.
"""

from __future__ import annotations

import platform
import sys
from random import Random
from statistics import median
from time import thread_time_ns

from controller.core.commands import Command
from controller.core.events import Event, ModelAdded, NodeJoined
from controller.core.fleet import Fleet
from controller.core.names import (
    Depth,
    DeviceId,
    FleetPolicy,
    Footprint,
    Instant,
    Ladder,
    ModelName,
    ModelSpec,
    NodeId,
)
from controller.drivers.sim import Simulator
from controller.drivers.world import World

GIB = 1024**3
SIZES = {
    Depth.AWAKE: Footprint(16 * GIB),
    Depth.KV_RELEASED: Footprint(12 * GIB),
    Depth.LEVEL_1: Footprint(GIB, 12 * GIB),
    Depth.LEVEL_2: Footprint(GIB // 2),
}


class TimedFleet(Fleet):
    """A fleet that writes down how long it took."""

    def __init__(self, policy: FleetPolicy) -> None:
        super().__init__(policy)
        self.taken_us: list[tuple[float, float]] = []
        """When, and how long."""

    def handle(self, event: Event) -> list[Command]:
        began = thread_time_ns()
        commands = super().handle(event)
        super().next_deadline()
        self.taken_us.append((event.at, (thread_time_ns() - began) / 1000))
        return commands


def run(models: int, seconds: float) -> list[tuple[float, float]]:
    fleet = TimedFleet(FleetPolicy(prefetch_start=False))
    names = [ModelName(f"m{number}") for number in range(models)]
    sim = Simulator(fleet, World(dict.fromkeys(names, SIZES)))
    for name in names:
        ladder = Ladder(level_1_s=300.0, level_2_s=1800.0)
        sim.schedule(ModelAdded(Instant(0.0), ModelSpec(name, SIZES, ladder=ladder)))
    devices = tuple((DeviceId(str(number)), 80 * GIB) for number in range(8))
    for number in range(max(1, models // 100)):
        sim.schedule(NodeJoined(Instant(0.0), NodeId(f"n{number}"), devices, 2048 * GIB))
    dice = Random(0)
    at = 0.0
    while at < seconds:
        at += dice.expovariate(2.0)
        rank = min(models - 1, int(models * dice.random() ** 3))
        sim.request(at, f"r{at}", names[rank], dice.uniform(0.5, 20.0))
    sim.run()
    return fleet.taken_us[models:]


def main() -> None:
    models = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3600.0
    taken = run(models, seconds)
    print(f"machine: {platform.processor() or platform.machine()}, Python {sys.version.split()[0]}")
    print(f"{models} models, microseconds of CPU an event:")
    for name, half in (
        ("cold", sorted(us for at, us in taken if at < seconds / 2)),
        ("steady", sorted(us for at, us in taken if at >= seconds / 2)),
    ):
        p99 = half[int(len(half) * 0.99)]
        mean = sum(half) / len(half)
        print(f"  {name:6} {len(half)} events: median {median(half):.0f}", end="")
        print(f"  mean {mean:.0f}  p99 {p99:.0f}  max {half[-1]:.0f}")


if __name__ == "__main__":
    main()
