"""Whom to demote, and how far, to make this room.

The opinion: idle before busy, least recently used first, the preferred depth before a deeper
one. The search takes single steps in that order until nothing is lacking, then takes back
every step that turned out not to be needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from controller.core.ledger import HOST, Amounts
from controller.core.names import Depth, ReplicaId


@dataclass(frozen=True, slots=True)
class Choice:
    """One depth a victim can go to, and what comes free; less than nothing where it takes."""

    depth: Depth
    relief: Amounts
    cost_s: float = 0.0
    """So much longer it will take to have the victim back."""


@dataclass(frozen=True, slots=True)
class Victim:
    replica: ReplicaId
    is_busy: bool
    is_awake: bool
    is_wanted: bool
    """Someone waits for its model, though later than whom the room is for."""
    idle_since: float
    choices: tuple[Choice, ...]
    """From the preferred depth to the deepest."""


@dataclass(frozen=True, slots=True)
class Move:
    replica: ReplicaId
    depth: Depth
    is_busy: bool
    cost_s: float


def make_room(lacking: Amounts, host_free: int, victims: Sequence[Victim]) -> list[Move] | None:
    """Demotions after which nothing is lacking; None if no demotions do that.

    ``lacking``: bytes by resource, negative where there is some to spare. ``host_free``: host
    bytes free at this moment, out of which those who move into host memory are served.
    None of the moves could be left out or be shallower with the others as they are.
    """
    search = _Search(dict(lacking), host_free)
    for victim, choice in _steps(victims):
        if search.is_done():
            break
        search.try_step(victim, choice)
    if not search.is_done():
        return None
    search.take_back()
    return [Move(v.replica, c.depth, v.is_busy, c.cost_s) for v, c in search.taken.values()]


def _steps(victims: Sequence[Victim]) -> Iterator[tuple[Victim, Choice]]:
    def age(victim: Victim) -> tuple[bool, float, float, str]:
        cost_s = victim.choices[0].cost_s if victim.choices else 0.0
        return (victim.is_wanted, victim.idle_since, cost_s, victim.replica)

    idle_awake = sorted((v for v in victims if v.is_awake and not v.is_busy), key=age)
    yield from _round(idle_awake, 0)
    asleep = [v for v in victims if not v.is_awake]
    yield from _rounds(sorted([*idle_awake, *asleep], key=age))
    busy = sorted((v for v in victims if v.is_busy), key=age)
    yield from _round(busy, 0)
    yield from _rounds(busy)


def _round(victims: Sequence[Victim], index: int) -> Iterator[tuple[Victim, Choice]]:
    return ((v, v.choices[index]) for v in victims if v.choices)


def _rounds(victims: Sequence[Victim]) -> Iterator[tuple[Victim, Choice]]:
    """Everyone's first choice, then everyone's second …"""
    columns = ([(v, choice) for choice in v.choices] for v in victims)
    for row in zip_longest(*columns):
        yield from (step for step in row if step is not None)


class _Search:
    def __init__(self, lacking: Amounts, host_free: int) -> None:
        self.lacking = lacking
        self.host_free = host_free
        self.taken: dict[ReplicaId, tuple[Victim, Choice]] = {}

    def is_done(self) -> bool:
        return all(amount <= 0 for amount in self.lacking.values())

    def try_step(self, victim: Victim, choice: Choice) -> None:
        """Take it if it brings something that is lacking and the host has room for it."""
        before = self.taken.get(victim.replica)
        had = before[1].relief if before else {}
        helps = any(
            amount > 0 and choice.relief.get(resource, 0) > had.get(resource, 0)
            for resource, amount in self.lacking.items()
        )
        if helps:
            self._put(victim, choice)
            if self.host_free < 0:
                self._put(victim, before[1] if before else None)

    def take_back(self) -> None:
        """Again and again: what goes back to the host may let another step be taken back."""
        while any(self._ease(*step) for step in reversed(list(self.taken.values()))):
            pass

    def _ease(self, victim: Victim, choice: Choice) -> bool:
        """Put the mildest choice that still makes the room; whether that is a milder one."""
        for milder in (None, *victim.choices):
            if milder is choice:
                return False
            self._put(victim, milder)
            if self.is_done() and self.host_free >= 0:
                return True
            self._put(victim, choice)
        return False

    def _put(self, victim: Victim, choice: Choice | None) -> None:
        before = self.taken.pop(victim.replica, None)
        if before is not None:
            self._add(before[1].relief, -1)
        if choice is not None:
            self.taken[victim.replica] = (victim, choice)
            self._add(choice.relief, 1)

    def _add(self, relief: Amounts, sign: int) -> None:
        for resource, amount in relief.items():
            if resource in self.lacking:
                self.lacking[resource] -= sign * amount
        self.host_free += sign * min(0, relief.get(HOST, 0))
