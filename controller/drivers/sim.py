"""The simulating driver: the same core on virtual time, a heap of events, a simulated world.

Like the live driver it feeds one event after another, executes what the core orders, and asks
again by the core's deadline. A request whose engine dies is released and, once, asked again
under the same id, as the API does for requests to which no byte was forwarded. One that is
frozen takes so much longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from controller.core.commands import (
    Command,
    ExportKV,
    FinishOperation,
    GrantLease,
    RejectRequest,
    ResizeTier,
    SleepEngine,
    StartEngine,
    StopEngine,
    WakeEngine,
)
from controller.core.events import (
    EngineWoke,
    Event,
    LeaseReleased,
    NodeLost,
    RequestArrived,
    RequestCancelled,
    TimePassed,
)
from controller.core.fleet import Fleet
from controller.core.lifecycle import FROZEN
from controller.core.names import (
    LONG_AGO,
    NO_AFFINITY,
    Affinity,
    Instant,
    ModelName,
    OperationId,
    Priority,
    ReplicaId,
    RequestId,
)
from controller.drivers.world import World


@dataclass(slots=True)
class Client:
    """One request as its client sees it."""

    model: ModelName
    serve_s: float
    max_wait_s: float | None
    tenant: str = ""
    priority: Priority = Priority.DEFAULT
    affinity: Affinity = NO_AFFINITY
    can_freeze: bool = True
    arrived: Instant = LONG_AGO
    granted: list[Instant] = field(default_factory=list)
    rejected: list[RejectRequest] = field(default_factory=list)
    is_cancelled: bool = False
    retries: int = 1

    @property
    def is_settled(self) -> bool:
        return bool(self.granted or self.rejected or self.is_cancelled)


class Simulator:
    def __init__(
        self, fleet: Fleet, world: World, check: Callable[[Fleet], None] | None = None
    ) -> None:
        self.fleet = fleet
        self.world = world
        self.now = Instant(0.0)
        self.journal: list[tuple[Event, list[Command]]] = []
        self.clients: dict[RequestId, Client] = {}
        self.finished: dict[OperationId, list[FinishOperation]] = {}
        self._check = check
        self._heap: list[tuple[Instant, int, Event, int]] = []
        self._count = 0
        self._lives: dict[RequestId, int] = {}
        """How often a request was granted or frozen: an end that was foreseen before, for an
        engine that died or has been frozen since, is not its end."""
        self._ends: dict[RequestId, Instant] = {}
        """When each response will end, as things are."""
        self._frozen: dict[RequestId, float] = {}
        """Seconds that are missing to its end."""

    def schedule(self, event: Event, life: int = 0) -> None:
        self._count += 1
        heappush(self._heap, (event.at, self._count, event, life))

    def request(
        self,
        at: float,
        request: str,
        model: str,
        serve_s: float = 1.0,
        max_wait_s: float | None = None,
        tenant: str = "",
        priority: Priority = Priority.DEFAULT,
        affinity: Affinity = NO_AFFINITY,
        can_freeze: bool = True,
    ) -> None:
        name = RequestId(request)
        client = Client(
            ModelName(model), serve_s, max_wait_s, tenant, priority, affinity, can_freeze
        )
        self.clients[name] = client
        self.schedule(_arrival(Instant(at), name, client))

    def run(self, until: float = inf) -> None:
        """Until nothing is left to happen, or until then."""
        while (at := min(self._next_event_at(), self.fleet.next_deadline())) <= until:
            if at == inf:
                return
            if self._next_event_at() <= at:
                _, _, event, life = heappop(self._heap)
                self._happen(event, life)
            else:
                self._happen(TimePassed(Instant(at)), 0)

    def _next_event_at(self) -> float:
        return self._heap[0][0] if self._heap else inf

    def _happen(self, event: Event, life: int) -> None:
        self.now = event.at
        broken = self.world.came_true(event)
        match event:
            case LeaseReleased(request=request) if self._lives.get(request, 0) != life:
                return
            case LeaseReleased(request=request):
                self._end(request)
            case RequestArrived(request=request) if request in self.clients:
                self.clients[request].arrived = event.at
            case RequestCancelled(request=request) if request in self.clients:
                self.clients[request].is_cancelled = True
                self._end(request)
            case NodeLost(node=node):
                broken = self.world.lose_node(node)
            case _:
                pass
        self._feed(event)
        for request in broken:
            self._retry(request)
        if isinstance(event, EngineWoke):
            self._thaw(event.replica)

    def _freeze(self, replica: ReplicaId) -> None:
        for request in self.world.engines[replica].requests:
            if request not in self._frozen:
                self._frozen[request] = self._ends[request] - self.now
                self._lives[request] += 1

    def _thaw(self, replica: ReplicaId) -> None:
        """If that answer was to an order that was out."""
        known, engine = self.fleet.replicas.get(replica), self.world.engines.get(replica)
        if known is None or engine is None or known.phase in FROZEN:
            return
        for request in engine.requests:
            if (missing_s := self._frozen.pop(request, None)) is not None:
                self._will_end(request, missing_s)

    def _will_end(self, request: RequestId, after_s: float) -> None:
        ends_at = self._ends[request] = Instant(self.now + after_s)
        self.schedule(LeaseReleased(ends_at, request), self._lives[request])

    def _feed(self, event: Event) -> None:
        commands = self.fleet.handle(event)
        self.journal.append((event, commands))
        if self._check is not None:
            self._check(self.fleet)
        for command in commands:
            self._execute(command)

    def _execute(self, command: Command) -> None:
        match command:
            case GrantLease():
                self._granted(command)
            case RejectRequest(request=request):
                if client := self.clients.get(request):
                    client.rejected.append(command)
            case FinishOperation(operation=operation):
                self.finished.setdefault(operation, []).append(command)
            case ResizeTier():
                for event in self.world.resize(command, self.now):
                    self.schedule(event)
            case StartEngine() | ExportKV() | SleepEngine() | WakeEngine() | StopEngine():
                if isinstance(command, SleepEngine) and command.keep:
                    self._freeze(command.replica)
                for event in self.world.carry_out(command, self.now):
                    self.schedule(event)
            case _:
                raise AssertionError(f"a command without a deed: {command}")

    def _granted(self, command: GrantLease) -> None:
        self.world.serve(command.request, command.replica)
        self._lives[command.request] = self._lives.get(command.request, 0) + 1
        client = self.clients.get(command.request)
        if client is not None:
            client.granted.append(self.now)
        self._will_end(command.request, client.serve_s if client else 1.0)

    def _end(self, request: RequestId) -> None:
        self._frozen.pop(request, None)
        replica = self.fleet.books.leased.get(request)
        if replica is not None:
            self.world.end(request, replica)

    def _retry(self, request: RequestId) -> None:
        self._lives[request] += 1
        self._frozen.pop(request, None)
        self._feed(LeaseReleased(self.now, request))
        client = self.clients.get(request)
        if client is not None and client.retries and not client.is_cancelled:
            client.retries -= 1
            client.granted.clear()
            client.arrived = self.now
            self._feed(_arrival(self.now, request, client))


def _arrival(at: Instant, request: RequestId, client: Client) -> RequestArrived:
    return RequestArrived(
        at,
        request,
        client.model,
        client.max_wait_s,
        client.tenant,
        client.priority,
        client.affinity,
        client.can_freeze,
    )
