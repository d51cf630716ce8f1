"""Which node's KV tier an order goes to, where there are two."""

from __future__ import annotations

import pytest

from controller.core.events import NodeJoined
from controller.core.fleet import Fleet, FleetPolicy
from controller.core.names import Instant, NodeId
from controller.drivers.kv_orders import LiveKVOrders
from controller.drivers.live import LiveDriver
from kv_store.conversations import KVPlace
from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from workers.engine import EngineError, EngineGone, KeepsNoKV
from workers.fake_tier import FakeTier
from workers.local_pool import LocalPool

PREFIX = Prefix("path", "salt", list(range(12)))


class Nodes(LocalPool):
    """Each has a tier of its own, but ``bare``; those that have gone are known for a moment
    longer."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.tiers = {name: FakeTier() for name in names}
        self.gone: set[str] = set()

    async def kv(self, node: str, order: KVOrder, prefix: Prefix, limit_s: float) -> Placed:
        if node in self.gone:
            raise EngineGone(node)
        if node == "bare":
            raise KeepsNoKV(node)
        return self.tiers[node].carry_out(order, prefix)


@pytest.fixture
def nodes() -> Nodes:
    nodes = Nodes("a", "b")
    for tier in nodes.tiers.values():
        tier.store(PREFIX.model, PREFIX.salt, PREFIX.tokens)
    return nodes


@pytest.fixture
def orders(nodes: Nodes) -> LiveKVOrders:
    driver = LiveDriver(Fleet(FleetPolicy()), nodes, [])
    for name in (*nodes.tiers, "bare"):
        driver.fleet.handle(NodeJoined(Instant(0.0), NodeId(name), (), 0))
    return LiveKVOrders(driver)


def place(node: str) -> KVPlace:
    return KVPlace(node, PREFIX.model, PREFIX.salt)


async def test_an_order_goes_where_the_kv_was_made(nodes: Nodes, orders: LiveKVOrders) -> None:
    await orders.carry_out(place("b"), KVOrder.HIBERNATE, PREFIX)
    assert [len(tier.host) for tier in nodes.tiers.values()] == [3, 0]


async def test_of_a_node_that_has_gone_another_is_asked(nodes: Nodes, orders: LiveKVOrders) -> None:
    placed = await orders.carry_out(place("gone"), KVOrder.WHERE, PREFIX)
    assert placed.in_host == 3


async def test_what_is_to_be_forgotten_every_node_forgets(
    nodes: Nodes, orders: LiveKVOrders
) -> None:
    await orders.carry_out(place("b"), KVOrder.FORGET, PREFIX)
    assert [len(tier.host) for tier in nodes.tiers.values()] == [0, 0]


async def test_a_tier_that_could_not_forget_is_told_of_and_a_node_that_has_gone_is_not(
    nodes: Nodes, orders: LiveKVOrders
) -> None:
    nodes.tiers["a"].is_away = True
    with pytest.raises(EngineError, match="away"):
        await orders.carry_out(place("b"), KVOrder.FORGET, PREFIX)
    assert not nodes.tiers["b"].host
    nodes.gone.add("a")
    await orders.carry_out(place("b"), KVOrder.FORGET, PREFIX)
