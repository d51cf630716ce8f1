"""How many conversations are live at a time, by model and by tenant.

A conversation is live while a turn of it is served. One more than a limit allows waits in one
queue, whose length is bounded; whoever finds that full is refused. Of those that wait, the first
whose model and tenant both have room goes on, so that a crowded model or tenant holds up nobody
else: that is what bulkheads are for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """None: as many as come."""

    model: int | None = None
    tenant: int | None = None
    queue: int = 64


class Answer(Enum):
    ENTERED = "entered"
    WAITS = "waits"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class _Whose:
    model: str
    tenant: str


class Bulkheads:
    def __init__(self, limits: LiveLimits) -> None:
        self.limits = limits
        self._live: dict[int, _Whose] = {}
        self._waiting: dict[int, _Whose] = {}
        """In order of arrival."""
        self._of_model: Counter[str] = Counter()
        self._of_tenant: Counter[str] = Counter()

    def live(self, tenant: str | None = None) -> int:
        """Of one tenant, or of all."""
        return len(self._live) if tenant is None else self._of_tenant[tenant]

    def waiting(self, tenant: str | None = None) -> int:
        return sum(tenant in (None, whose.tenant) for whose in self._waiting.values())

    def enter(self, ticket: int, model: str, tenant: str) -> Answer:
        whose = _Whose(model, tenant)
        if self._has_room(whose):
            self._admit(ticket, whose)
            return Answer.ENTERED
        if len(self._waiting) >= self.limits.queue:
            return Answer.REFUSED
        self._waiting[ticket] = whose
        return Answer.WAITS

    def leave(self, ticket: int) -> list[int]:
        """Whether it was live or waited; who enters in its place."""
        if self._waiting.pop(ticket, None) is not None:
            return []
        whose = self._live.pop(ticket, None)
        if whose is None:
            return []
        for counter, name in ((self._of_model, whose.model), (self._of_tenant, whose.tenant)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        entering = []
        for waiting, theirs in list(self._waiting.items()):
            if self._has_room(theirs):
                del self._waiting[waiting]
                self._admit(waiting, theirs)
                entering.append(waiting)
        return entering

    def _admit(self, ticket: int, whose: _Whose) -> None:
        self._live[ticket] = whose
        self._of_model[whose.model] += 1
        self._of_tenant[whose.tenant] += 1

    def _has_room(self, whose: _Whose) -> bool:
        model, tenant = self.limits.model, self.limits.tenant
        return (model is None or self._of_model[whose.model] < model) and (
            tenant is None or self._of_tenant[whose.tenant] < tenant
        )
