"""Whether a replica could be raised here now, after what is coming free, or after evictions.

One ``Rooms`` lives for one look at the fleet. Demands are fitted in their order of right; each
claims what it will use, so that nobody counts on the same bytes twice: ``spare`` is what is
free, and what orders in flight will free, less what is claimed.
"""

from __future__ import annotations

from controller.core.books import Books
from controller.core.lifecycle import Replica
from controller.core.names import NodeId
from controller.core.node_room import NodeRoom


class Rooms:
    def __init__(self, books: Books) -> None:
        self.books = books
        self._nodes: dict[NodeId, NodeRoom] = {}
        self._moving: dict[NodeId, list[Replica]] = {}
        for replica in books.moving.values():
            if replica.place is not None:
                self._moving.setdefault(replica.place.node, []).append(replica)

    def at(self, node: NodeId) -> NodeRoom:
        if node not in self._nodes:
            self._nodes[node] = NodeRoom(self.books, node, self._moving.get(node, ()))
        return self._nodes[node]

    def nodes(self) -> list[NodeRoom]:
        return [self.at(node) for node in self.books.ledger.budgets]

    def are_closed(self) -> bool:
        known = self._nodes
        return all(n in known and known[n].is_closed() for n in self.books.ledger.budgets)
