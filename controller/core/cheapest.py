"""The cheapest demotions that make the room: branch and bound over all of them.

Branches that cost as much as the best known, or that cannot make the room any more, are not
followed. What is small is searched to the end; of a crowd, the first ``MOST_TRIED`` branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from controller.core.choices import Choice, Price, Step, Victim, price
from controller.core.ledger import HOST, Amounts
from controller.core.names import DeviceId

MOST_TRIED = 400
MOST_VICTIMS = 16


def cheapest(
    lacking: Amounts, host_free: int, victims: Sequence[Victim], known: Sequence[Step] | None
) -> list[Step] | None:
    """``victims``: the likeliest first. ``known``: a way to do better than, if there is one."""
    branches = _Branches(tuple(lacking), _useful(lacking, victims), known)
    branches.follow(0, tuple(lacking.values()), host_free, NOTHING_PAID, ())
    return branches.best


def can_be_cheaper(lacking: Amounts, known: Sequence[Step], victims: Sequence[Victim]) -> bool:
    """Not if all choices that cost less than what is known, together, do not make the room."""
    paid = _total(known)
    short = dict(lacking)
    for victim in victims:
        cheaper = [choice.relief for choice in victim.choices if price(victim, choice) < paid]
        if cheaper:
            for resource in short:
                short[resource] -= max([0, *[relief.get(resource, 0) for relief in cheaper]])
    return all(amount <= 0 for amount in short.values())


def _useful(lacking: Amounts, victims: Sequence[Victim]) -> list[tuple[Victim, list[Choice]]]:
    """Without the choices that free nothing of what is lacking. Whoever frees most comes first:
    then it soon shows that the others cannot make the room."""
    short = [resource for resource, amount in lacking.items() if amount > 0]
    rows = (
        (victim, [c for c in victim.choices if any(c.relief.get(r, 0) > 0 for r in short)])
        for victim in victims
    )
    likely = islice(((victim, choices) for victim, choices in rows if choices), MOST_VICTIMS)
    return sorted(likely, key=lambda row: -max(c.relief.get(r, 0) for c in row[1] for r in short))


NOTHING_PAID: Price = (0, 0, 0, 0.0, 0.0, 0, 0)


def _total(steps: Sequence[Step]) -> Price:
    paid = NOTHING_PAID
    for step in steps:
        paid = _plus(paid, price(*step))
    return paid


def _plus(paid: Price, more: Price) -> Price:
    return (
        paid[0] + more[0],
        paid[1] + more[1],
        paid[2] + more[2],
        paid[3] + more[3],
        paid[4] + more[4],
        paid[5] + more[5],
        paid[6] + more[6],
    )


_Branch = tuple[Step, Price, tuple[int, ...], int]
"""A step, its price, what it frees of what is lacking, and what it takes of the host."""


class _Branches:
    def __init__(
        self,
        resources: Sequence[DeviceId],
        rows: list[tuple[Victim, list[Choice]]],
        known: Sequence[Step] | None,
    ) -> None:
        self.best = None if known is None else list(known)
        self.best_price = None if known is None else _total(known)
        self.tried = 0
        rated = ([(v, c, price(v, c)) for c in choices] for v, choices in rows)
        self.rows = [row for each in rated if (row := self._row(resources, each))]
        self.reach = self._reaches(len(resources))

    def _row(
        self, resources: Sequence[DeviceId], rated: Sequence[tuple[Victim, Choice, Price]]
    ) -> list[_Branch]:
        """Without what by itself costs as much as what is known."""
        return [
            (
                (victim, choice),
                paid,
                tuple([choice.relief.get(r, 0) for r in resources]),
                min(0, choice.relief.get(HOST, 0)),
            )
            for victim, choice, paid in rated
            if self.best_price is None or paid < self.best_price
        ]

    def _reaches(self, count: int) -> list[list[int]]:
        """What all rows from each on free at the most."""
        reach = [[0] * count]
        for row in reversed(self.rows):
            most = [max(0, *[relief[i] for _, _, relief, _ in row]) for i in range(count)]
            reach.append([one + other for one, other in zip(reach[-1], most, strict=True)])
        return reach[::-1]

    def follow(
        self,
        index: int,
        lacking: tuple[int, ...],
        host_free: int,
        paid: Price,
        taken: tuple[Step, ...],
    ) -> None:
        self.tried += 1
        if self.tried > MOST_TRIED or (self.best_price is not None and paid >= self.best_price):
            return
        if max(lacking) <= 0:
            self.best, self.best_price = list(taken), paid
            return
        reach = self.reach[index]
        if any(amount > most for amount, most in zip(lacking, reach, strict=True)):
            return
        for step, more, relief, onto_host in self.rows[index]:
            if host_free + onto_host >= 0:
                left = tuple([a - r for a, r in zip(lacking, relief, strict=True)])
                self.follow(
                    index + 1, left, host_free + onto_host, _plus(paid, more), (*taken, step)
                )
        self.follow(index + 1, lacking, host_free, paid, taken)
