"""Room on one node: free, coming free, or made by demotions, less what is claimed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf

from controller.core.books import Books
from controller.core.eviction import make_room
from controller.core.fits import BLOCKED, EVICTIONS, Fit, Rank, Verdict
from controller.core.freezable import draining_victim, is_out_of_patience, may_freeze
from controller.core.idle import DEEPEST_FROZEN
from controller.core.ledger import HOST, Amounts
from controller.core.lifecycle import Phase, Place, Replica
from controller.core.names import Cause, DeviceId, NodeId, ReplicaId
from controller.core.victims import (
    Asker,
    coming_of,
    later_victims,
    offer_of,
    replicas_on,
    victims,
)


class NodeRoom:
    def __init__(self, books: Books, node: NodeId, moving: Iterable[Replica]) -> None:
        """``moving``: the replicas on this node that are on the move."""
        self.books = books
        self.node = node
        self.closed: dict[DeviceId, None] = {}
        """Where somebody with more right waits and nothing more can be done for it."""
        self.drains: dict[ReplicaId, Amounts] = {}
        """Evicting drains that nobody claimed, and what they will free."""
        self.free = books.ledger.free_on(node)
        self.spare = dict(self.free)
        if tier := books.tiers.get(node):
            self._add({tier.device: tier.coming_bytes})
        for replica in moving:
            goal, is_draining = replica.goal, replica.phase is Phase.DRAINING
            if is_draining and goal is not None and goal.cause is Cause.EVICTED:
                self.drains[replica.id] = coming_of(books, replica)
            else:
                self._add(coming_of(books, replica))

    def verdict_free(self, devices: tuple[DeviceId, ...], need: Amounts) -> Verdict:
        """Of what is free or coming free: READY, COMING or BLOCKED."""
        verdict, spare, free = Verdict.READY, self.spare, self.free
        if not self.closed.keys().isdisjoint(devices):
            return Verdict.BLOCKED
        for resource, amount in need.items():
            if amount > 0:
                if amount > spare.get(resource, 0):
                    return Verdict.BLOCKED
                if amount > free.get(resource, 0):
                    verdict = Verdict.COMING
        return verdict

    def fit_free(self, place: Place, need: Amounts) -> Fit:
        return Fit(place, need, self.verdict_free(place.devices, need))

    def fit_evicting(self, asker: Asker, place: Place, need: Amounts) -> Fit:
        """With demotions, where the asker may ask for them."""
        if not self._may_evict(asker, place.devices):
            return Fit(place, need, Verdict.BLOCKED)
        return self._evicting(asker, place, need, self._lacking(need))

    def least_rank(self, asker: Asker, devices: tuple[DeviceId, ...], need: Amounts) -> Rank:
        """No rank of ``fit_evicting`` is smaller; found without a search."""
        if not self._may_evict(asker, devices):
            return BLOCKED
        return self._least_rank(asker, devices, self._lacking(need))

    def _may_evict(self, asker: Asker, devices: tuple[DeviceId, ...]) -> bool:
        return asker.can_evict and self.closed.keys().isdisjoint(devices)

    def _lacking(self, need: Amounts) -> Amounts:
        lacking = {r: amount - self.spare.get(r, 0) for r, amount in need.items()}
        for resource, amount in need.items():
            if amount <= 0:
                lacking[resource] = min(0, lacking[resource])
        return lacking

    def _least_rank(self, asker: Asker, devices: tuple[DeviceId, ...], lacking: Amounts) -> Rank:
        least: Rank = (Verdict.EVICTS_IDLE, 0, -inf, 0)
        if lacking[HOST] > 0:
            return least
        for device in devices:
            offer, amount = offer_of(self.books, self.node, device, asker.evict_to), lacking[device]
            count = offer.fewest(amount)
            if count is not None:
                cost_s = offer.least_cost_s(amount, count)
                least = max(least, (Verdict.EVICTS_IDLE, 0, cost_s, count))
                continue
            draining = sum([relief.get(device, 0) for relief in self.drains.values()])
            if asker.can_drain and amount <= offer.asleep + draining:
                least = max(least, (Verdict.FREEZES, 0, -inf, 0))
            elif asker.can_stop and amount <= offer.stopped + draining:
                least = max(least, (Verdict.STOPS, 0, -inf, 0))
            else:
                return BLOCKED
        return least

    def is_overrun(self) -> bool:
        """More is held than the budget allows, and not even what is coming free makes up for it."""
        return any(amount < 0 for amount in self.spare.values())

    def relieve(self, asker: Asker) -> Fit:
        """Demotions that bring the node back within its budget."""
        place = Place(self.node, devices_of(self))
        lacking = {resource: -amount for resource, amount in self.spare.items()}
        return self._evicting(asker, place, {}, lacking)

    def _evicting(self, asker: Asker, place: Place, need: Amounts, lacking: Amounts) -> Fit:
        """First among the idle, then with drains, and only then by stopping engines: a drain
        is over when its responses are, a cold start waits for whoever comes after."""
        least = self._least_rank(asker, place.devices, lacking)[0]
        if least == Verdict.BLOCKED:
            return Fit(place, need, Verdict.BLOCKED)
        host_free = max(0, self.free.get(HOST, 0))
        devices = () if lacking[HOST] > 0 else place.devices
        replicas = replicas_on(self.books, self.node, devices)
        drains: tuple[ReplicaId, ...] = ()
        for verdict, deepest in EVICTIONS:
            if verdict in (Verdict.EVICTS_BUSY, Verdict.WAITS) and not asker.can_drain:
                continue
            if verdict is Verdict.EVICTS_BUSY:
                if least <= Verdict.FREEZES and is_out_of_patience(self.books, asker):
                    fit = self._freezing(asker, Fit(place, need, Verdict.FREEZES), lacking)
                    if fit is not None:
                        return fit
                drains = self._use_drains(lacking)
                if _is_enough(lacking):
                    return Fit(place, need, Verdict.DRAINS, drains)
            if verdict < least or (verdict is Verdict.STOPS and not asker.can_stop):
                continue
            found = list(victims(self.books, asker, replicas, deepest))
            if verdict is Verdict.EVICTS_IDLE:
                found = [victim for victim in found if not victim.is_busy]
            if verdict is Verdict.WAITS:
                found += later_victims(self.books, asker, replicas)
            moves = make_room(lacking, host_free, found, self.books.policy.eviction)
            if moves and verdict is Verdict.WAITS:
                return Fit(place, need, verdict, drains)
            if moves:
                return Fit(place, need, verdict, drains, tuple(moves))
        return Fit(place, need, Verdict.BLOCKED)

    def _freezing(self, asker: Asker, fit: Fit, lacking: Amounts) -> Fit | None:
        """With the cheapest of those that can be frozen, whether they drain already or not, beside
        the idle. Whoever drains and is not among them is not needed any more."""
        books, devices = self.books, () if lacking[HOST] > 0 else fit.place.devices
        replicas = replicas_on(books, self.node, devices)
        found = [
            victim
            for victim in victims(books, asker, replicas, DEEPEST_FROZEN)
            if not victim.is_busy or may_freeze(books, books.replicas[victim.replica])
        ]
        for name, relief in self.drains.items():
            if may_freeze(books, books.replicas[name]):
                found.append(draining_victim(books, asker, books.replicas[name], relief))
        host_free = max(0, self.free.get(HOST, 0))
        moves = make_room(lacking, host_free, found, books.policy.eviction) or []
        drains = tuple([move.replica for move in moves if move.replica in self.drains])
        others = tuple([move for move in moves if move.replica not in self.drains])
        return replace(fit, drains=drains, moves=others) if moves else None

    def emptiness(self, devices: tuple[DeviceId, ...]) -> int:
        """What is to spare where least is."""
        return min([self.spare.get(device, 0) for device in devices])

    def fit(self, asker: Asker, place: Place, need: Amounts) -> Fit:
        fit = self.fit_free(place, need)
        return self.fit_evicting(asker, place, need) if fit.verdict is Verdict.BLOCKED else fit

    def close(self, devices: tuple[DeviceId, ...], host_bytes: int) -> None:
        """Nobody else is fitted here; if the host lacks these bytes, nowhere on the node."""
        if host_bytes > max(0, self.spare.get(HOST, 0)):
            devices = devices_of(self)
        self.closed.update(dict.fromkeys(devices))

    def is_closed(self) -> bool:
        return all(device in self.closed for device in devices_of(self))

    def claim(self, fit: Fit) -> None:
        for replica in fit.drains:
            self._add(self.drains.pop(replica))
        for resource, amount in fit.need.items():
            self.spare[resource] = self.spare.get(resource, 0) - amount

    def _use_drains(self, lacking: Amounts) -> tuple[ReplicaId, ...]:
        used: list[ReplicaId] = []
        for replica, relief in self.drains.items():
            if _is_enough(lacking):
                break
            if any(amount > 0 and relief.get(r, 0) > 0 for r, amount in lacking.items()):
                used.append(replica)
                for resource in lacking:
                    lacking[resource] -= relief.get(resource, 0)
        return tuple(used)

    def _add(self, relief: Amounts) -> None:
        for resource, amount in relief.items():
            self.spare[resource] = self.spare.get(resource, 0) + amount


def devices_of(room: NodeRoom) -> tuple[DeviceId, ...]:
    return tuple([r for r in room.books.ledger.budgets.get(room.node, {}) if r != HOST])


def _is_enough(lacking: Amounts) -> bool:
    return all(amount <= 0 for amount in lacking.values())
