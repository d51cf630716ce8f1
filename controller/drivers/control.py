"""The FleetControl port on a live driver: views of the fleet, and administrators' orders."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import asdict, replace
from math import inf

from controller.core.commands import Command, FinishOperation
from controller.core.events import (
    DemotionOrdered,
    Event,
    ModelRemoved,
    PinOrdered,
    SwitchOrdered,
    TierNotResized,
    TierResized,
    WakeOrdered,
)
from controller.core.fleet import Fleet
from controller.core.ledger import HOST
from controller.core.lifecycle import Phase, Replica
from controller.core.models import ModelRecord
from controller.core.names import Depth, ModelName, ModelSpec, NodeId, OperationId, model_of
from controller.drivers.catalogue import Catalogue, Configured
from controller.drivers.live import LiveDriver
from controller.drivers.operations import Operations
from controller.drivers.stream import EventStream
from controller.ports import (
    ConfigView,
    FleetEvent,
    FleetView,
    InvalidModel,
    ModelView,
    NodeView,
    OperationView,
    ReplicaView,
    UnknownModel,
)
from workers.engine import EngineSpec, KVExport, Report

ReadModel = Callable[[dict[str, object]], tuple[ModelSpec, EngineSpec]]
"""One entry of ``models`` as it would stand in fleet.yaml. Raises InvalidModel."""

_DEPTH_OF_LEVEL = {0: Depth.KV_RELEASED, 1: Depth.LEVEL_1, 2: Depth.LEVEL_2}


class LiveControl:
    """Also an observer: what the core did ends operations and feeds the public events."""

    def __init__(self, driver: LiveDriver, read_model: ReadModel) -> None:
        self._driver = driver
        self._read_model = read_model
        self._operations = Operations()
        self._stream = EventStream(first_id=int(time.time() * 1000))
        self._created: dict[ModelName, int] = {}
        self._removing: dict[OperationId, ModelName] = {}
        self._catalogue = Catalogue(driver)
        self._config: ConfigView | None = None
        driver.observers.append(self)

    @property
    def operations(self) -> Operations:
        """For whoever has orders of another kind to give."""
        return self._operations

    def publish(self, type_: str, payload: dict[str, object]) -> None:
        self._stream.publish(type_, payload)

    # Observer

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        for change in fleet.changes:
            self._stream.publish(
                "replica",
                {
                    "replica": change.replica,
                    "model": model_of(change.replica),
                    "before": change.before.name,
                    "after": change.after.name,
                    "why": change.why,
                },
            )
        match event:
            case TierResized(node=node, held_bytes=held):
                self.publish("kv_tier", {"node": node, "bytes": held, "error": ""})
            case TierNotResized(node=node, reason=reason):
                self.publish("kv_tier", {"node": node, "bytes": None, "error": reason})
            case _:
                pass
        for command in commands:
            if isinstance(command, FinishOperation):
                self._finish(command.operation, command.error, event.at)
        for operation, model in list(self._removing.items()):
            if model not in fleet.models:
                del self._removing[operation]
                self._finish(operation, "", event.at)

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        self._operations.note_phases(model, order, report.phases_s)
        self._stream.publish(
            "report",
            {
                "model": model,
                "order": order,
                "depth": depth.name.lower(),
                "phases_s": report.phases_s,
                "freed": report.freed,
                "device_bytes": report.memory.device_bytes,
                "host_bytes": report.memory.host_bytes,
            },
        )

    def exported(self, model: str, export: KVExport) -> None:
        self._operations.note_phases(model, "export", {"kv": export.seconds})
        self._stream.publish("kv", {"model": model, **asdict(export)})

    # views

    def view(self) -> FleetView:
        fleet = self._driver.fleet
        models = tuple(self._view_of(r) for r in fleet.models.values() if not r.is_removed)
        nodes = tuple(self._node(node) for node in fleet.ledger.budgets)
        return FleetView(models, nodes, fleet.waiting(), self._config)

    def model(self, model: str) -> ModelView:
        return self._view_of(self._record(model))

    def why(self, model: str) -> list[dict[str, object]]:
        self._record(model)
        offset = time.time() - self._driver.now()
        return [
            {
                "at": line.at + offset,
                "replica": str(line.replica),
                "what": f"{line.what}: {line.why}" if line.why else line.what,
            }
            for line in self._driver.fleet.story(ModelName(model))
        ]

    # orders

    def wake(self, model: str) -> str:
        name = self._record(model).spec.name
        operation = self._begin("wake", name)
        self._driver.feed(WakeOrdered(self._driver.now(), operation, name))
        return operation

    def sleep(self, model: str, level: int) -> str:
        return self._demote("sleep", model, _DEPTH_OF_LEVEL[level])

    def stop(self, model: str) -> str:
        return self._demote("stop", model, Depth.STOPPED)

    def switch(self, to: str, source: str | None, level: int) -> str:
        target = self._record(to).spec.name
        origin = self._record(source).spec.name if source is not None else None
        operation = self._begin("switch", target, *([origin] if origin is not None else []))
        depth = _DEPTH_OF_LEVEL[level]
        self._driver.feed(SwitchOrdered(self._driver.now(), operation, target, origin, depth))
        return operation

    def pin(self, model: str, pinned: bool) -> None:
        name = self._record(model).spec.name
        self._driver.feed(PinOrdered(self._driver.now(), name, pinned))

    def add_model(self, entry: dict[str, object]) -> str:
        spec, engine = self._read_model(entry)
        known = self._driver.fleet.models.get(spec.name)
        if known is not None:
            how = "that is being removed" if known.is_removed else "already"
            raise InvalidModel(f"name: {spec.name!r} is the name of a model {how}")
        self._created[spec.name] = int(time.time())
        self._catalogue.added_over_the_api(spec.name)
        operation = self._begin("add", spec.name)
        self._driver.add_model(spec, engine)
        self._finish(operation, "", self._driver.now())
        return operation

    def remove_model(self, model: str) -> str:
        name = self._record(model).spec.name
        operation = self._begin("remove", name)
        self._removing[operation] = name
        self._catalogue.removed_over_the_api(name)
        self._driver.feed(ModelRemoved(self._driver.now(), name))
        return operation

    # the configuration file

    def reconfigure(self, models: Iterable[Configured], view: ConfigView) -> None:
        """The file was read again and these are its models."""
        applied = self._catalogue.apply(models)
        needs_restart = (*view.needs_restart, *applied.left)
        self.tell_of_config(replace(view, needs_restart=needs_restart), asdict(applied))

    def tell_of_config(self, view: ConfigView, applied: dict[str, object] | None = None) -> None:
        """How the last look at the file ended, and what came of it."""
        self._config = view
        self._stream.publish("config", {**asdict(view), **(applied or {})})

    # operations

    def operation(self, operation: str) -> OperationView:
        return self._operations.view(operation, self._driver.now())

    async def wait(self, operation: str) -> OperationView:
        await self._operations.wait(operation)
        return self.operation(operation)

    def events(self, after: int | None) -> AsyncIterator[FleetEvent]:
        return self._stream.listen(after)

    # inside

    def _record(self, model: str) -> ModelRecord:
        models = self._driver.fleet.models
        record = models.get(ModelName(model))
        if record is None or record.is_removed:
            known = tuple(name for name, known in models.items() if not known.is_removed)
            raise UnknownModel(model, known)
        return record

    def _begin(self, kind: str, *models: ModelName) -> OperationId:
        return OperationId(self._operations.begin(kind, models, self._driver.now()))

    def _finish(self, operation: OperationId, error: str, at: float) -> None:
        self._operations.finish(operation, error, at)
        self._stream.publish("operation", {"operation": operation, "error": error})

    def _demote(self, kind: str, model: str, depth: Depth) -> str:
        name = self._record(model).spec.name
        operation = self._begin(kind, name)
        self._driver.feed(DemotionOrdered(self._driver.now(), operation, name, depth))
        return operation

    def _view_of(self, record: ModelRecord) -> ModelView:
        driver, name = self._driver, record.spec.name
        now = driver.now()
        estimate_s = driver.fleet.outlook(name).estimate_s
        return ModelView(
            model=name,
            state=driver.fleet.state(name),
            replicas=tuple(_replica(replica, now) for replica in record.replicas),
            pinned=record.spec.pinned,
            waiting=driver.fleet.waiting(name),
            running=driver.fleet.running(name),
            max_model_len=driver.max_model_len.get(name),
            wake_estimate_s=estimate_s if estimate_s < inf else -1.0,
            idle_s=driver.fleet.idle_s(name, now),
            created=self._created.setdefault(name, int(time.time())),
        )

    def _node(self, node: NodeId) -> NodeView:
        ledger = self._driver.fleet.ledger
        budget, booked = ledger.budgets[node], ledger.booked(node)
        tier = self._driver.fleet.tiers.get(node)
        return NodeView(
            node=node,
            devices=tuple(
                (device, booked.get(device, 0), size)
                for device, size in budget.items()
                if device != HOST
            ),
            host_booked_bytes=booked.get(HOST, 0),
            host_bytes=budget[HOST],
            taken=tuple((str(r), size) for r, size in ledger.taken(node).items() if size),
            kv_tier=(tier.device, tier.held_bytes, tier.whole_bytes) if tier else None,
        )


def _replica(replica: Replica, now: float) -> ReplicaView:
    return ReplicaView(
        replica=replica.id,
        phase=replica.phase.name,
        depth=replica.depth.name.lower() if replica.phase is Phase.ASLEEP else None,
        residency=replica.residency.value,
        node=replica.place.node if replica.place else None,
        devices=replica.place.devices if replica.place else (),
        device_bytes=replica.held.device_bytes,
        host_bytes=replica.held.host_bytes,
        leases=len(replica.leases),
        residual_growth_bytes=max([r.growth_bytes for r in replica.residuals.values()], default=0),
        since_s=max(0.0, now - replica.since) if replica.since > -inf else 0.0,
        frozen=len(replica.leases) if replica.is_frozen else 0,
    )
