"""Memory: who has booked how much of which device and of which host.

Theory of operation. Every node has resources: its devices, and ``HOST``, its host memory. A
replica that holds memory has one booking. The memory rule:

- An order *reserves* the larger of what is held and of what will be held, before it goes out.
  A reservation that would take a resource over its budget is our mistake.
- Success *settles* the booking to what is held now, measured where it was measured. A failure
  changes nothing. A broken engine keeps its bytes until it is known to be gone: *release*.

The world may hold more than was reserved: an engine measured larger than it was estimated, a
budget cut by an administrator, an engine that was found running. Then a resource is over its
budget through no order of ours; ``excused`` remembers how far, no reservation is granted
there, and the plan evicts until it is within the budget again.

A budget is what was named for a resource, or what can be had of it, where that is less because
others than the fleet hold memory too. Whether a model can ever fit is asked of what was named;
whether it fits now, of the budget.

Doubt: on a node without a GPU device and host are one memory; all of it is booked on the
device ``cpu``, and the host budget there is without meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.core.lifecycle import InvariantBroken, Place, Replica
from controller.core.names import NOTHING, DeviceId, Footprint, NodeId, ReplicaId

HOST = DeviceId("host")
"""Host memory, as one more resource of a node."""

Amounts = dict[DeviceId, int]
"""Bytes by resource of one node."""


def spread(footprint: Footprint, devices: tuple[DeviceId, ...]) -> Amounts:
    """What a footprint is on these devices and on the host."""
    amounts = dict.fromkeys(devices, footprint.device_bytes)
    amounts[HOST] = footprint.host_bytes
    return amounts


@dataclass(frozen=True, slots=True)
class Booking:
    place: Place
    footprint: Footprint


class Ledger:
    def __init__(self) -> None:
        self.budgets: dict[NodeId, Amounts] = {}
        """Nodes that are there."""
        self.named: dict[NodeId, Amounts] = {}
        """Their budgets if nobody else held anything there."""
        self._to_be_had: dict[NodeId, Amounts] = {}
        """As last measured; also of nodes that are not there yet."""
        self._given: dict[NodeId, Amounts] = {}
        """Reserved for others of the fleet, and left to its engines for now."""
        self.bookings: dict[NodeId, dict[ReplicaId, Booking]] = {}
        self.excused: dict[NodeId, Amounts] = {}
        self._booked: dict[NodeId, Amounts] = {}
        self._on: dict[NodeId, dict[DeviceId, dict[ReplicaId, None]]] = {}
        """An index of the bookings."""

    def join(self, node: NodeId, devices: tuple[tuple[DeviceId, int], ...], host: int) -> None:
        """A node is there, or its budgets changed; what is booked stays booked."""
        self.named[node] = {**dict(devices), HOST: host}
        self._set_budgets(node)

    def measure(self, node: NodeId, to_be_had: Amounts) -> None:
        """Of resources that are not in it all can be had."""
        self._to_be_had[node] = to_be_had
        if node in self.named:
            self._set_budgets(node)

    def give(self, node: NodeId, given: Amounts) -> None:
        """In addition to what can be had."""
        self._given[node] = given
        self._set_budgets(node)

    def given(self, node: NodeId) -> Amounts:
        return self._given.get(node, {})

    def deficit(self, node: NodeId, resource: DeviceId) -> int:
        """So much of what was named cannot be had, but for what is given."""
        named = self.named[node].get(resource, 0)
        return max(0, named - self._to_be_had.get(node, {}).get(resource, named))

    def is_cut(self, node: NodeId) -> bool:
        """Others hold some of what was named."""
        return self.budgets.get(node) != self.named.get(node)

    def is_cut_anywhere(self) -> bool:
        return any(self.is_cut(node) for node in self.budgets)

    def taken(self, node: NodeId) -> Amounts:
        """So much of what was named do others hold."""
        budget = self.budgets[node]
        return {r: size - budget[r] for r, size in self.named[node].items()}

    def leave(self, node: NodeId) -> None:
        """The node is gone with everything on it."""
        for shelf in self._shelves():
            shelf.pop(node, None)
        self.bookings.pop(node, None)
        self._on.pop(node, None)

    def _shelves(self) -> tuple[dict[NodeId, Amounts], ...]:
        return (
            self.budgets,
            self.named,
            self._to_be_had,
            self._given,
            self.excused,
            self._booked,
        )

    def reserve(self, replica: Replica, place: Place, footprint: Footprint) -> None:
        """Raise a booking to ``footprint``, which must fit."""
        before = self.held(replica.id, place.node)
        for resource, amount in spread(footprint, place.devices).items():
            growth = amount - before.get(resource, 0)
            if growth > 0 and growth > self.free(place.node, resource):
                raise InvariantBroken(f"{replica.id} overdraws {resource} of {place.node}", replica)
        self._write(replica.id, Booking(place, footprint))
        self._excuse(place.node)

    def settle(self, replica: Replica, place: Place, footprint: Footprint) -> None:
        """Book what is held now, whatever the budget."""
        self._write(replica.id, Booking(place, footprint))
        self._excuse(place.node)

    def release(self, replica: Replica, place: Place) -> None:
        self._write(replica.id, Booking(place, NOTHING))
        self.bookings.get(place.node, {}).pop(replica.id, None)
        for device in place.devices:
            self._on[place.node][device].pop(replica.id, None)
        self._excuse(place.node)

    def held(self, replica: ReplicaId, node: NodeId) -> Amounts:
        booking = self.bookings.get(node, {}).get(replica)
        return spread(booking.footprint, booking.place.devices) if booking else {}

    def on(self, node: NodeId, device: DeviceId) -> Iterable[ReplicaId]:
        """Who has booked anything there."""
        return self._on.get(node, {}).get(device, {})

    def booked(self, node: NodeId) -> Amounts:
        return self._booked.get(node, {})

    def free(self, node: NodeId, resource: DeviceId) -> int:
        """Negative where the resource is over its budget."""
        budget = self.budgets.get(node, {}).get(resource, 0)
        return budget - self._booked.get(node, {}).get(resource, 0)

    def free_on(self, node: NodeId) -> Amounts:
        """Of all that the node has."""
        booked = self._booked.get(node, {})
        return {r: budget - booked.get(r, 0) for r, budget in self.budgets.get(node, {}).items()}

    def is_over_budget(self, node: NodeId) -> bool:
        return any(self.excused.get(node, {}).values())

    def is_over_any_budget(self) -> bool:
        return any(self.excused.values())

    def _write(self, replica: ReplicaId, booking: Booking) -> None:
        node = booking.place.node
        bookings = self.bookings.setdefault(node, {})
        booked = self._booked.setdefault(node, {})
        if before := bookings.get(replica):
            for resource, amount in spread(before.footprint, before.place.devices).items():
                booked[resource] -= amount
        for resource, amount in spread(booking.footprint, booking.place.devices).items():
            booked[resource] = booked.get(resource, 0) + amount
        bookings[replica] = booking
        for device in booking.place.devices:
            self._on.setdefault(node, {}).setdefault(device, {})[replica] = None
        if any(amount < 0 for amount in booked.values()):
            raise InvariantBroken(f"{replica}: less than nothing is booked on {node}: {booked}")

    def _set_budgets(self, node: NodeId) -> None:
        can_have, given = self._to_be_had.get(node, {}), self._given.get(node, {})
        self.budgets[node] = {
            r: min(size, max(0, can_have.get(r, size)) + given.get(r, 0))
            for r, size in self.named[node].items()
        }
        self._excuse(node)

    def _excuse(self, node: NodeId) -> None:
        if node in self.budgets:
            booked = self._booked.get(node, {})
            over = {r: max(0, -self.free(node, r)) for r in booked}
            self.excused[node] = {r: amount for r, amount in over.items() if amount}
