"""Requests that wait: in order of arrival, by model, each with its deadline."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

from controller.core.names import (
    NEVER,
    NO_AFFINITY,
    Affinity,
    Instant,
    ModelName,
    Priority,
    RequestId,
)


@dataclass(frozen=True, slots=True)
class Waiting:
    request: RequestId
    model: ModelName
    arrived: Instant
    deadline: Instant
    number: int
    """Of its arrival; breaks ties of time."""
    tenant: str = ""
    priority: Priority = Priority.DEFAULT
    affinity: Affinity = NO_AFFINITY
    can_freeze: bool = True


Lane = tuple[Priority, str]
"""Those of one priority and tenant who wait for a model: among them the oldest is first."""


class Backlog:
    def __init__(self) -> None:
        self.by_model: dict[ModelName, dict[RequestId, Waiting]] = {}
        """Only models for which someone waits; each in order of arrival."""
        self.lanes: dict[ModelName, dict[Lane, dict[RequestId, Waiting]]] = {}
        """The same, by lane."""
        self._all: dict[RequestId, Waiting] = {}
        self._tenants: dict[str, int] = {}
        self._deadlines: list[tuple[Instant, int, RequestId]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._all

    def add(
        self,
        request: RequestId,
        model: ModelName,
        at: Instant,
        max_wait_s: float,
        tenant: str = "",
        priority: Priority = Priority.DEFAULT,
        affinity: Affinity = NO_AFFINITY,
        can_freeze: bool = True,
    ) -> None:
        self._arrivals += 1
        deadline = Instant(at + max_wait_s)
        waiting = Waiting(
            request, model, at, deadline, self._arrivals, tenant, priority, affinity, can_freeze
        )
        self._all[request] = waiting
        self.by_model.setdefault(model, {})[request] = waiting
        self.lanes.setdefault(model, {}).setdefault((priority, tenant), {})[request] = waiting
        self._tenants[tenant] = self._tenants.get(tenant, 0) + 1
        if waiting.deadline < NEVER:
            heappush(self._deadlines, (waiting.deadline, waiting.number, request))

    def remove(self, request: RequestId) -> None:
        waiting = self._all.pop(request)
        queue = self.by_model[waiting.model]
        del queue[request]
        if not queue:
            del self.by_model[waiting.model]
        self._leave_lane(waiting)
        self._tenants[waiting.tenant] -= 1
        if not self._tenants[waiting.tenant]:
            del self._tenants[waiting.tenant]

    def _leave_lane(self, waiting: Waiting) -> None:
        lanes, key = self.lanes[waiting.model], (waiting.priority, waiting.tenant)
        del lanes[key][waiting.request]
        if not lanes[key]:
            del lanes[key]
        if not lanes:
            del self.lanes[waiting.model]

    def of_tenant(self, tenant: str) -> int:
        """So many requests of it wait, for whatever model."""
        return self._tenants.get(tenant, 0)

    def of(self, model: ModelName) -> list[Waiting]:
        return list(self.by_model.get(model, {}).values())

    def head(self, model: ModelName) -> Waiting | None:
        """The request that has waited longest for the model."""
        queue = self.by_model.get(model)
        return next(iter(queue.values())) if queue else None

    def overdue(self, now: Instant) -> list[Waiting]:
        """Those whose deadline has come, earliest first; they stay until removed."""
        late: list[Waiting] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number, request = heappop(self._deadlines)
            waiting = self._all.get(request)
            if waiting is not None and waiting.number == number:
                late.append(waiting)
        return late

    def next_deadline(self) -> Instant:
        while self._deadlines:
            deadline, number, request = self._deadlines[0]
            waiting = self._all.get(request)
            if waiting is not None and waiting.number == number:
                return deadline
            heappop(self._deadlines)
        return NEVER
