"""The KVOrders port on a live driver: which node, which path; then the pool."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from controller.core.names import ReplicaId
from controller.drivers.live import LiveDriver
from kv_store.conversations import KVPlace
from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from workers.engine import EngineGone, KeepsNoKV

_LIMIT_S = 20.0
_RECALL_LIMIT_S = 60.0
"""Nobody waits for it, and it may wait for an engine that starts."""


class LiveKVOrders:
    def __init__(self, driver: LiveDriver) -> None:
        self._driver = driver

    def place(self, replica: str, salt: str) -> KVPlace | None:
        known = self._driver.fleet.replicas.get(ReplicaId(replica))
        spec = self._driver.engines.get(known.model) if known is not None else None
        if known is None or spec is None or known.place is None:
            return None
        return KVPlace(known.place.node, spec.path, salt)

    async def carry_out(self, place: KVPlace, order: KVOrder, prefix: Prefix) -> Placed:
        """A node that has gone took its host tier along; the durable one may be shared. What is
        to be forgotten every node forgets: replicas elsewhere may have served before."""
        nodes = list(self._driver.fleet.ledger.budgets)
        if not nodes:
            raise EngineGone("there is no node")
        node = place.node if place.node in nodes else nodes[0]
        limit_s = _RECALL_LIMIT_S if order is KVOrder.RECALL else _LIMIT_S
        others = [each for each in nodes if each != node] if order is KVOrder.FORGET else []
        placed = await self._driver.pool.kv(node, order, prefix, limit_s)
        await asyncio.gather(*(self._forget_elsewhere(each, prefix) for each in others))
        return placed

    async def _forget_elsewhere(self, node: str, prefix: Prefix) -> None:
        with suppress(EngineGone, KeepsNoKV):
            await self._driver.pool.kv(node, KVOrder.FORGET, prefix, _LIMIT_S)
