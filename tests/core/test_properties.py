"""Any order of events: check(fleet) holds after each, and repetitions change nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
from controller.core.costs import Took
from controller.core.events import (
    CanaryDisagreed,
    CostsFound,
    DemotionOrdered,
    EngineFailed,
    EngineFellAsleep,
    EngineFound,
    EngineLost,
    EngineStarted,
    EngineStopped,
    EngineWoke,
    Event,
    KVExported,
    KVExportFailed,
    LeaseFound,
    LeaseReleased,
    ModelAdded,
    ModelChanged,
    ModelRemoved,
    NodeLost,
    PinOrdered,
    RanOutOfMemory,
    RegimeBegan,
    RequestArrived,
    RequestCancelled,
    SwitchOrdered,
    TimePassed,
    WakeOrdered,
)
from controller.core.fleet import Fleet
from controller.core.invariants import check
from controller.core.lifecycle import Action, Phase
from controller.core.names import (
    NO_AFFINITY,
    Affinity,
    Depth,
    DeviceId,
    Footprint,
    Instant,
    Limits,
    ModelName,
    NodeId,
    OperationId,
    OpId,
    OrderTimes,
    Prices,
    Priority,
    Regime,
    ReplicaId,
    RequestId,
    Schedule,
)
from controller.core.own_ladder import GIB
from tests.core.fleets import ladder, node, policy, sizes, spec, to_be_had

Order = StartEngine | ExportKV | SleepEngine | WakeEngine | StopEngine
RISES = (StartEngine, WakeEngine)
MODELS = st.sampled_from([ModelName(name) for name in "abcd"])
DEPTHS = st.sampled_from([Depth.KV_RELEASED, Depth.LEVEL_1, Depth.LEVEL_2, Depth.STOPPED])
NODES = st.sampled_from(["n", "m"])
AFFINITIES = (NO_AFFINITY, Affinity(ReplicaId("c#1")), Affinity(None, (1, 2)))


def specs(name: str, awake: int, **more: Any) -> Any:
    return spec(name, awake, ladder=ladder(5.0, 10.0, 20.0, 40.0), max_wait_s=30.0, **more)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.policy = policy(
            backlog_limit=6,
            busy_leases=2,
            minimum_awake_s=3.0,
            maximum_wait_behind_s=2.0,
            most_sleepers=1,
            tenant_limits=Limits(running=3, waiting=4),
            residual_growth_bytes=2,
            times=OrderTimes(3.0, 2.0, 4.0, 9.0, 5.0, 8.0, 8.0, 6.0),
            prices=Prices(1.0 * GIB, 0.1 * GIB, 10.0),
        )
        self.fleet = Fleet(self.policy)
        self.now = 0.0
        self.journal: list[tuple[Event, list[Command]]] = []
        self.open: dict[OpId, Order] = {}
        self.answered: list[Event] = []
        self.arrived: Counter[RequestId] = Counter()
        self.outcomes: Counter[RequestId] = Counter()
        self.operations: Counter[OperationId] = Counter()
        self.count = self.freezes = 0
        for one in (
            specs("a", 10, keeps_kv=True),
            specs("b", 14, deepest=Depth.LEVEL_2, schedule=Schedule("UTC", asleep_after_s=1.0)),
            specs("c", 6, replicas=2, keeps_kv=True, sets_own_ladder=True),
            specs("d", 7, devices_per_replica=2, max_restarts=2),
        ):
            self.feed(ModelAdded(self.time, one))
        self.feed(node(0.0, "n", 2, 17, 20))

    @property
    def time(self) -> Instant:
        return Instant(self.now)

    def feed(self, event: Event) -> list[Command]:
        commands = self.fleet.handle(event)
        self.journal.append((event, commands))
        for command in commands:
            match command:
                case GrantLease(request=request) | RejectRequest(request=request):
                    self.outcomes[request] += 1
                    assert self.outcomes[request] <= self.arrived[request]
                case FinishOperation(operation=operation):
                    self.operations[operation] += 1
                    assert self.operations[operation] == 1
                case StartEngine() | ExportKV() | SleepEngine() | WakeEngine() | StopEngine():
                    assert command.op not in self.open
                    self._leaves_nobody_behind(command)
                    self.open[command.op] = command
        return commands

    def _leaves_nobody_behind(self, order: Order) -> None:
        """Requests run on through no order but a freeze and what follows one."""
        replica = self.fleet.replicas.get(order.replica)
        leases = replica.leases if replica is not None else {}
        match order:
            case SleepEngine(keep=keep):
                assert keep == bool(leases)
                self.freezes += keep
            case StopEngine(incarnation=old) if replica and replica.incarnation != old:
                pass
            case ExportKV() | StopEngine() | StartEngine():
                assert not leases
            case WakeEngine():
                pass

    @invariant()
    def all_holds(self) -> None:
        check(self.fleet)

    # the world

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self.fleet.next_deadline()) <= end:
            assert at > self.now, "a deadline that does not go away"
            self.now = at
            self.feed(TimePassed(at))
            check(self.fleet)
        self.now = end
        self.feed(TimePassed(self.time))

    def _take(self, pick: int) -> Order:
        self.now += 0.1
        ops = list(self.open)
        return self.open.pop(ops[pick % len(ops)])

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 9), more=st.sampled_from([0, 0, 0, 1, 5]))
    def an_order_succeeds(self, pick: int, more: int) -> None:
        """Perhaps holding more than was estimated."""
        order = self._take(pick)
        replica = self.fleet.replicas.get(order.replica)
        awake = 10
        if replica is not None:
            footprints = self.fleet.models[replica.model].spec.footprints
            awake = footprints.get(Depth.AWAKE, Footprint(10)).device_bytes
        held, at = sizes(awake), self.time
        event: Event
        match order:
            case StartEngine(op=op, replica=name):
                event = EngineStarted(at, op, name, Footprint(awake + more))
            case WakeEngine(op=op, replica=name):
                event = EngineWoke(at, op, name, Footprint(awake + more))
            case ExportKV(op=op, replica=name):
                event = KVExported(at, op, name)
            case SleepEngine(op=op, replica=name, depth=depth):
                left = Footprint(held[depth].device_bytes + more, held[depth].host_bytes)
                event = EngineFellAsleep(at, op, name, left)
            case StopEngine(op=op, replica=name):
                event = EngineStopped(at, op, name)
        self.feed(event)
        self.answered.append(event)

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 9))
    def an_order_fails(self, pick: int) -> None:
        order = self._take(pick)
        kind = KVExportFailed if isinstance(order, ExportKV) else EngineFailed
        event = kind(self.time, order.op, order.replica, "broke")
        self.feed(event)
        self.answered.append(event)

    @precondition(lambda self: any(isinstance(o, RISES) for o in self.open.values()))
    @rule()
    def memory_runs_out(self) -> None:
        order = next(o for o in self.open.values() if isinstance(o, RISES))
        del self.open[order.op]
        event = RanOutOfMemory(self.time, order.op, order.replica, "too little is there")
        self.feed(event)
        self.answered.append(event)

    @precondition(lambda self: any(isinstance(o, WakeEngine) for o in self.open.values()))
    @rule()
    def the_canary_disagrees(self) -> None:
        order = next(o for o in self.open.values() if isinstance(o, WakeEngine))
        del self.open[order.op]
        event = CanaryDisagreed(self.time, order.op, order.replica, "other tokens")
        self.feed(event)
        self.answered.append(event)

    @rule(pick=st.integers(0, 9))
    def an_engine_dies(self, pick: int) -> None:
        running = [r for r in self.fleet.replicas.values() if r.incarnation is not None]
        if running:
            replica = running[pick % len(running)]
            assert replica.incarnation is not None
            self.feed(EngineLost(self.time, replica.id, replica.incarnation, "killed"))

    @precondition(lambda self: self.answered)
    @rule(pick=st.integers(0, 99))
    def an_answer_comes_again(self, pick: int) -> None:
        before = [(r.id, r.phase, r.held, r.order) for r in self.fleet.replicas.values()]
        assert self.feed(self.answered[pick % len(self.answered)]) == []
        assert before == [(r.id, r.phase, r.held, r.order) for r in self.fleet.replicas.values()]

    @rule(pick=st.integers(0, 9))
    def another_incarnation_dies(self, pick: int) -> None:
        running = [r for r in self.fleet.replicas.values() if r.incarnation is not None]
        if running:
            replica = running[pick % len(running)]
            assert self.feed(EngineLost(self.time, replica.id, OpId(-1), "long ago")) == []

    @rule(name=NODES, size=st.sampled_from([9, 17, 30]), host=st.sampled_from([0, 20]))
    def a_node_joins(self, name: str, size: int, host: int) -> None:
        self.feed(node(self.now, name, 2, size, host))

    @rule(name=NODES, size=st.sampled_from([0, 6, 12, 30]), host=st.sampled_from([0, 8, 100]))
    def others_take_memory_or_give_it_back(self, name: str, size: int, host: int) -> None:
        self.feed(to_be_had(self.now, name, 2, size, host))

    @rule(name=NODES)
    def a_node_is_lost(self, name: str) -> None:
        self.feed(NodeLost(self.time, NodeId(name)))

    @rule(model=st.sampled_from("aez"), depth=st.sampled_from([Depth.AWAKE, Depth.LEVEL_1]))
    def an_engine_is_found(self, model: str, depth: Depth) -> None:
        self.count += 1
        name, old = ReplicaId(f"{model}#0"), OpId(100_000 + self.count)
        place = (NodeId("n"), (DeviceId("0"),))
        held = Footprint(6) if depth is Depth.AWAKE else Footprint(1, 6)
        self.feed(EngineFound(self.time, name, ModelName(model), old, depth, *place, held))

    @rule(
        model=MODELS,
        action=st.sampled_from(Action),
        seconds=st.sampled_from([0.1, 30.0]),
        awake=st.sampled_from([5, 16, 40]),
    )
    def costs_are_found(self, model: ModelName, action: Action, seconds: float, awake: int) -> None:
        took = Took(action, Depth.LEVEL_1, (seconds,))
        self.feed(CostsFound(self.time, model, (took,), ((Depth.AWAKE, Footprint(awake)),)))

    # people

    @rule(
        model=MODELS,
        wait=st.sampled_from([None, 0.0, 3.0, 60.0]),
        pick=st.integers(0, 9),
        tenant=st.sampled_from("xy"),
        priority=st.sampled_from(Priority),
        affinity=st.sampled_from(AFFINITIES),
        can_freeze=st.sampled_from([True, True, True, False]),
    )
    def a_request_arrives(
        self,
        model: ModelName,
        wait: float | None,
        pick: int,
        tenant: str,
        priority: Priority,
        affinity: Affinity,
        can_freeze: bool,
    ) -> None:
        request = RequestId(f"r{pick}")
        books = self.fleet.books
        if request not in books.leased and request not in books.backlog:
            self.arrived[request] += 1
        self.feed(
            RequestArrived(self.time, request, model, wait, tenant, priority, affinity, can_freeze)
        )

    @rule(answers=st.integers(0, 6), pick=st.integers(0, 9))
    def a_long_response_is_in_the_way(self, answers: int, pick: int) -> None:
        """And perhaps comes to be frozen: by themselves these steps seldom meet."""
        for number, name in enumerate("abd"):
            request = (pick + number) % 10
            self.a_request_arrives(
                ModelName(name), None, request, name, Priority.DEFAULT, NO_AFFINITY, True
            )
            for _ in range(4 if name != "d" else 0):
                if self.open:
                    self.an_order_succeeds(0, 0)
        self.time_passes(7.0)
        for _ in range(answers):
            if self.open:
                self.an_order_succeeds(0, 0)

    @rule(pick=st.integers(0, 9), model=MODELS)
    def a_lease_is_found(self, pick: int, model: ModelName) -> None:
        """Of a carrier that outlived a controller; a sleeper's is frozen."""
        request = RequestId(f"kept{pick}")
        self.feed(LeaseFound(self.time, request, ReplicaId(f"{model}#0")))

    @precondition(lambda self: self.fleet.books.frozen)
    @rule(pick=st.integers(0, 9))
    def a_frozen_engine_dies(self, pick: int) -> None:
        frozen = list(self.fleet.books.frozen.values())
        replica = frozen[pick % len(frozen)]
        assert replica.incarnation is not None
        self.feed(EngineLost(self.time, replica.id, replica.incarnation, "killed"))

    @precondition(lambda self: self.fleet.books.frozen)
    @rule(pick=st.integers(0, 9))
    def a_frozen_client_goes_away(self, pick: int) -> None:
        frozen = list(self.fleet.books.frozen.values())
        leases = list(frozen[pick % len(frozen)].leases)
        self.feed(RequestCancelled(self.time, leases[pick % len(leases)]))

    @rule(pick=st.integers(0, 9))
    def a_response_ends(self, pick: int) -> None:
        leased = list(self.fleet.books.leased)
        if leased:
            self.feed(LeaseReleased(self.time, leased[pick % len(leased)]))

    @rule(pick=st.integers(0, 9))
    def a_client_goes_away(self, pick: int) -> None:
        request = RequestId(f"r{pick}")
        if request in self.fleet.books.backlog:
            self.outcomes[request] += 1
        self.feed(RequestCancelled(self.time, request))

    def _operation(self) -> OperationId:
        self.count += 1
        return OperationId(f"o{self.count}")

    @rule(model=MODELS)
    def a_wake_is_ordered(self, model: ModelName) -> None:
        self.feed(WakeOrdered(self.time, self._operation(), model))

    @rule(model=MODELS, depth=DEPTHS)
    def a_demotion_is_ordered(self, model: ModelName, depth: Depth) -> None:
        self.feed(DemotionOrdered(self.time, self._operation(), model, depth))

    @rule(wanted=MODELS, source=MODELS, is_any=st.booleans(), depth=DEPTHS)
    def a_switch_is_ordered(
        self, wanted: ModelName, source: ModelName, is_any: bool, depth: Depth
    ) -> None:
        chosen = None if is_any else source
        self.feed(SwitchOrdered(self.time, self._operation(), wanted, chosen, depth))

    @rule(model=MODELS, pinned=st.booleans())
    def a_pin_is_ordered(self, model: ModelName, pinned: bool) -> None:
        self.feed(PinOrdered(self.time, model, pinned))

    @rule(model=MODELS, regime=st.sampled_from(Regime))
    def hours_begin(self, model: ModelName, regime: Regime) -> None:
        self.feed(RegimeBegan(self.time, model, regime))

    @rule(
        model=MODELS, awake=st.integers(4, 20), replicas=st.integers(1, 2), has_backup=st.booleans()
    )
    def a_model_is_added_or_changed(
        self, model: ModelName, awake: int, replicas: int, has_backup: bool
    ) -> None:
        least = replicas if has_backup else 1
        changed = specs(model, awake, replicas=replicas, least_replicas=least)
        if model in self.fleet.models:
            self.feed(ModelChanged(self.time, changed, restart=awake % 2 == 0))
        else:
            self.feed(ModelAdded(self.time, changed))

    @rule(model=MODELS)
    def a_model_is_removed(self, model: ModelName) -> None:
        self.feed(ModelRemoved(self.time, model))

    def teardown(self) -> None:
        self._comes_to_rest()
        replayed = Fleet(self.policy)
        for event, commands in self.journal:
            assert replayed.handle(event) == commands

    def _comes_to_rest(self) -> None:
        """From here on all goes well: every request and every order is answered."""
        for _ in range(2000):
            if self.open:
                self.an_order_succeeds(0, 0)
            elif running := self._running():
                self.feed(LeaseReleased(self.time, running[0]))
            elif self.fleet.next_deadline() < float("inf"):
                self.now = self.fleet.next_deadline()
                self.feed(TimePassed(self.time))
            else:
                break
            check(self.fleet)
        self._frozen_come_back()
        assert not self.fleet.waiting()
        assert not len(self.fleet.books.operations)
        assert self.arrived == +self.outcomes
        restless = (Phase.FAILED, Phase.DRAINING)
        assert not any(r.phase in restless for r in self.fleet.replicas.values())

    def _running(self) -> list[RequestId]:
        """Those that can end; also of engines that are gone."""
        frozen = self.fleet.books.frozen.values()
        suspended = {request for replica in frozen for request in replica.leases}
        return [request for request in self.fleet.books.leased if request not in suspended]

    def _frozen_come_back(self) -> None:
        """But where what is pinned, or the budget, leaves no room for them."""
        pinned = [record for record in self.fleet.models.values() if record.spec.pinned]
        assert pinned or not self.fleet.ledger.budgets or not self.fleet.books.frozen


AnyOrder.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
TestAnyOrder = AnyOrder.TestCase
