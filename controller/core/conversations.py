"""What is asked of a conversation, one thing after another, and where its KV is said to lie.

Theory of operation. A conversation has one line: turns (requests), and acts that an operator or
the reaper asked for. What comes first is done first, one at a time, so turns keep their order and
a hibernate, reset or delete waits for the inference that runs, without a rule of its own. Who
asks for an act that is already the last in the line joins it. An act that has nothing to do when
its turn comes ends at once.

``Residency`` is what can be vouched for, about the tokens on record:

- NOT_CREATED: there are none.
- HIBERNATED: their KV was written to the durable tier and freed in memory.
- IN_MEMORY: neither is known. It may lie on a device, in the host tier, or have been evicted.

So IN_MEMORY promises nothing, and whatever begins to touch KV moves a conversation there before
it begins; only an act that is known to have done its work moves it elsewhere. A crash at any
moment therefore leaves no false promise behind, if residency is recorded when it changes.
``BEGINS`` and ``DONE`` are the only places that say which residency may follow which.

The doubt: an act that never reached KV (the node is gone) need not have cost the promise that
stood before; ``Outcome.UNTOUCHED`` gives it back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from controller.core.bulkheads import LiveLimits
from controller.core.names import Hours, Instant


class Residency(Enum):
    NOT_CREATED = "not_created"
    IN_MEMORY = "in_memory"
    HIBERNATED = "hibernated"


class Act(Enum):
    TURN = "turn"
    HIBERNATE = "hibernate"
    REHYDRATE = "rehydrate"
    RESET = "reset"
    """Forget the KV, keep the conversation."""
    DELETE = "delete"


class Outcome(Enum):
    DONE = "done"
    UNSURE = "unsure"
    """It went wrong under way; or a turn left no tokens on record."""
    UNTOUCHED = "untouched"
    """It never reached any KV."""


BEGINS: dict[Act, dict[Residency, Residency]] = {
    Act.TURN: {
        Residency.NOT_CREATED: Residency.NOT_CREATED,
        Residency.IN_MEMORY: Residency.IN_MEMORY,
        Residency.HIBERNATED: Residency.IN_MEMORY,
    },
    Act.HIBERNATE: {Residency.IN_MEMORY: Residency.IN_MEMORY},
    Act.REHYDRATE: {Residency.HIBERNATED: Residency.IN_MEMORY},
    Act.RESET: {
        Residency.IN_MEMORY: Residency.IN_MEMORY,
        Residency.HIBERNATED: Residency.IN_MEMORY,
    },
    Act.DELETE: {
        Residency.NOT_CREATED: Residency.NOT_CREATED,
        Residency.IN_MEMORY: Residency.IN_MEMORY,
        Residency.HIBERNATED: Residency.IN_MEMORY,
    },
}
"""Residency while it is done, by residency before; no row: there is nothing to do."""

DONE: dict[Act, Residency] = {
    Act.TURN: Residency.IN_MEMORY,
    Act.HIBERNATE: Residency.HIBERNATED,
    Act.REHYDRATE: Residency.IN_MEMORY,
    Act.RESET: Residency.NOT_CREATED,
    Act.DELETE: Residency.NOT_CREATED,
}


@dataclass(frozen=True, slots=True)
class Job:
    """``ticket``: by which whoever asked knows it again."""

    ticket: int
    act: Act


@dataclass(frozen=True, slots=True)
class Begin:
    """It is this one's turn; exactly one ``ended`` is owed."""

    job: Job


@dataclass(frozen=True, slots=True)
class Finish:
    """There was nothing to do."""

    job: Job


Step = Begin | Finish


@dataclass(slots=True)
class Conversation:
    residency: Residency = Residency.NOT_CREATED
    doing: Job | None = None
    waiting: deque[Job] = field(default_factory=deque)
    is_deleted: bool = False
    """The last thing that was done is its deletion."""
    _before: Residency = Residency.NOT_CREATED

    @property
    def turns_waiting(self) -> int:
        return sum(job.act is Act.TURN for job in self.waiting)

    @property
    def was_hibernated(self) -> bool:
        """Before what is being done, or was done last."""
        return self._before is Residency.HIBERNATED

    @property
    def is_over(self) -> bool:
        """Deleted, and nobody asked for more meanwhile."""
        return self.is_deleted and self.doing is None

    @property
    def state(self) -> str:
        """Residency, or what is being done about it."""
        match self.doing:
            case Job(act=Act.HIBERNATE):
                return "hibernating"
            case Job(act=Act.REHYDRATE):
                return "rehydrating"
        return self.residency.value

    def ask(self, job: Job) -> tuple[Job, list[Step]]:
        """The job that will do it: an act may join the last one in the line."""
        last = self.waiting[-1] if self.waiting else self.doing
        if last is not None and job.act is not Act.TURN and last.act is job.act:
            return last, []
        self.waiting.append(job)
        return job, self._go_on()

    def withdraw(self, ticket: int) -> bool:
        """Whether it was still waiting; one that has begun must end."""
        for job in self.waiting:
            if job.ticket == ticket:
                self.waiting.remove(job)
                return True
        return False

    def ended(self, ticket: int, outcome: Outcome) -> list[Step]:
        """An answer to anything but what is being done changes nothing."""
        job = self.doing
        if job is None or job.ticket != ticket:
            return []
        self.doing = None
        match outcome:
            case Outcome.DONE:
                self.residency = DONE[job.act]
                self.is_deleted = job.act is Act.DELETE
            case Outcome.UNTOUCHED:
                self.residency = self._before
        return self._go_on()

    def _go_on(self) -> list[Step]:
        steps: list[Step] = []
        while self.waiting and self.doing is None:
            job = self.waiting.popleft()
            residency = BEGINS[job.act].get(self.residency)
            if residency is None:
                steps.append(Finish(job))
                continue
            self._before, self.residency = self.residency, residency
            self.doing, self.is_deleted = job, False
            steps.append(Begin(job))
        return steps


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds since the last use; ``inf``: never."""

    hibernate_after_s: float = inf
    expire_after_s: float = inf


@dataclass(frozen=True, slots=True)
class ConversationLimits:
    lifetimes: Lifetimes = Lifetimes(expire_after_s=30 * 24 * 3600.0)
    total: int = 100_000
    waiting: int = 16
    """Requests of one conversation behind the one that runs."""
    tenants: dict[str, Lifetimes] = field(default_factory=dict)
    """Of those whose conversations live otherwise."""
    hibernate_at: tuple[Hours, ...] = ()
    """Times of day at which whatever is not in use hibernates."""
    time_zone: str = "UTC"
    keeps_copies: bool = True
    """What a hibernation wrote stays in the durable tier after a rehydration."""
    live: LiveLimits = field(default_factory=LiveLimits)

    def of_tenant(self, tenant: str) -> Lifetimes:
        return self.tenants.get(tenant, self.lifetimes)

    @property
    def shortest_s(self) -> float:
        every = (self.lifetimes, *self.tenants.values())
        return min(min(one.hibernate_after_s, one.expire_after_s) for one in every)


def due(
    conversation: Conversation,
    last_use: Instant,
    at: Instant,
    of: Lifetimes,
    *,
    is_evening: bool = False,
) -> Act | None:
    """What the reaper does about a conversation that nobody uses; ``is_evening``: all are to
    hibernate that are not in use."""
    if conversation.doing is not None:
        return None
    idle_s = at - last_use
    if idle_s >= of.expire_after_s:
        return Act.DELETE
    is_due = is_evening or idle_s >= of.hibernate_after_s
    if is_due and conversation.residency is Residency.IN_MEMORY:
        return Act.HIBERNATE
    return None
