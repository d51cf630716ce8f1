"""Whom to demote, and how far, to make this room.

The opinion: idle before busy, those whose responses may be suspended before those whose may not,
those nobody waits for before others, the preferred depth before a deeper one, and among equals by
the policy's name: the least recently used first (``lru``), the least often wanted of late first
(``lfu``), or (``cost``) whoever it will cost least to have done without: so much longer as having
it back will take, times how often it was wanted of late. The search takes single steps in that
order until nothing is lacking, then takes back every step that turned out not to be needed.
``cost`` goes on from there to the cheapest demotions of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from controller.core.cheapest import can_be_cheaper, cheapest
from controller.core.choices import Choice, Move, Step, Victim
from controller.core.ledger import HOST, Amounts
from controller.core.names import Eviction, ReplicaId

Right = tuple[bool, bool, float, float, float, str]


def make_room(
    lacking: Amounts, host_free: int, victims: Sequence[Victim], by: Eviction = Eviction.LRU
) -> list[Move] | None:
    """Demotions after which nothing is lacking; None if no demotions do that.

    ``lacking``: bytes by resource, negative where there is some to spare. ``host_free``: host
    bytes free at this moment, out of which those who move into host memory are served.
    None of the moves could be left out or be shallower with the others as they are.
    """
    search = _Search(dict(lacking), host_free)
    for victim, choice in _steps(victims, by):
        if search.is_done():
            break
        search.try_step(victim, choice)
    found = search.result()
    if by is Eviction.COST and (found is None or can_be_cheaper(lacking, found, victims)):
        likely = sorted(victims, key=lambda v: (v.is_busy, *right_to_stay(v, _first(v), by)))
        found = cheapest(lacking, host_free, likely, found)
    if found is None:
        return None
    return [Move(v.replica, c.depth, v.is_busy, c.regret(v.wants, by)) for v, c in found]


def right_to_stay(victim: Victim, choice: Choice | None, by: Eviction) -> Right:
    """Who has least goes first, if it would go there."""
    cost_s = max(0.0, choice.cost_s) if choice else 0.0
    match by:
        case Eviction.LRU:
            first = 0.0
        case Eviction.LFU:
            first = victim.wants
        case Eviction.COST:
            first = victim.wants * cost_s
    return (victim.is_stuck, victim.is_wanted, first, victim.idle_since, cost_s, victim.replica)


def _steps(victims: Sequence[Victim], by: Eviction) -> Iterator[Step]:
    def age(victim: Victim) -> Right:
        return right_to_stay(victim, _first(victim), by)

    idle_awake = sorted((v for v in victims if v.is_awake and not v.is_busy), key=age)
    yield from _round(idle_awake, 0)
    asleep = [v for v in victims if not v.is_awake]
    yield from _rounds(sorted([*idle_awake, *asleep], key=age))
    busy = sorted((v for v in victims if v.is_busy), key=age)
    yield from _round(busy, 0)
    yield from _rounds(busy)


def _first(victim: Victim) -> Choice | None:
    return victim.choices[0] if victim.choices else None


def _round(victims: Sequence[Victim], index: int) -> Iterator[Step]:
    return ((v, v.choices[index]) for v in victims if v.choices)


def _rounds(victims: Sequence[Victim]) -> Iterator[Step]:
    """Everyone's first choice, then everyone's second …"""
    columns = ([(v, choice) for choice in v.choices] for v in victims)
    for row in zip_longest(*columns):
        yield from (step for step in row if step is not None)


class _Search:
    def __init__(self, lacking: Amounts, host_free: int) -> None:
        self.lacking = lacking
        self.host_free = host_free
        self.taken: dict[ReplicaId, Step] = {}

    def is_done(self) -> bool:
        return all(amount <= 0 for amount in self.lacking.values())

    def result(self) -> list[Step] | None:
        if not self.is_done():
            return None
        self.take_back()
        return list(self.taken.values())

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
