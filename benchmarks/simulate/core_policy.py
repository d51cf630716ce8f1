"""A stage played by the core itself, on the simulating driver.

``no_sleep`` is the same core forbidden to sleep: a replica is awake or stopped, as with plain
scale to zero, though with our order of right and our choice of whom to stop.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from benchmarks.simulate.prices import seconds_of
from benchmarks.simulate.stage import Played, Stage, told_costs
from benchmarks.workload.residency import Residency
from benchmarks.workload.score import Outcome
from controller.core.commands import GrantLease, RejectRequest
from controller.core.events import ModelAdded, NodeJoined
from controller.core.fleet import Fleet
from controller.core.names import Depth, DeviceId, Instant, Ladder, ModelSpec, NodeId
from controller.drivers.sim import Simulator
from controller.drivers.world import World


def torpor(stage: Stage) -> Played:
    return _play(stage)


def no_sleep(stage: Stage) -> Played:
    """Idle replicas stop when the ladder's last step that is not "never" would have come."""
    specs = tuple(replace(spec, ladder=_stopping(spec)) for spec in stage.specs)
    policy = replace(stage.policy, evict_to=Depth.STOPPED)
    return _play(replace(stage, specs=specs, policy=policy))


def _stopping(spec: ModelSpec) -> Ladder:
    ladder = spec.ladder
    times = (ladder.kv_released_s, ladder.level_1_s, ladder.level_2_s, ladder.stopped_s)
    return Ladder(stopped_s=max((time for time in times if time < inf), default=inf))


def _play(stage: Stage) -> Played:
    sizes = {name: price.sizes for name, price in stage.prices.items()}
    world = World(sizes, seed=stage.seed, seconds_of=seconds_of(stage.prices))
    residency = Residency(counts_from_s=stage.boots_s)
    sim = Simulator(Fleet(told_costs(stage)), world, lambda fleet: _watch(fleet, residency))
    for spec in stage.specs:
        sim.schedule(ModelAdded(Instant(0.0), spec))
    for node in stage.nodes:
        devices = tuple((DeviceId(name), size) for name, size in node.devices)
        sim.schedule(NodeJoined(Instant(0.0), NodeId(node.node), devices, node.host_bytes))
    boot_s = stage.boots_s
    for work in stage.works:
        sim.request(boot_s + work.at_s, work.request, work.model, work.serve_s, work.max_wait_s)
    last_s = boot_s + max([stage.duration_s, *(w.at_s + w.serve_s for w in stage.works)])
    sim.run(last_s)
    while not all(client.is_settled for client in sim.clients.values()):
        last_s += 60.0
        sim.run(last_s)
    residency.end(last_s)
    return Played(_outcomes(sim, stage), residency.since(boot_s), residency, sim.journal)


def _watch(fleet: Fleet, residency: Residency) -> None:
    for replica in fleet.replicas:
        if replica not in residency.states:
            residency.begin(replica, "stopped", fleet.now)
    for change in fleet.changes:
        residency.changed(change.replica, change.after.name, change.why, fleet.now)


def _outcomes(sim: Simulator, stage: Stage) -> list[Outcome]:
    """The last grant of a request counts, or its refusal."""
    works = {work.request: work for work in stage.works}
    outcomes: dict[str, Outcome] = {}
    for _, commands in sim.journal:
        for command in commands:
            match command:
                case GrantLease(request=request, replica=replica, queued_s=queued_s):
                    work = works[request]
                    outcomes[request] = Outcome(
                        request,
                        work.model,
                        work.at_s,
                        queued_s,
                        queued_s + work.prefill_s,
                        queued_s + work.serve_s,
                        replica=replica,
                    )
                case RejectRequest(request=request, reason=reason):
                    work = works[request]
                    outcomes[request] = Outcome(request, work.model, work.at_s, shed=reason.value)
                case _:
                    pass
    return list(outcomes.values())
