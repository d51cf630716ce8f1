"""What the fleet knows, and the moves that change it.

Each move writes one decision or one fact everywhere it belongs: phase, ledger, backlog, story,
and the list of commands. Observing and planning are made of these moves and of nothing else; those
about orders, what engines hold, leases and failures have files of their own (``orders``,
``holding``, ``leases``, ``failures``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from controller.core import idle
from controller.core.agenda import Agenda
from controller.core.backlog import Backlog
from controller.core.commands import Command, FinishOperation, RejectRequest
from controller.core.costs import CostTable
from controller.core.hours import in_hours
from controller.core.ledger import HOST, Ledger
from controller.core.lifecycle import ON_THE_MOVE, Goal, Phase, Replica
from controller.core.models import ModelRecord
from controller.core.names import (
    LONG_AGO,
    NEVER,
    Cause,
    Depth,
    FleetPolicy,
    Footprint,
    Instant,
    Ladder,
    ModelName,
    NodeId,
    OpId,
    Regime,
    RejectReason,
    ReplicaId,
    RequestId,
)
from controller.core.operations import Operation, Operations
from controller.core.own_ladder import Rung, as_ladder, rests, rungs
from controller.core.popularity import Popularity
from controller.core.reliefs import Reliefs
from controller.core.tenants import Tenants
from controller.core.tier import Tier

AT_ONCE = Instant(float("-inf"))


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """For whoever counts and logs: one step that a replica took within one event."""

    replica: ReplicaId
    before: Phase
    after: Phase
    why: str


class Books:
    def __init__(self, policy: FleetPolicy, first_op: int) -> None:
        self.policy = policy
        self.now = LONG_AGO
        self.models: dict[ModelName, ModelRecord] = {}
        self.replicas: dict[ReplicaId, Replica] = {}
        self.moving: dict[ReplicaId, Replica] = {}
        """Those in a phase ON_THE_MOVE: an index, kept by ``touch``."""
        self.agenda: Agenda[ReplicaId] = Agenda()
        """When the plan must look at each for its own sake: an index of ``due``, kept likewise."""
        self.hopeful: dict[ModelName, None] = {}
        """All models that may want to be awake though nobody waits, and perhaps some others."""
        self.is_crowded = False
        """Perhaps: somebody fell asleep since sleepers were counted."""
        self.leaking: dict[ReplicaId, Replica] = {}
        """Those whose engine keeps more and more when it sleeps."""
        self.frozen: dict[ReplicaId, Replica] = {}
        """Those ASLEEP with frozen leases, which want to be awake: an index, kept likewise."""
        self.failing: dict[ModelName, None] = {}
        """All models with failures, and perhaps some others."""
        self.reliefs = Reliefs()
        self.leased: dict[RequestId, ReplicaId] = {}
        """Every granted request that was not released, also those whose engine is gone."""
        self.ledger = Ledger()
        self.tiers: dict[NodeId, Tier] = {}
        """KV tiers whose size can be changed."""
        self.backlog = Backlog()
        self.tenants = Tenants()
        self.costs = CostTable(policy.costs, policy.times)
        self.popularity = Popularity(policy.popularity_half_life_s)
        self.operations = Operations()
        self.commands: list[Command] = []
        self.changes: list[PhaseChange] = []
        self.version = 0
        """Counts moves; the plan rests when it stands still."""
        self._next_op = first_op
        self._models_added = 0

    # arithmetic

    def new_op(self) -> OpId:
        op = OpId(self._next_op)
        self._next_op += 1
        return op

    def skip_op(self, used: OpId) -> None:
        """An op that was given out before this fleet was built."""
        self._next_op = max(self._next_op, used + 1)

    def footprint(self, replica: Replica, depth: Depth) -> Footprint:
        """What it will hold at ``depth``. Falling asleep takes no device memory, whatever an
        estimate for that depth may say."""
        expected = self.models[replica.model].footprint(depth)
        if depth is Depth.AWAKE or expected.device_bytes <= replica.held.device_bytes:
            return expected
        return Footprint(replica.held.device_bytes, expected.host_bytes)

    def heads_for(self, replica: Replica) -> Depth:
        """Where it rests once the order in flight, or the drain, has ended well."""
        match replica.phase:
            case Phase.STARTING | Phase.WAKING:
                return Depth.AWAKE
            case Phase.FALLING_ASLEEP if replica.order is not None:
                return replica.order.depth
            case Phase.DRAINING | Phase.HIBERNATING if replica.goal is not None:
                return replica.goal.depth
            case Phase.STOPPING | Phase.FAILED:
                return Depth.STOPPED
            case _:
                return replica.depth

    def will_hold(self, replica: Replica) -> Footprint:
        """There."""
        depth = self.heads_for(replica)
        return replica.held if depth is replica.depth else self.footprint(replica, depth)

    def has_host_for(self, replica: Replica, depth: Depth) -> bool:
        """Whether the host has room for what falling to ``depth`` adds."""
        if replica.place is None:
            return False
        growth = self.footprint(replica, depth).host_bytes - replica.held.host_bytes
        return growth <= 0 or growth <= self.ledger.free(replica.place.node, HOST)

    def due(self, replica: Replica) -> Instant:
        """When the plan must look at a replica again for its own sake."""
        if replica.order is not None:
            return replica.order.until
        match replica.phase:
            case Phase.FAILED:
                return replica.bury_at
            case Phase.COLD:
                return AT_ONCE if replica.is_retiring else NEVER
            case Phase.ASLEEP if replica.leases:
                return NEVER
            case Phase.AWAKE | Phase.ASLEEP if replica.is_retiring:
                return AT_ONCE
            case Phase.AWAKE | Phase.ASLEEP if not replica.leases:
                spec = self.models[replica.model].spec
                ladder = self.ladder(self.models[replica.model])
                return idle.next_rung_at(spec, replica.depth, replica.idle_since, ladder)
            case Phase.DRAINING if not replica.leases:
                return AT_ONCE
            case _:
                return NEVER

    # the phases

    def move(self, replica: Replica, phase: Phase, why: str) -> None:
        before = replica.phase
        replica.move(phase, self.now, why)
        self.changes.append(PhaseChange(replica.id, before, phase, why))
        self.touch(replica)

    def touch(self, replica: Replica) -> None:
        self.reliefs.forget(replica)
        if replica.phase in ON_THE_MOVE:
            self.moving[replica.id] = replica
        else:
            self.moving.pop(replica.id, None)
        if replica.phase is Phase.ASLEEP and self.policy.most_sleepers is not None:
            self.is_crowded = True
        self.touch_use(replica)
        self.version += 1

    def touch_use(self, replica: Replica) -> None:
        """Only whether it is used has changed."""
        if replica.phase is Phase.ASLEEP and replica.leases:
            self.frozen[replica.id] = replica
        else:
            self.frozen.pop(replica.id, None)
        self.agenda.put(replica.id, self.due(replica))
        self.reliefs.forget_use(replica)

    def touch_model(self, record: ModelRecord) -> None:
        self.hopeful[record.spec.name] = None
        record.rungs = None
        for replica in record.replicas:
            self.touch(replica)

    # models

    def add(self, record: ModelRecord) -> None:
        self._models_added += 1
        record.number = self._models_added
        self.models[record.spec.name] = record
        self.hopeful[record.spec.name] = None

    def wish(self, record: ModelRecord) -> None:
        """Nobody waits, but it ought to be awake."""
        record.wished_at = self.now
        self.hopeful[record.spec.name] = None

    def learned(self, record: ModelRecord) -> None:
        for replica in record.replicas:
            self.reliefs.forget(replica)
        self._ladder_changed(record)

    def ladder(self, record: ModelRecord) -> Ladder:
        """That counts at present: its own or the one it was given, in its fixed hours another."""
        spec = record.spec
        usual = as_ladder(self.own_rungs(record)) if spec.sets_own_ladder else spec.ladder
        regime = record.regime if record.keeps_hours else Regime.USUAL
        return usual if regime is Regime.USUAL else in_hours(usual, regime, spec)

    def own_rungs(self, record: ModelRecord) -> list[Rung]:
        if record.rungs is None:
            record.rungs = self.work_out_rungs(record)
        return record.rungs

    def work_out_rungs(self, record: ModelRecord) -> list[Rung]:
        spec = record.spec
        back_s = partial(self.costs.raising, spec.name)
        prices, devices = self.policy.prices, spec.devices_per_replica
        return rungs(rests(prices, devices, spec.deepest, record.footprint, back_s))

    def _ladder_changed(self, record: ModelRecord) -> None:
        record.rungs = None
        if record.spec.sets_own_ladder:
            for replica in record.replicas:
                self.agenda.put(replica.id, self.due(replica))

    # drains

    def drain(self, replica: Replica, goal: Goal) -> None:
        replica.goal = goal
        if replica.phase is Phase.AWAKE:
            self.move(replica, Phase.DRAINING, f"to {goal.depth.name}: {goal}")
        else:
            replica.tell(self.now, replica.phase.name, f"now to {goal.depth.name}: {goal}")
            self.touch(replica)

    def call_off(self, replica: Replica, why: str) -> None:
        """It is awake again. An export that is under way goes on beside its requests; as what
        they add is not in it, its answer will be a late one."""
        replica.goal = replica.order = None
        self.move(replica, Phase.AWAKE, why)

    # requests

    def reject(
        self, request: RequestId, reason: RejectReason, detail: str, retry_s: float | None = None
    ) -> None:
        if request in self.backlog:
            self.backlog.remove(request)
        self.version += 1
        self.commands.append(RejectRequest(request, reason, detail, retry_s))

    def reject_all(self, model: ModelName, reason: RejectReason, detail: str) -> None:
        for waiting in self.backlog.of(model):
            self.reject(waiting.request, reason, detail)

    def refuse(self, model: ModelName, reason: RejectReason, why: str) -> None:
        """Whoever wants it awake is told that it cannot be."""
        self.reject_all(model, reason, why)
        self.models[model].wished_at = None
        for operation in self.operations.waking(model):
            self.finish(operation, why)

    # administrators' orders

    def finish(self, operation: Operation, error: str = "") -> None:
        self.operations.remove(operation)
        self.version += 1
        self.commands.append(FinishOperation(operation.id, error or operation.error))

    def retire(self, replica: Replica) -> None:
        replica.is_retiring = True
        self.touch(replica)

    def forget(self, replica: Replica) -> None:
        """Gone for good; with its last replica a removed model is gone too."""
        record = self.models[replica.model]
        record.replicas.remove(replica)
        del self.replicas[replica.id]
        self.agenda.put(replica.id, NEVER)
        if record.is_removed and not record.replicas:
            del self.models[record.spec.name]
            self.costs.forget(record.spec.name)
            self.popularity.forget(record.spec.name)
            self.tenants.forget(record.spec.name)
        self.version += 1

    def goal_of_retirement(self, replica: Replica) -> Goal:
        is_removed = self.models[replica.model].is_removed
        return Goal(Depth.STOPPED, Cause.REMOVED if is_removed else Cause.CHANGED)
