"""The fleet: events in, commands out.

Theory of operation. ``handle`` is the only way to change a fleet. It first *observes*: the fact
is written into the books, through the transition table. Then it *plans*: the first thing that
wants doing, again and again until nothing does (``planning.STEPS``). It knows no clock: the
time is that of the event, and ``next_deadline`` says by when it wants to be asked again.

The plan is made afresh from the books after every event; there is no list of intentions that
could grow stale. Whoever waits for memory is fitted in the order of right (``demands``), each
claiming what it will use from what is free or coming free (``rooms``), so a drain that nobody
needs any more shows as unclaimed and is called off, and nobody overtakes the oldest for ever.

Every command with an op ends in one event that carries the op; until then the replica waits for
the world and nothing else is ordered of it. A broken engine keeps its bytes and its place until
it is known to be gone. Its leases are nobody's: they end when they are released, and the same
request may then arrive again.

At the start a driver tells, in this order: the models (ModelAdded), each with what is known of it
from before (CostsFound), the engines that were found (EngineFound), the nodes (NodeJoined). Nothing
can be started before a node has joined, so what runs already is adopted first; an engine whose
model is unknown is stopped.

``InvariantBroken`` is our mistake. Commands that were ordered before it was noticed are not
lost: the next ``handle`` returns them first. The driver may go on, and get rid of the replica
by reporting its engine as lost.

Doubt: what others ahead in the backlog need is not part of an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controller.core import planning
from controller.core.administration import add_model
from controller.core.books import Books, PhaseChange
from controller.core.commands import Command
from controller.core.costs import CostTable
from controller.core.events import Event
from controller.core.ledger import Ledger
from controller.core.lifecycle import Phase, Replica, StoryLine
from controller.core.models import ModelRecord
from controller.core.names import (
    Depth,
    FleetPolicy,
    Instant,
    ModelName,
    ModelSpec,
    NodeId,
    ReplicaId,
)
from controller.core.observing import observe
from controller.core.outlook import Outlook, outlook_of
from controller.core.tier import Tier


class Fleet:
    def __init__(
        self, policy: FleetPolicy, models: Iterable[ModelSpec] = (), first_op: int = 1
    ) -> None:
        """``first_op``: ops are counted from here; a driver that knows of engines from before
        passes a number above their incarnations."""
        self._books = Books(policy, first_op)
        for spec in models:
            add_model(self._books, spec)

    def handle(self, event: Event) -> list[Command]:
        """Observe, then plan to a fixed point. Raises InvariantBroken."""
        books = self._books
        books.now = max(books.now, event.at)
        books.changes = []
        observe(books, event)
        planning.plan(books)
        commands, books.commands = books.commands, []
        return commands

    def next_deadline(self) -> Instant:
        """Ask again by then, with TimePassed; NEVER: only an event can change anything."""
        return planning.next_deadline(self._books)

    # what can be seen

    @property
    def now(self) -> Instant:
        return self._books.now

    @property
    def policy(self) -> FleetPolicy:
        return self._books.policy

    @property
    def changes(self) -> tuple[PhaseChange, ...]:
        """The phase changes of the last event."""
        return tuple(self._books.changes)

    @property
    def models(self) -> Mapping[ModelName, ModelRecord]:
        """Also those that were removed and whose engines are not all gone."""
        return self._books.models

    @property
    def replicas(self) -> Mapping[ReplicaId, Replica]:
        return self._books.replicas

    @property
    def ledger(self) -> Ledger:
        return self._books.ledger

    @property
    def tiers(self) -> Mapping[NodeId, Tier]:
        return self._books.tiers

    @property
    def costs(self) -> CostTable:
        return self._books.costs

    @property
    def books(self) -> Books:
        """For check() and tests; everybody else has the accessors."""
        return self._books

    def waiting(self, model: ModelName | None = None) -> int:
        backlog = self._books.backlog
        return len(backlog) if model is None else len(backlog.by_model.get(model, {}))

    def running(self, model: ModelName) -> int:
        return sum(len(replica.leases) for replica in self.models[model].replicas)

    def frozen(self) -> list[ReplicaId]:
        """Replicas whose leases are."""
        books = self._books
        if not (books.frozen or books.moving):
            return []
        among = (*books.frozen.values(), *books.moving.values())
        return [replica.id for replica in among if replica.is_frozen]

    def outlook(self, model: ModelName) -> Outlook:
        return outlook_of(self._books, self.models[model])

    def state(self, model: ModelName) -> str:
        """Of its best replica: a phase, or the depth at which it sleeps, or ``stopped``."""
        record = self.models[model]
        replica = min(record.replicas, key=_goodness)
        match replica.phase:
            case Phase.ASLEEP if replica.leases:
                return "frozen"
            case Phase.ASLEEP:
                return replica.depth.name.lower()
            case Phase.COLD | Phase.STOPPING:
                return "failed" if record.is_given_up else "stopped"
            case _:
                return str(replica.phase.value)

    def idle_s(self, model: ModelName, now: Instant) -> float | None:
        """Since the last response of any replica ended; None while one is running or none is up."""
        down = (Phase.COLD, Phase.STARTING)
        replicas = [r for r in self.models[model].replicas if r.phase not in down]
        if not replicas or any(replica.leases for replica in replicas):
            return None
        return now - max(replica.idle_since for replica in replicas)

    def story(self, model: ModelName) -> list[StoryLine]:
        """Of all its replicas, oldest first."""
        lines = [line for replica in self.models[model].replicas for line in replica.story]
        return sorted(lines, key=lambda line: line.at)


GOODNESS = (
    Phase.AWAKE,
    Phase.WAKING,
    Phase.STARTING,
    Phase.DRAINING,
    Phase.HIBERNATING,
    Phase.DRAINED,
    Phase.FALLING_ASLEEP,
    Phase.ASLEEP,
    Phase.COLD,
    Phase.STOPPING,
    Phase.FAILED,
)


def _goodness(replica: Replica) -> tuple[int, Depth, int]:
    return (GOODNESS.index(replica.phase), replica.depth, replica.index)
