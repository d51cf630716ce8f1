"""Where a replica could be raised, at what price: the outcome of one look for room."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import fsum

from controller.core.choices import Move
from controller.core.ledger import Amounts
from controller.core.lifecycle import Place
from controller.core.names import Depth, ReplicaId


class Verdict(IntEnum):
    """From the best to the worst."""

    READY = 0
    COMING = 1
    """What is in flight will make the room."""
    EVICTS_IDLE = 2
    FREEZES = 3
    """It has been waited for too long: responses are suspended, of those who may be."""
    DRAINS = 4
    """Drains under way will make the room."""
    EVICTS_BUSY = 5
    WAITS = 6
    """Those who are rising, or awake for too short a time, will be evicted."""
    STOPS = 7
    """Only if some engines are stopped."""
    BLOCKED = 8


EVICTIONS = (
    (Verdict.EVICTS_IDLE, Depth.LEVEL_2),
    (Verdict.EVICTS_BUSY, Depth.LEVEL_2),
    (Verdict.WAITS, Depth.LEVEL_2),
    (Verdict.STOPS, Depth.STOPPED),
)
"""How far each may demote."""


Rank = tuple[int, int, float, int]
"""Verdict, busy replicas that must go, cost in seconds, moves: the less disturbing, the smaller."""


@dataclass(frozen=True, slots=True)
class Fit:
    place: Place
    need: Amounts
    verdict: Verdict
    drains: tuple[ReplicaId, ...] = ()
    moves: tuple[Move, ...] = ()

    @property
    def rank(self) -> Rank:
        busy = sum([move.is_busy for move in self.moves])
        cost_s = fsum([move.cost_s for move in self.moves])
        return (self.verdict, busy + len(self.drains), cost_s, len(self.moves))


BLOCKED: Rank = (Verdict.BLOCKED, 0, 0.0, 0)
