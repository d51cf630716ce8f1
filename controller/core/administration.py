"""What people order: models come, change and go; wake, sleep, stop, switch, pin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.core.books import Books
from controller.core.commands import FinishOperation
from controller.core.events import (
    DemotionOrdered,
    PinOrdered,
    RegimeBegan,
    SwitchOrdered,
    WakeOrdered,
)
from controller.core.lifecycle import LEAVING, Phase, Replica
from controller.core.models import ModelRecord
from controller.core.names import (
    LONG_AGO,
    NOTHING,
    Cause,
    ModelName,
    ModelSpec,
    OperationId,
    Regime,
    RejectReason,
    ReplicaId,
)
from controller.core.operations import Operation, rests_at
from controller.core.routing import is_served


def add_model(books: Books, spec: ModelSpec) -> None:
    """A name that is known already: as if it had been changed, with a restart."""
    record = books.models.get(spec.name)
    if record is not None:
        record.is_removed = False
        change_model(books, spec, restart=True)
        return
    record = ModelRecord(spec, is_unstarted=books.policy.prefetch_start)
    books.add(record)
    _resize(books, record)
    books.version += 1


def change_model(books: Books, spec: ModelSpec, restart: bool) -> None:
    record = books.models.get(spec.name)
    if record is None or record.is_removed:
        return
    record.spec = spec
    if restart:
        was_awake = any(r.phase is Phase.AWAKE for r in record.replicas)
        if was_awake and not record.is_given_up:
            books.wish(record)
        record.measured.clear()
        books.costs.forget(spec.name)
        record.need = NOTHING
        record.failures, record.retry_at = 0, LONG_AGO
        _retire(books, record.replicas)
    _resize(books, record)
    books.touch_model(record)


def remove_model(books: Books, model: ModelName) -> None:
    record = books.models.get(model)
    if record is None or record.is_removed:
        return
    record.is_removed = True
    record.wished_at = None
    record.is_unstarted = False
    books.reject_all(model, RejectReason.MODEL_REMOVED, f"{model} was removed")
    for operation in books.operations:
        if model in (operation.waking, operation.demoted):
            books.finish(operation, f"{model} was removed")
    _retire(books, record.replicas)


def _resize(books: Books, record: ModelRecord) -> None:
    """As many replicas as the specification says; those too many retire."""
    spec = record.spec
    known = {replica.index for replica in record.replicas}
    for index in range(spec.replicas):
        if index not in known:
            name = ReplicaId(f"{spec.name}#{index}")
            replica = Replica(name, spec.name, index, since=books.now)
            record.replicas.append(replica)
            books.replicas[name] = replica
    surplus = [replica for replica in record.replicas if replica.index >= spec.replicas]
    _retire(books, surplus)


def _retire(books: Books, replicas: Sequence[Replica]) -> None:
    for replica in replicas:
        books.retire(replica)
        if replica.phase in LEAVING:
            books.drain(replica, books.goal_of_retirement(replica))


def pin(books: Books, event: PinOrdered) -> None:
    """A drain for another's sake is called off when its model is pinned."""
    record = books.models.get(event.model)
    if record is None:
        return
    record.spec = replace(record.spec, pinned=event.pinned)
    books.touch_model(record)
    for replica in record.replicas:
        goal = replica.goal
        if event.pinned and goal is not None and goal.cause is Cause.EVICTED:
            books.call_off(replica, "pinned")


def begin_regime(books: Books, event: RegimeBegan) -> None:
    """A wish, where it is to be awake: it may evict the idle for as long as a wish is kept."""
    record = books.models.get(event.model)
    if record is None or record.is_removed or record.regime is event.regime:
        return
    record.regime, record.keeps_hours = event.regime, True
    if record.is_due_awake and not is_served(record.replicas):
        books.wish(record)
    for replica in record.replicas:
        replica.tell(books.now, f"{event.regime.name} hours", "by its schedule")
    books.touch_model(record)


def order_wake(books: Books, event: WakeOrdered) -> None:
    operation = Operation(event.operation, books.now, waking=event.model)
    if _is_known(books, operation.id, event.model):
        _begin_waking(books, operation)


def order_demotion(books: Books, event: DemotionOrdered) -> None:
    operation = Operation(event.operation, books.now, event.depth, demoted=event.model)
    if _is_known(books, operation.id, event.model):
        _begin_demoting(books, operation)


def order_switch(books: Books, event: SwitchOrdered) -> None:
    """One operation that demotes and wakes; without a source, eviction names the victim."""
    operation = Operation(
        event.operation, books.now, event.depth, waking=event.target, demoted=event.source
    )
    if event.source == event.target:
        _refuse(books, operation.id, "source and target are the same model")
    elif _is_known(books, operation.id, event.target, event.source):
        _begin_waking(books, operation)
        if event.source is not None:
            _begin_demoting(books, operation)


def _is_known(books: Books, operation: OperationId, *models: ModelName | None) -> bool:
    """Whether there are such models; if not, the operation ends here. An id that is being
    carried out is a double and ignored."""
    if operation in books.operations:
        return False
    for model in models:
        if model is not None and (model not in books.models or books.models[model].is_removed):
            _refuse(books, operation, f"no model {model}")
            return False
    return True


def _refuse(books: Books, operation: OperationId, error: str) -> None:
    if operation not in books.operations:
        books.commands.append(FinishOperation(operation, error))


def _begin_waking(books: Books, operation: Operation) -> None:
    model = operation.waking
    assert model is not None
    record = books.models[model]
    record.failures, record.retry_at = 0, LONG_AGO
    _keep_hours(books, record, True)
    for earlier in books.operations.demoting(model):
        books.finish(earlier, f"called off by {operation.id}")
    for replica in record.replicas:
        goal = replica.goal
        if goal is not None and goal.cause is Cause.ORDERED and not replica.is_retiring:
            books.call_off(replica, f"called off by {operation.id}")
    books.operations.add(operation)
    books.version += 1


def _begin_demoting(books: Books, operation: Operation) -> None:
    model = operation.demoted
    assert model is not None
    record = books.models[model]
    for earlier in books.operations.waking(model):
        if earlier is not operation:
            books.finish(earlier, f"called off by {operation.id}")
    record.wished_at = None
    record.is_unstarted = False
    _keep_hours(books, record, record.regime is not Regime.AWAKE)
    operation.demoting = dict.fromkeys(
        replica.id for replica in record.replicas if not rests_at(replica, operation.depth)
    )
    if operation.id not in books.operations:
        books.operations.add(operation)
    books.version += 1


def _keep_hours(books: Books, record: ModelRecord, keeps: bool) -> None:
    if record.keeps_hours is not keeps:
        record.keeps_hours = keeps
        books.touch_model(record)
