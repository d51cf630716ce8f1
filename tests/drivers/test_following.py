"""Measured memory as budgets: what is kept free, whose is whose, and who is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from controller.core.events import BudgetMeasured, TierMeasured
from controller.core.ledger import HOST
from controller.core.names import DeviceId, Instant, NodeId
from controller.core.steadying import FollowPolicy
from controller.core.tier import Tier
from controller.drivers.following import Following
from controller.drivers.world import Faults
from controller.ports import NodeFound, NodeMemory
from tests.drivers.stand import a_fleet
from tests.drivers.virtual_loop import run
from workers.pool_values import ResourceMemory

NOW = Instant(0.0)
CPU = ResourceMemory("cpu", 1000, free_bytes=800, own_bytes=100)
NODE = NodeMemory("n", (CPU,), CPU, stalled_percent=0.0)
GPU_NODE = NodeMemory(
    "n",
    (ResourceMemory("cuda:0", 1000, 100, 700), ResourceMemory("cuda:1", 1000, 900, None)),
    ResourceMemory("host", 2000, 1500, None),
    0.0,
)
NO_HEADROOM = FollowPolicy(headroom_fraction=0.0)


def one_memory(free: int, own: int, stalled_percent: float = 0.0) -> NodeMemory:
    cpu = replace(CPU, free_bytes=free, own_bytes=own)
    return NodeMemory("n", (cpu,), cpu, stalled_percent)


def budget(memory: NodeMemory, policy: FollowPolicy = NO_HEADROOM) -> int | None:
    """Of a node without a GPU; None: no event."""
    event = Following(policy).look(NOW, memory, {})
    return None if event is None else event.devices[0][1]


def test_the_fleets_own_is_not_taken_by_others() -> None:
    assert budget(one_memory(free=300, own=700)) is None
    assert budget(one_memory(free=300, own=100)) == 400


def test_some_is_kept_free_and_more_while_tasks_stall() -> None:
    policy = FollowPolicy(headroom_fraction=0.1, stall_percent=10.0)
    assert budget(one_memory(300, 100), policy) == 300
    assert budget(one_memory(300, 100, stalled_percent=12.0), policy) == 100


def test_what_the_kv_tier_may_grow_to_is_not_for_engines() -> None:
    assert budget(one_memory(300, 100), replace(NO_HEADROOM, reserved_bytes=50)) == 350


def test_what_is_within_the_named_budget_is_no_cut() -> None:
    half = Following(NO_HEADROOM, lambda found: NodeFound("n", (("cpu", 400),), 0))
    assert half.look(NOW, one_memory(free=300, own=100), {}) is None
    assert half.look(NOW, one_memory(free=100, own=100), {}) is not None


def test_where_the_fleets_own_cannot_be_seen_it_is_what_is_booked() -> None:
    following = Following(NO_HEADROOM)
    booked = {DeviceId("cuda:1"): 100, HOST: 300}
    event = following.look(NOW, GPU_NODE, booked)
    expected = ((DeviceId("cuda:0"), 800), (DeviceId("cuda:1"), 1000))
    assert event == BudgetMeasured(NOW, NodeId("n"), expected, 1800)


def test_what_is_not_followed_is_never_cut() -> None:
    memory = one_memory(free=0, own=0)
    assert budget(memory, replace(NO_HEADROOM, follows_devices=False)) is None
    only_host = replace(NO_HEADROOM, follows_devices=False)
    event = Following(only_host).look(NOW, GPU_NODE, {})
    assert event is not None
    assert (event.devices[0][1], event.host_bytes) == (1000, 1500)


def test_the_same_again_is_no_news() -> None:
    following = Following(NO_HEADROOM)
    assert following.look(NOW, one_memory(300, 100), {}) is not None
    assert following.look(Instant(2.0), one_memory(301, 100), {}) is None


async def _a_live_fleet() -> None:
    async with a_fleet(following=Following(NO_HEADROOM)) as stand:
        for model in "ab":
            async with stand.leases.acquire(model, request_id=model):
                await asyncio.sleep(0.1)
        device = ResourceMemory("0", 24, free_bytes=0, own_bytes=14)
        host = ResourceMemory("host", 100, free_bytes=100, own_bytes=0)
        stand.pool.measured.put_nowait([NodeMemory("n", (device,), host, 0.0)])
        await asyncio.sleep(60)
        assert stand.seen.phases_of("a#0")[-1] == "ASLEEP"
        [node] = stand.control.view().nodes
        assert node.taken == (("0", 10),)
        assert any("what others took" in str(line["what"]) for line in stand.control.why("a"))


def test_a_live_fleet_demotes_when_others_take_memory() -> None:
    run(_a_live_fleet())


def test_a_tier_is_told_of_when_it_is_not_as_large_as_is_known() -> None:
    following = Following(replace(NO_HEADROOM, reserved_bytes=64))
    told = replace(one_memory(300, 100), tier_bytes=40)
    event = following.tier(NOW, told, None)
    assert event == TierMeasured(NOW, NodeId("n"), DeviceId("cpu"), 64, 16, 40)
    known = Tier(NodeId("n"), DeviceId("cpu"), 64, 16, held_bytes=40)
    assert following.tier(NOW, told, known) is None
    assert following.tier(NOW, replace(told, tier_bytes=64), known) is not None
    assert following.tier(NOW, one_memory(300, 100), known) is None, "it cannot be changed"


async def _a_live_fleet_with_a_tier(*, is_away: bool) -> None:
    following = Following(replace(NO_HEADROOM, reserved_bytes=8))
    async with a_fleet(following=following) as stand:
        for model in "ab":
            async with stand.leases.acquire(model, request_id=model):
                await asyncio.sleep(0.1)
        stand.pool.world.faults = Faults(order_fails=float(is_away))
        device = ResourceMemory("0", 24, free_bytes=4, own_bytes=22)
        host = ResourceMemory("0", 24, free_bytes=4, own_bytes=22)
        one = NodeMemory("n", (device,), host, 0.0, tier_bytes=8)
        stand.pool.measured.put_nowait([one])
        await asyncio.sleep(60)
        assert ("resize", "n") in stand.pool.orders
        [node] = stand.control.view().nodes
        assert node.kv_tier == ("0", 8 if is_away else 6, 8)
        assert (stand.seen.phases_of("a#0")[-1] == "AWAKE") is not is_away


def test_a_live_fleets_kv_tier_shrinks_before_an_engine_sleeps() -> None:
    run(_a_live_fleet_with_a_tier(is_away=False))


def test_where_the_kv_tier_is_away_an_engine_sleeps() -> None:
    run(_a_live_fleet_with_a_tier(is_away=True))
