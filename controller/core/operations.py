"""What administrators ordered and is not done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from controller.core.lifecycle import Goal, Phase, Replica
from controller.core.names import Cause, Depth, Instant, ModelName, OperationId, ReplicaId


@dataclass(slots=True, eq=False)
class Operation:
    """Done when nothing is left in ``demoting`` and ``waking`` is None."""

    id: OperationId
    ordered_at: Instant
    depth: Depth = Depth.AWAKE
    """Where the demotion leads; for a switch without a source, how far eviction shall go."""
    waking: ModelName | None = None
    demoted: ModelName | None = None
    demoting: dict[ReplicaId, None] = field(default_factory=dict)
    """Replicas that do not rest deep enough yet; one that did so once is not asked again."""
    error: str = ""

    @property
    def is_done(self) -> bool:
        return self.waking is None and not self.demoting

    @property
    def goal(self) -> Goal:
        return Goal(self.depth, Cause.ORDERED, self.waking or "")


class Operations:
    def __init__(self) -> None:
        self._open: dict[OperationId, Operation] = {}

    def __iter__(self) -> Iterator[Operation]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, operation: OperationId) -> bool:
        return operation in self._open

    def add(self, operation: Operation) -> None:
        self._open[operation.id] = operation

    def remove(self, operation: Operation) -> None:
        del self._open[operation.id]

    def waking(self, model: ModelName) -> list[Operation]:
        return [o for o in self if o.waking == model]

    def demoting(self, model: ModelName) -> list[Operation]:
        return [o for o in self if o.demoted == model and o.demoting]


def rests_at(replica: Replica, depth: Depth) -> bool:
    """Whether a replica is as deep as an order demands. One with frozen leases is to come back
    first, and let them finish."""
    is_asleep = replica.phase is Phase.ASLEEP and not replica.leases
    return replica.phase is Phase.COLD or (is_asleep and replica.depth >= depth)
