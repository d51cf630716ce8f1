"""What the fleet knows, and the moves that change it.

Each move writes one decision or one fact everywhere it belongs: phase, ledger, backlog, story,
and the list of commands. Observing and planning are made of these moves and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from controller.core import idle
from controller.core.agenda import Agenda
from controller.core.backlog import Backlog, Waiting
from controller.core.commands import (
    Command,
    ExportKV,
    FinishOperation,
    GrantLease,
    RejectRequest,
    SleepEngine,
    StartEngine,
    StopEngine,
    WakeEngine,
)
from controller.core.costs import CostTable, Took
from controller.core.events import RequestArrived
from controller.core.hours import in_hours
from controller.core.ledger import HOST, Ledger
from controller.core.lifecycle import (
    LEAVING,
    ON_THE_MOVE,
    RISING,
    SERVING,
    Action,
    Goal,
    Order,
    Phase,
    Place,
    Replica,
)
from controller.core.models import ModelRecord, backoff_s
from controller.core.names import (
    LONG_AGO,
    NEVER,
    NOTHING,
    Cause,
    Depth,
    FleetPolicy,
    Footprint,
    Instant,
    Ladder,
    ModelName,
    ModelState,
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
from controller.core.residuals import Residuals
from controller.core.tenants import Tenants
from controller.core.tier import Tier

MORE = 1.25
"""Of what was booked for an engine that ran out of memory."""
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
        self._touch_use(replica)
        self.version += 1

    def _touch_use(self, replica: Replica) -> None:
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

    def _learned(self, record: ModelRecord) -> None:
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

    # orders

    def order_start(self, replica: Replica, place: Place, why: str) -> None:
        self._reserve(replica, place, Depth.AWAKE)
        replica.place = place
        order = self._open(replica, Action.START, Depth.STOPPED)
        replica.incarnation = order.op
        replica.raised_at, replica.raised_from = self.now, Depth.STOPPED
        self.models[replica.model].is_unstarted = False
        self.move(replica, Phase.STARTING, why)
        self.commands.append(
            StartEngine(order.op, replica.id, replica.model, place.node, place.devices)
        )

    def order_wake(self, replica: Replica, why: str) -> None:
        assert replica.place is not None
        self._reserve(replica, replica.place, Depth.AWAKE)
        order = self._open(replica, Action.WAKE, replica.depth)
        replica.raised_at, replica.raised_from = self.now, replica.depth
        self.move(replica, Phase.WAKING, why)
        self.commands.append(WakeEngine(order.op, replica.id, replica.depth))

    def order_export(self, replica: Replica) -> None:
        order = self._open(replica, Action.EXPORT, Depth.AWAKE)
        self.move(replica, Phase.HIBERNATING, f"for {replica.goal}")
        self.commands.append(ExportKV(order.op, replica.id))

    def end_export(self, replica: Replica, why: str) -> None:
        replica.has_kv = False
        self.move(replica, Phase.DRAINING, why)

    def order_down(self, replica: Replica, goal: Goal) -> None:
        """To the goal's depth, from DRAINED, from ASLEEP, or (stopped) from FAILED."""
        assert replica.place is not None
        assert replica.incarnation is not None
        replica.prefixes.clear()
        if goal.depth is Depth.STOPPED:
            order = self._open(replica, Action.STOP, Depth.STOPPED)
            self.move(replica, Phase.STOPPING, str(goal))
            self.commands.append(
                StopEngine(order.op, replica.id, replica.incarnation, goal.cause, goal.whom)
            )
        else:
            self._reserve(replica, replica.place, goal.depth)
            order = self._open(replica, Action.SLEEP, goal.depth)
            self.move(replica, Phase.FALLING_ASLEEP, f"to {goal.depth.name}: {goal}")
            self.commands.append(
                SleepEngine(
                    order.op, replica.id, goal.depth, goal.cause, goal.whom, bool(replica.leases)
                )
            )

    def freeze(self, replica: Replica, depth: Depth) -> None:
        """From DRAINING, with its leases. What KV they have is dropped without an export: it is
        computed again, or found in the tier, when they go on."""
        goal = replica.goal
        assert goal is not None
        replica.frozen_at, replica.has_kv, replica.goal = self.now, False, None
        self.move(replica, Phase.DRAINED, f"frozen with {len(replica.leases)} running: {goal}")
        self.order_down(replica, Goal(depth, goal.cause, goal.whom))

    def _open(self, replica: Replica, action: Action, depth: Depth) -> Order:
        patience_s = self.costs.patience_s(replica.model, action, depth)
        until = Instant(self.now + patience_s)
        replica.order = Order(self.new_op(), action, depth, self.now, until)
        return replica.order

    def _reserve(self, replica: Replica, place: Place, depth: Depth) -> None:
        union = replica.held.union(self.footprint(replica, depth))
        self.ledger.reserve(replica, place, union)

    def close_order(self, replica: Replica) -> Order:
        """It was answered well: what it took is learned."""
        order = replica.order
        assert order is not None
        replica.order = None
        if not replica.is_retiring:
            self.costs.learn(replica.model, order.action, order.depth, self.now - order.at)
            self._learned(self.models[replica.model])
        return order

    def settle(self, replica: Replica, held: Footprint, depth: Depth) -> None:
        """Measured: that is what it holds, and what its like will be booked at."""
        assert replica.place is not None
        replica.held = held
        replica.depth = depth
        if not replica.is_retiring:
            self.models[replica.model].measured[depth] = held
            self._learned(self.models[replica.model])
        self.ledger.settle(replica, replica.place, held)

    def remember(
        self,
        record: ModelRecord,
        took: Iterable[Took],
        held: Iterable[tuple[Depth, Footprint]],
    ) -> None:
        """From before this run; what it measured itself stays."""
        for one in took:
            self.costs.remember(record.spec.name, one)
        for depth, footprint in held:
            record.measured.setdefault(depth, footprint)
        self.touch_model(record)

    def note_residual(self, replica: Replica, depth: Depth) -> None:
        """It has just fallen asleep there."""
        residuals = replica.residuals.setdefault(depth, Residuals())
        residuals.note(replica.held.device_bytes)
        growth = residuals.growth_bytes
        if growth > self.policy.residual_growth_bytes and replica.id not in self.leaking:
            self.leaking[replica.id] = replica
            what = f"leaks: at {depth.name} it keeps {growth >> 20} MiB more than at first"
            replica.tell(self.now, what, "to be restarted when all is quiet")
            self.version += 1

    def lay_down(self, replica: Replica) -> None:
        """Nothing is left of its engine."""
        replica.residuals = {}
        self.leaking.pop(replica.id, None)
        self.reliefs.forget(replica)
        if replica.place is not None:
            self.ledger.release(replica, replica.place)
        replica.held, replica.place, replica.depth = NOTHING, None, Depth.STOPPED
        replica.incarnation = replica.order = replica.goal = None
        replica.has_kv = False
        replica.prefixes.clear()
        replica.stop_failures = 0

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

    # failures

    def starve(self, replica: Replica, reason: str) -> None:
        """It ran out of memory: what it needs is more than was booked. That is learned, and as
        long as there is more to be booked nobody is to blame."""
        record, place = self.models[replica.model], replica.place
        assert place is not None
        known = self.footprint(replica, Depth.AWAKE)
        most = min([self.ledger.named.get(place.node, {}).get(d, 0) for d in place.devices])
        need = min(most, int(known.device_bytes * MORE) + 1)
        can_grow = replica.phase in RISING and need > known.device_bytes
        failures = record.failures
        self.fail(replica, reason)
        if can_grow and not replica.is_retiring:
            record.need = Footprint(need, known.host_bytes)
            record.failures = failures
            self._learned(record)
            replica.tell(self.now, f"{need >> 20} MiB will be booked for it", reason)

    def fail(self, replica: Replica, reason: str) -> None:
        """Its engine is broken: the bytes stay, the leases are nobody's until released."""
        record = self.models[replica.model]
        is_stop = replica.phase is Phase.STOPPING
        was_awake = replica.phase in (Phase.AWAKE, *LEAVING)
        replica.bury_at = self.now
        if is_stop:
            replica.stop_failures += 1
            wait = backoff_s(self.policy.restart_backoff_s, replica.stop_failures)
            replica.bury_at = Instant(self.now + wait)
        else:
            self._count_failure(record, replica, reason)
        replica.order = replica.goal = None
        replica.drop_leases()
        replica.has_kv = False
        self.move(replica, Phase.FAILED, reason)
        if record.spec.pinned and was_awake:
            self.wish(record)
        for operation in self.operations:
            if replica.id in operation.demoting and operation.depth is not Depth.STOPPED:
                operation.error = f"{replica.id} failed and is being stopped: {reason}"

    def _count_failure(self, record: ModelRecord, replica: Replica, reason: str) -> None:
        was_stable = (
            replica.phase is not Phase.STARTING
            and self.now - replica.up_since >= self.policy.stable_after_s
        )
        record.failures = 1 if was_stable else record.failures + 1
        wait = backoff_s(self.policy.restart_backoff_s, record.failures)
        record.retry_at = Instant(self.now + wait)
        record.last_error = reason
        self.failing[record.spec.name] = None
        record.is_unstarted = False

    # requests

    def grant(self, asked: Waiting | RequestArrived, replica: Replica, arrived: Instant) -> None:
        """To one who does not stand in the backlog any more."""
        was_idle = not replica.leases
        replica.leases[asked.request] = self.now
        if not asked.can_freeze:
            replica.never_frozen[asked.request] = None
        self.leased[asked.request] = replica.id
        self.tenants.begin(asked.request, asked.model, asked.tenant)
        spec = self.models[replica.model].spec
        replica.has_kv = spec.keeps_kv
        if spec.replicas > 1:
            replica.prefixes.served(asked.affinity.prefix)
        state, wake_s = ModelState.AWAKE, 0.0
        if replica.awake_since > arrived:
            is_cold = replica.raised_from is Depth.STOPPED
            state = ModelState.COLD if is_cold else ModelState.WOKEN
            wake_s = replica.awake_since - max(arrived, replica.raised_at)
        self.version += 1
        if was_idle:
            self._touch_use(replica)
            self._wanted(self.models[replica.model])
        self.commands.append(
            GrantLease(asked.request, replica.id, state, self.now - arrived, wake_s)
        )

    def _wanted(self, record: ModelRecord) -> None:
        if self.popularity.count(record.spec.name, self.now):
            self.reliefs.forget_uses()
        for replica in record.replicas:
            self.reliefs.forget_use(replica)

    def keep(self, request: RequestId, holder: ReplicaId, can_freeze: bool) -> None:
        """A lease that was not granted here; of a replica that cannot serve it is nobody's. On
        one that sleeps, or wakes, it can only be a frozen one."""
        replica = self.replicas.get(holder)
        if request in self.leased or replica is None:
            return
        is_frozen = replica.phase in (Phase.ASLEEP, Phase.WAKING)
        if replica.phase not in SERVING and not is_frozen:
            return
        if is_frozen and not replica.leases:
            replica.frozen_at = self.now
        if not (is_frozen or can_freeze):
            replica.never_frozen[request] = None
        self.leased[request] = holder
        self.version += 1
        was_idle = not replica.leases
        replica.leases[request] = self.now
        if was_idle:
            self._touch_use(replica)

    def release(self, request: RequestId) -> None:
        holder = self.leased.pop(request, None)
        self.tenants.end(request)
        replica = self.replicas.get(holder) if holder is not None else None
        if replica is not None and replica.leases.pop(request, None) is not None:
            replica.never_frozen.pop(request, None)
            replica.idle_since = self.now
            self.version += 1
            if not replica.leases:
                self._touch_use(replica)
            record = self.models[replica.model]
            if record.spec.least_replicas > 1:
                self._used_together(record)

    def _used_together(self, record: ModelRecord) -> None:
        for replica in record.kept():
            if not replica.leases:
                replica.idle_since = self.now
                self._touch_use(replica)

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
