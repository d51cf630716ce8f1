"""What happened, written into the books. Nothing is decided here.

An answer whose op is not the open one of its replica is dropped in ``_answered``; what is said
of another incarnation, in ``_lost`` and ``_found``.
"""

from __future__ import annotations

from typing import assert_never

from controller.core import events as e
from controller.core import tiers
from controller.core.administration import (
    add_model,
    begin_regime,
    change_model,
    order_demotion,
    order_switch,
    order_wake,
    pin,
    remove_model,
)
from controller.core.admission import admit, turn_away_hopeless
from controller.core.books import Books
from controller.core.commands import StopEngine
from controller.core.failures import fail, starve
from controller.core.holding import lay_down, note_residual, remember, settle
from controller.core.leases import keep_lease, release_lease
from controller.core.ledger import HOST
from controller.core.lifecycle import Action, InvariantBroken, Phase, Place, Replica
from controller.core.models import ModelRecord
from controller.core.names import LONG_AGO, Cause, Depth, Footprint, ModelSpec
from controller.core.orders import close_order, end_export

Answer = (
    e.EngineStarted
    | e.KVExported
    | e.KVExportFailed
    | e.EngineFellAsleep
    | e.EngineWoke
    | e.EngineStopped
    | e.CanaryDisagreed
    | e.RanOutOfMemory
    | e.EngineFailed
)
Ordered = e.WakeOrdered | e.DemotionOrdered | e.SwitchOrdered | e.PinOrdered
Catalogued = e.ModelAdded | e.ModelChanged | e.ModelRemoved


def observe(books: Books, event: e.Event) -> None:
    match event:
        case e.TimePassed():
            pass
        case e.RequestArrived():
            admit(books, event)
        case e.RequestCancelled():
            _cancelled(books, event)
        case e.LeaseReleased():
            release_lease(books, event.request)
        case e.LeaseFound():
            keep_lease(books, event.request, event.replica, event.can_freeze)
        case (
            e.EngineStarted()
            | e.KVExported()
            | e.KVExportFailed()
            | e.EngineFellAsleep()
            | e.EngineWoke()
            | e.EngineStopped()
            | e.CanaryDisagreed()
            | e.RanOutOfMemory()
            | e.EngineFailed()
        ):
            _answered(books, event)
        case e.EngineLost():
            _lost(books, event, "died")
        case e.EngineHung():
            _lost(books, event, "hung")
        case e.EngineFound():
            _found(books, event)
        case e.CostsFound():
            _costs_found(books, event)
        case e.NodeJoined():
            books.ledger.join(event.node, event.devices, event.host_bytes)
        case e.BudgetMeasured():
            books.ledger.measure(event.node, {**dict(event.devices), HOST: event.host_bytes})
        case e.TierMeasured():
            tiers.measure(books, event)
        case e.TierResized() | e.TierNotResized():
            tiers.resized(books, event)
        case e.NodeLost():
            _node_lost(books, event)
        case e.ModelAdded() | e.ModelChanged() | e.ModelRemoved():
            _catalogued(books, event)
        case e.RegimeBegan():
            begin_regime(books, event)
        case e.WakeOrdered() | e.DemotionOrdered() | e.SwitchOrdered() | e.PinOrdered():
            _ordered(books, event)
        case _:
            raise InvariantBroken(f"an event without a meaning: {event}")


def _catalogued(books: Books, event: Catalogued) -> None:
    match event:
        case e.ModelAdded(spec=spec):
            add_model(books, spec)
        case e.ModelChanged(spec=spec, restart=restart):
            change_model(books, spec, restart)
        case e.ModelRemoved(model=model):
            remove_model(books, model)
        case _:
            assert_never(event)


def _ordered(books: Books, event: Ordered) -> None:
    match event:
        case e.WakeOrdered():
            order_wake(books, event)
        case e.DemotionOrdered():
            order_demotion(books, event)
        case e.SwitchOrdered():
            order_switch(books, event)
        case e.PinOrdered():
            pin(books, event)
        case _:
            assert_never(event)


def _cancelled(books: Books, event: e.RequestCancelled) -> None:
    if event.request in books.backlog:
        books.backlog.remove(event.request)
        books.version += 1
    else:
        release_lease(books, event.request)


ANSWERS = {
    Action.START: (e.EngineStarted, e.CanaryDisagreed, e.RanOutOfMemory, e.EngineFailed),
    Action.EXPORT: (e.KVExported, e.KVExportFailed),
    Action.SLEEP: (e.EngineFellAsleep, e.RanOutOfMemory, e.EngineFailed),
    Action.WAKE: (e.EngineWoke, e.CanaryDisagreed, e.RanOutOfMemory, e.EngineFailed),
    Action.STOP: (e.EngineStopped, e.EngineFailed),
}


