"""Small real implementations of the ports that the API asks: a fleet in a dictionary."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from controller.core.names import NO_AFFINITY, Affinity, ModelState, Priority, RejectReason
from controller.ports import (
    FleetEvent,
    FleetView,
    InvalidModel,
    Lease,
    ModelView,
    NodeView,
    OperationView,
    Outlook,
    Refused,
    ReplicaView,
    UnknownModel,
    UnknownOperation,
)
from workers.engine import Endpoint


@dataclass
class Acquired:
    """One wait, as the API asked for it."""

    model: str
    request_id: str
    tenant: str
    max_wait_s: float | None
    priority: Priority = Priority.DEFAULT
    affinity: Affinity = NO_AFFINITY
    can_freeze: bool = True


@dataclass
class FakeLeases:
    """Grants the model's endpoints in order, the last one for ever; waits while ``gates`` has a
    closed one; refuses what ``refusals`` names."""

    endpoints: dict[str, list[Endpoint]] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    refusals: dict[str, Refused] = field(default_factory=dict)
    state: ModelState = ModelState.AWAKE
    kv_identity: str = ""
    waits: list[Acquired] = field(default_factory=list)
    broken: list[tuple[Lease, str]] = field(default_factory=list)
    cold: list[Endpoint] = field(default_factory=list)
    """Engines that are frozen."""
    held: int = 0
    withdrawn: asyncio.Event = field(default_factory=asyncio.Event)
    at_the_gate: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def acquire(
        self,
        model: str,
        *,
        request_id: str,
        tenant: str = "",
        max_wait_s: float | None = None,
        priority: Priority = Priority.DEFAULT,
        affinity: Affinity = NO_AFFINITY,
        can_freeze: bool = True,
    ) -> AsyncIterator[Lease]:
        self.waits.append(
            Acquired(model, request_id, tenant, max_wait_s, priority, affinity, can_freeze)
        )
        began = asyncio.get_running_loop().time()
        if model in self.gates:
            await self._opened(self.gates[model])
        if model in self.refusals:
            raise self.refusals[model]
        if model not in self.endpoints:
            raise Refused(RejectReason.UNKNOWN_MODEL, f"no model named {model}")
        queued_s = asyncio.get_running_loop().time() - began
        choices = self.endpoints[model]
        endpoint = choices.pop(0) if len(choices) > 1 else choices[0]
        self.held += 1
        self.idle.clear()
        try:
            yield Lease(
                f"{model}#0",
                endpoint,
                self.state,
                queued_s,
                queued_s / 2,
                60.0,
                kv_identity=self.kv_identity,
            )
        finally:
            self.held -= 1
            self.idle.set()

    async def _opened(self, gate: asyncio.Event) -> None:
        self.at_the_gate.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.withdrawn.set()
            raise

    def outlook(self, model: str) -> Outlook:
        return Outlook("waking", 0.85)

    def frozen(self) -> list[Endpoint]:
        return self.cold

    def report_broken(self, lease: Lease, reason: str) -> None:
        self.broken.append((lease, reason))


class FakeControl:
    """Models by name and state; every order is done when ``finish`` says so, or at once."""

    def __init__(self, *models: str) -> None:
        self.states = dict.fromkeys(models, "awake")
        self.pinned: set[str] = set()
        self.operations: dict[str, OperationView] = {}
        self.finished: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.published: list[FleetEvent] = []
        self.more = asyncio.Event()
        self.is_slow = False
        self.fails_with = ""

    def view(self) -> FleetView:
        node = NodeView("node-1", (("cpu", 300, 1000),), 0, 0, (("cpu", 40),), ("cpu", 60, 80))
        return FleetView(tuple(self.model(name) for name in self.states), (node,), 0)

    def model(self, model: str) -> ModelView:
        state = self._state(model)
        depth = None if state == "awake" else state
        replica = ReplicaView(
            f"{model}#0", "AWAKE", depth, "hbm", "node-1", ("cpu",), 300, 0, 0, 1.0
        )
        pinned = model in self.pinned
        return ModelView(model, state, (replica,), pinned, 0, 0, 4096, 0.8, None, 1_700_000_000)

    def why(self, model: str) -> list[dict[str, object]]:
        self._state(model)
        return [{"at": 1.0, "replica": f"{model}#0", "what": "woken for req-1"}]

    def wake(self, model: str) -> str:
        return self._operation("wake", model, "awake")

    def sleep(self, model: str, level: int) -> str:
        return self._operation("sleep", model, f"level_{level}")

    def stop(self, model: str) -> str:
        return self._operation("stop", model, "stopped")

    def switch(self, to: str, source: str | None, level: int) -> str:
        if source is not None:
            self.sleep(source, level)
        return self._operation("switch", to, "awake")

    def pin(self, model: str, pinned: bool) -> None:
        self._state(model)
        (self.pinned.add if pinned else self.pinned.discard)(model)

    def add_model(self, entry: dict[str, object]) -> str:
        name = entry.get("name")
        if not isinstance(name, str):
            raise InvalidModel("models[].name: a model needs a name")
        self.states[name] = "stopped"
        return self._operation("add", name, "stopped")

    def remove_model(self, model: str) -> str:
        operation = self._operation("remove", model, "stopped")
        del self.states[model]
        return operation

    def operation(self, operation: str) -> OperationView:
        try:
            return self.operations[operation]
        except KeyError:
            raise UnknownOperation(operation) from None

    async def wait(self, operation: str) -> OperationView:
        if self.is_slow:
            await self.finished[operation].wait()
        return self.operation(operation)

    async def events(self, after: int | None) -> AsyncIterator[FleetEvent]:
        told = len(self.published) if after is None else 0
        while True:
            while told < len(self.published):
                event = self.published[told]
                told += 1
                if after is None or event.id > after:
                    yield event
            self.more.clear()
            await self.more.wait()

    def publish(self, id_: int, type_: str, **payload: object) -> None:
        self.published.append(FleetEvent(id_, type_, payload))
        self.more.set()

    def _operation(self, kind: str, model: str, state: str) -> str:
        self._state(model)
        self.states[model] = state
        name = f"op-{len(self.operations) + 1}"
        status = "running" if self.is_slow else "failed" if self.fails_with else "done"
        phases_s = {f"{kind}.weights": 0.2}
        self.operations[name] = OperationView(
            name, kind, model, status, self.fails_with, 0.3, phases_s
        )
        return name

    def _state(self, model: str) -> str:
        try:
            return self.states[model]
        except KeyError:
            raise UnknownModel(model, tuple(self.states)) from None
