"""Whether a replica could be raised here now, after what is coming free, or after evictions.

One ``Rooms`` lives for one look at the fleet. Demands are fitted in their order of right; each
claims what it will use, so that nobody counts on the same bytes twice: ``spare`` is what is
free, and what orders in flight will free, less what is claimed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from controller.core.books import Books
from controller.core.eviction import Choice, Move, Victim, make_room
from controller.core.idle import RUNGS
from controller.core.ledger import HOST, Amounts, spread
from controller.core.lifecycle import RISING, Phase, Place, Replica
from controller.core.names import Cause, Depth, DeviceId, ModelName, NodeId, ReplicaId


class Verdict(IntEnum):
    """From the best to the worst."""

    READY = 0
    COMING = 1
    """What is in flight will make the room."""
    EVICTS_IDLE = 2
    DRAINS = 3
    """Drains under way will make the room."""
    EVICTS_BUSY = 4
    WAITS = 5
    """Those who are rising, or awake for too short a time, will be evicted."""
    STOPS = 6
    """Only if some engines are stopped."""
    BLOCKED = 7


EVICTIONS = (
    (Verdict.EVICTS_IDLE, Depth.LEVEL_2),
    (Verdict.EVICTS_BUSY, Depth.LEVEL_2),
    (Verdict.WAITS, Depth.LEVEL_2),
    (Verdict.STOPS, Depth.STOPPED),
)
"""How far each may demote."""


@dataclass(frozen=True, slots=True)
class Asker:
    """For whom the room is."""

    model: ModelName
    replica: ReplicaId | None = None
    can_evict: bool = True
    can_drain: bool = True
    can_stop: bool = True
    evict_to: Depth = Depth.LEVEL_1
    ahead: dict[ModelName, None] = field(default_factory=dict)
    """Models whose demands come first: what sleeps of them is not to be pushed deeper."""
    behind: dict[ModelName, None] = field(default_factory=dict)
    """Models whose demands come later: better spared."""


@dataclass(frozen=True, slots=True)
class Fit:
    place: Place
    need: Amounts
    verdict: Verdict
    drains: tuple[ReplicaId, ...] = ()
    moves: tuple[Move, ...] = ()

    @property
    def rank(self) -> tuple[int, int, float, int]:
        """The less disturbing, the smaller."""
        busy = sum(move.is_busy for move in self.moves)
        cost_s = sum(move.cost_s for move in self.moves)
        return (self.verdict, busy + len(self.drains), cost_s, len(self.moves))


class NodeRoom:
    def __init__(self, books: Books, node: NodeId) -> None:
        self.books = books
        self.node = node
        self.closed: dict[DeviceId, None] = {}
        """Where somebody with more right waits and nothing more can be done for it."""
        self.drains: dict[ReplicaId, Amounts] = {}
        """Evicting drains that nobody claimed, and what they will free."""
        ledger = books.ledger
        self.spare: Amounts = {r: ledger.free(node, r) for r in ledger.budgets.get(node, {})}
        for replica in books.moving.values():
            if replica.place is None or replica.place.node != node:
                continue
            goal = replica.goal
            if goal is not None and goal.cause is Cause.EVICTED:
                self.drains[replica.id] = self._coming(replica)
            else:
                self._add(self._coming(replica))

    def fit_free(self, place: Place, need: Amounts) -> Fit:
        """Into what is free or coming free: READY, COMING or BLOCKED."""
        free, verdict = self.books.ledger.free, Verdict.READY
        if self.closed and any(device in self.closed for device in place.devices):
            return Fit(place, need, Verdict.BLOCKED)
        for resource, amount in need.items():
            if amount > 0 and amount > self.spare.get(resource, 0):
                return Fit(place, need, Verdict.BLOCKED)
            if amount > 0 and amount > free(self.node, resource):
                verdict = Verdict.COMING
        return Fit(place, need, verdict)

    def fit_evicting(self, asker: Asker, place: Place, need: Amounts) -> Fit:
        """With demotions, where the asker may ask for them."""
        if not asker.can_evict or any(device in self.closed for device in place.devices):
            return Fit(place, need, Verdict.BLOCKED)
        lacking = {r: amount - self.spare.get(r, 0) for r, amount in need.items()}
        for resource, amount in need.items():
            if amount <= 0:
                lacking[resource] = min(0, lacking[resource])
        return self._evicting(asker, place, need, lacking)

    def relieve(self, asker: Asker) -> Fit:
        """Demotions that bring the node back within its budget."""
        place = Place(self.node, devices_of(self))
        lacking = {resource: -amount for resource, amount in self.spare.items()}
        return self._evicting(asker, place, {}, lacking)

    def _evicting(self, asker: Asker, place: Place, need: Amounts, lacking: Amounts) -> Fit:
        """First among the idle, then with drains, and only then by stopping engines: a drain
        is over when its responses are, a cold start waits for whoever comes after."""
        host_free = max(0, self.books.ledger.free(self.node, HOST))
        devices = () if lacking.get(HOST, 0) > 0 else place.devices
        drains: tuple[ReplicaId, ...] = ()
        for verdict, deepest in EVICTIONS:
            if verdict in (Verdict.EVICTS_BUSY, Verdict.WAITS) and not asker.can_drain:
                continue
            if verdict is Verdict.EVICTS_BUSY:
                drains = self._use_drains(lacking)
                if _is_enough(lacking):
                    return Fit(place, need, Verdict.DRAINS, drains)
            if verdict is Verdict.STOPS and not asker.can_stop:
                continue
            victims = list(self.victims(asker, devices, deepest))
            if verdict is Verdict.EVICTS_IDLE:
                victims = [victim for victim in victims if not victim.is_busy]
            if verdict is Verdict.WAITS:
                victims += self._later_victims(asker, devices)
            moves = make_room(lacking, host_free, victims)
            if moves and verdict is Verdict.WAITS:
                return Fit(place, need, verdict, drains)
            if moves:
                return Fit(place, need, verdict, drains, tuple(moves))
        return Fit(place, need, Verdict.BLOCKED)

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

    def victims(
        self, asker: Asker, devices: tuple[DeviceId, ...] = (), deepest: Depth = Depth.STOPPED
    ) -> Iterator[Victim]:
        """Whom the asker may have demoted; with devices, only of those who are on one."""
        for replica in self._replicas():
            if devices and not _shares(replica, devices):
                continue
            if replica.is_retiring or replica.id == asker.replica:
                continue
            if self.books.models[replica.model].spec.pinned:
                continue
            is_awake = replica.phase is Phase.AWAKE and not self._is_spared(replica, asker)
            is_asleep = replica.phase is Phase.ASLEEP and replica.model not in asker.ahead
            if is_awake or is_asleep:
                yield self._victim(replica, asker, deepest)

    def _later_victims(self, asker: Asker, devices: tuple[DeviceId, ...]) -> Iterator[Victim]:
        """Those who will be victims once they are awake, or have been for long enough."""
        for replica in self._replicas():
            spec = self.books.models[replica.model].spec
            if spec.pinned or replica.is_retiring or not (not devices or _shares(replica, devices)):
                continue
            is_spared = replica.phase is Phase.AWAKE and self._is_spared(replica, asker)
            if is_spared or replica.phase in RISING:
                yield self._victim(replica, asker, Depth.LEVEL_2)

    def never_free(self, asker: Asker) -> Amounts:
        """What others hold here however far they are demoted."""
        total: Amounts = {}
        for replica in self._replicas():
            record = self.books.models[replica.model]
            spec = record.spec
            if not spec.pinned and spec.deepest is Depth.STOPPED:
                continue
            if replica.id == asker.replica or replica.is_retiring or replica.place is None:
                continue
            least = spread(self.books.will_hold(replica), replica.place.devices)
            if not spec.pinned:
                for rung in RUNGS:
                    if self.books.heads_for(replica) < rung <= spec.deepest:
                        lower = spread(self.books.footprint(replica, rung), replica.place.devices)
                        least = {r: min(a, lower[r]) for r, a in least.items()}
            for resource, amount in least.items():
                total[resource] = total.get(resource, 0) + amount
        return total

    def _is_spared(self, replica: Replica, asker: Asker) -> bool:
        """Busy ones are, unless the asker may drain and they have been awake long enough."""
        if not replica.leases:
            return False
        until = replica.awake_since + self.books.policy.minimum_awake_s
        return not asker.can_drain or self.books.now < until

    def _victim(self, replica: Replica, asker: Asker, deepest: Depth) -> Victim:
        limit = self.books.models[replica.model].spec.deepest
        is_awake = replica.phase is not Phase.ASLEEP
        first = min(asker.evict_to, limit) if is_awake else Depth(replica.depth + 1)
        depths = [rung for rung in RUNGS if first <= rung <= min(deepest, limit)]
        costs, model = self.books.costs, replica.model
        now_s = costs.raising(model, replica.depth)
        choices = tuple(
            [
                Choice(depth, self._relief(replica, depth), costs.raising(model, depth) - now_s)
                for depth in depths
            ]
        )
        return Victim(
            replica=replica.id,
            is_busy=bool(replica.leases) or replica.phase in RISING,
            is_awake=is_awake,
            is_wanted=replica.model in asker.behind,
            idle_since=replica.idle_since,
            choices=choices,
        )

    def _relief(self, replica: Replica, depth: Depth) -> Amounts:
        """What comes free when it rests at ``depth``."""
        assert replica.place is not None
        after, held = self.books.footprint(replica, depth), self.books.will_hold(replica)
        relief = dict.fromkeys(replica.place.devices, held.device_bytes - after.device_bytes)
        relief[HOST] = held.host_bytes - after.host_bytes
        return relief

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

    def _replicas(self) -> Iterator[Replica]:
        replicas = self.books.replicas
        return (replicas[r] for r in self.books.ledger.bookings.get(self.node, {}))

    def _coming(self, replica: Replica) -> Amounts:
        """What its order, or its drain, will free."""
        booking = self.books.ledger.bookings[self.node][replica.id]
        after, devices = self.books.will_hold(replica), booking.place.devices
        coming = dict.fromkeys(devices, booking.footprint.device_bytes - after.device_bytes)
        coming[HOST] = booking.footprint.host_bytes - after.host_bytes
        return coming

    def _add(self, relief: Amounts) -> None:
        for resource, amount in relief.items():
            self.spare[resource] = self.spare.get(resource, 0) + amount


class Rooms:
    def __init__(self, books: Books) -> None:
        self.books = books
        self._nodes: dict[NodeId, NodeRoom] = {}

    def at(self, node: NodeId) -> NodeRoom:
        if node not in self._nodes:
            self._nodes[node] = NodeRoom(self.books, node)
        return self._nodes[node]

    def nodes(self) -> list[NodeRoom]:
        return [self.at(node) for node in self.books.ledger.budgets]

    def are_closed(self) -> bool:
        known = self._nodes
        return all(n in known and known[n].is_closed() for n in self.books.ledger.budgets)


def devices_of(room: NodeRoom) -> tuple[DeviceId, ...]:
    return tuple([r for r in room.books.ledger.budgets.get(room.node, {}) if r != HOST])


def _shares(replica: Replica, devices: tuple[DeviceId, ...]) -> bool:
    return replica.place is not None and any(d in devices for d in replica.place.devices)


def _is_enough(lacking: Amounts) -> bool:
    return all(amount <= 0 for amount in lacking.values())