def _answered(books: Books, event: Answer) -> None:
    replica = books.replicas.get(event.replica)
    if replica is None or replica.order is None or replica.order.op != event.op:
        return
    if not isinstance(event, ANSWERS[replica.order.action]):
        raise InvariantBroken(f"{event} does not answer {replica.order}", replica)
    match event:
        case e.EngineStarted():
            replica.up_since = books.now
            _awoke(books, replica, event.held, "started")
        case e.EngineWoke():
            _awoke(books, replica, event.held, "woke, the canary agreed")
        case e.KVExported():
            close_order(books, replica)
            end_export(books, replica, "its KV is exported")
        case e.KVExportFailed():
            replica.order = None
            end_export(books, replica, f"its KV is lost: {event.reason}")
        case e.EngineFellAsleep():
            order = close_order(books, replica)
            settle(books, replica, event.held, order.depth)
            books.move(replica, Phase.ASLEEP, f"at {order.depth.name}")
            note_residual(books, replica, order.depth)
        case e.EngineStopped():
            close_order(books, replica)
            lay_down(books, replica)
            books.move(replica, Phase.COLD, "every process is gone")
        case e.CanaryDisagreed():
            books.models[replica.model].canary_failures += 1
            _failed(books, replica, f"the canary disagreed: {event.reason}")
        case e.RanOutOfMemory():
            starve(books, replica, f"out of memory: {event.reason}")
            turn_away_hopeless(books, replica.model)
        case e.EngineFailed():
            _failed(books, replica, event.reason)
        case _:
            assert_never(event)


def _awoke(books: Books, replica: Replica, held: Footprint, why: str) -> None:
    close_order(books, replica)
    held = held if replica.is_retiring else held.union(books.models[replica.model].need)
    settle(books, replica, held, Depth.AWAKE)
    replica.awake_since = replica.idle_since = books.now
    if replica.leases:
        replica.has_kv = books.models[replica.model].spec.keeps_kv
        why += f", {len(replica.leases)} frozen go on"
    if not replica.is_retiring:
        books.models[replica.model].wished_at = None
    books.move(replica, Phase.AWAKE, why)


def _failed(books: Books, replica: Replica, reason: str) -> None:
    fail(books, replica, reason)
    turn_away_hopeless(books, replica.model)


def _lost(books: Books, event: e.EngineLost | e.EngineHung, how: str) -> None:
    replica = books.replicas.get(event.replica)
    if replica is None or replica.incarnation != event.incarnation:
        return
    if replica.phase in (Phase.FAILED, Phase.STOPPING):
        return
    _failed(books, replica, f"{how}: {event.reason}")


def _node_lost(books: Books, event: e.NodeLost) -> None:
    """Its replicas are cold; that is not their fault and not counted. Nor are the failures of
    their models, which may be those of the node that was about to go."""
    here = [r for r in books.replicas.values() if r.place and r.place.node == event.node]
    for replica in here:
        replica.drop_leases()
        replica.order = replica.goal = None
        if replica.phase is not Phase.FAILED:
            books.move(replica, Phase.FAILED, f"node {event.node} is lost")
        lay_down(books, replica)
        books.move(replica, Phase.COLD, f"node {event.node} is lost")
        record = books.models[replica.model]
        record.failures, record.retry_at = 0, LONG_AGO
    books.ledger.leave(event.node)
    books.tiers.pop(event.node, None)


def _found(books: Books, event: e.EngineFound) -> None:
    """Adopt it, or take it in only to stop it if its model is not (or no longer) known."""
    books.skip_op(event.incarnation)
    replica = books.replicas.get(event.replica)
    if replica is None:
        replica = _stranger(books, event)
    if replica.phase is not Phase.COLD:
        if replica.incarnation != event.incarnation:
            books.commands.append(
                StopEngine(books.new_op(), replica.id, event.incarnation, Cause.FAILED)
            )
        return
    record = books.models[replica.model]
    record.is_unstarted = False
    replica.place = Place(event.node, event.devices)
    replica.incarnation = event.incarnation
    replica.up_since = replica.awake_since = replica.idle_since = books.now
    replica.raised_at = books.now
    settle(books, replica, event.held, event.depth)
    replica.has_kv = event.depth is Depth.AWAKE and record.spec.keeps_kv
    phase = Phase.AWAKE if event.depth is Depth.AWAKE else Phase.ASLEEP
    books.move(replica, phase, "found running and adopted")


def _costs_found(books: Books, event: e.CostsFound) -> None:
    record = books.models.get(event.model)
    if record is not None and not record.is_removed:
        remember(books, record, event.took, event.held)


def _stranger(books: Books, event: e.EngineFound) -> Replica:
    """A replica that nobody configured: it exists until its engine is gone."""
    unknown = ModelRecord(ModelSpec(event.model, footprints={}, replicas=0), is_removed=True)
    record = books.models.get(event.model, unknown)
    if record is unknown:
        books.add(record)
    index = len(record.replicas)
    replica = Replica(event.replica, event.model, index, since=books.now, is_retiring=True)
    record.replicas.append(replica)
    books.replicas[replica.id] = replica
    return replica
