"""Requests that wait: in order of arrival, by model, each with its deadline."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

from controller.core.names import NEVER, Instant, ModelName, RequestId


@dataclass(frozen=True, slots=True)
class Waiting:
    request: RequestId
    model: ModelName
    arrived: Instant
    deadline: Instant
    number: int
    """Of its arrival; breaks ties of time."""


class Backlog:
    def __init__(self) -> None:
        self.by_model: dict[ModelName, dict[RequestId, Waiting]] = {}
        """Only models for which someone waits; each in order of arrival."""
        self._all: dict[RequestId, Waiting] = {}
        self._deadlines: list[tuple[Instant, int, RequestId]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._all

    def add(self, request: RequestId, model: ModelName, at: Instant, max_wait_s: float) -> None:
        self._arrivals += 1
        waiting = Waiting(request, model, at, Instant(at + max_wait_s), self._arrivals)
        self._all[request] = waiting
        self.by_model.setdefault(model, {})[request] = waiting
        heappush(self._deadlines, (waiting.deadline, waiting.number, request))

    def remove(self, request: RequestId) -> Waiting:
        waiting = self._all.pop(request)
        queue = self.by_model[waiting.model]
        del queue[request]
        if not queue:
            del self.by_model[waiting.model]
        return waiting

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
