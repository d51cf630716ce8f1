"""Seeds and faults: whatever breaks, everybody gets an answer and the fleet comes to rest."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from controller.core.commands import SleepEngine, StopEngine
from controller.core.events import (
    DemotionOrdered,
    Event,
    ModelChanged,
    ModelRemoved,
    NodeLost,
    PinOrdered,
    RequestCancelled,
    SwitchOrdered,
    WakeOrdered,
)
from controller.core.fleet import Fleet
from controller.core.lifecycle import IN_FLIGHT, Phase
from controller.core.names import (
    NEVER,
    Depth,
    Instant,
    ModelName,
    NodeId,
    OperationId,
    Priority,
    RequestId,
)
from controller.drivers.sim import Simulator
from controller.drivers.world import Faults
from tests.core.fleets import ladder, node, policy, simulator, spec, tier, to_be_had

NAMES = ("a", "b", "c", "d", "e")
FAULTS = Faults(
    order_fails=0.08,
    answers_late=0.05,
    answers_twice=0.1,
    canary_disagrees=0.08,
    runs_out=0.04,
    leaks=0.3,
    hangs=0.03,
    tier_stays=0.3,
    dies_later=0.1,
)


CROWDED = {"busy_leases": 3, "residual_growth_bytes": 1}


def crowd(seed: int, faults: Faults, **more: Any) -> Simulator:
    """Five models of which two or so fit, one of them twice, on two nodes of two devices."""
    dice = Random(seed)
    short = ladder(float("inf"), 20.0, 60.0, 200.0)
    specs = [
        spec(name, dice.randint(5, 16), ladder=short, max_restarts=5, keeps_kv=name != "b")
        for name in NAMES[:3]
    ]
    specs.append(spec("d", 8, devices_per_replica=2, deepest=Depth.LEVEL_2, max_restarts=5))
    specs.append(spec("e", 6, replicas=2, ladder=short, max_restarts=5))
    nodes = (node(0.0, "n", 2, 17, 24), node(0.0, "m", 2, 12, 8))
    return simulator(*specs, seed=seed, faults=faults, nodes=nodes, **CROWDED, **more)


def ask_around(
    sim: Simulator, seed: int, count: int = 40, seconds: float = 300.0, long: float = 0.0
) -> None:
    """``long``: the share of requests that take twenty times as long."""
    priorities = [Priority.DEFAULT, Priority.DEFAULT, Priority.PRIORITY, Priority.FLEX]
    dice = Random(f"requests {seed}")
    for number in range(count):
        at, name = dice.uniform(0, seconds), f"r{number}"
        model, serve_s = dice.choice(NAMES), dice.uniform(0.1, 8.0)
        max_wait_s, tenant = dice.choice([None, 60.0]), dice.choice(["", "x", "y"])
        priority, can_freeze = dice.choice(priorities), dice.random() < 0.8
        if dice.random() < long:
            serve_s *= 20
        sim.request(at, name, model, serve_s, max_wait_s, tenant, priority, can_freeze=can_freeze)
        if dice.random() < 0.1:
            sim.schedule(RequestCancelled(Instant(at + dice.uniform(0, 9.0)), RequestId(name)))


def order_about(sim: Simulator, seed: int, seconds: float = 300.0) -> list[OperationId]:
    dice = Random(f"orders {seed}")
    orders = [OperationId(f"o{number}") for number in range(8)]
    for order in orders:
        at, model = Instant(dice.uniform(1, seconds)), ModelName(dice.choice(NAMES))
        other = dice.choice([None, *(ModelName(name) for name in NAMES)])
        depth = dice.choice([Depth.LEVEL_1, Depth.LEVEL_2, Depth.STOPPED])
        events: list[Event] = [
            WakeOrdered(at, order, model),
            DemotionOrdered(at, order, model, depth),
            SwitchOrdered(at, order, model, other, depth),
        ]
        sim.schedule(dice.choice(events))
    for start in (dice.uniform(1, seconds), dice.uniform(1, seconds)):
        name = dice.choice(NAMES[:3])
        sim.schedule(PinOrdered(Instant(start), ModelName(name), True))
        sim.schedule(PinOrdered(Instant(start + 40.0), ModelName(name), False))
    changed = spec("a", dice.randint(5, 16), ladder=ladder(5.0, 30.0), max_restarts=5)
    sim.schedule(ModelChanged(Instant(dice.uniform(1, seconds)), changed, dice.random() < 0.5))
    if dice.random() < 0.3:
        sim.schedule(ModelRemoved(Instant(dice.uniform(1, seconds)), ModelName("b")))
    return orders


def take_memory(sim: Simulator, seed: int, seconds: float = 300.0, tier_restarts: int = 3) -> None:
    """Others hold some of it, now more, now less, and give it all back in the end."""
    dice = Random(f"others {seed}")
    for name in ("n", "m"):
        for at in sorted(dice.uniform(0, seconds) for _ in range(6)):
            device, host = dice.choice([0, 6, 10, 14, 99]), dice.choice([0, 8, 99])
            sim.schedule(to_be_had(at, name, 2, device, host))
        sim.schedule(to_be_had(seconds, name, 2, 99, 99))
    keep_kv(sim, seed, seconds, tier_restarts)


def keep_kv(sim: Simulator, seed: int, seconds: float, restarts: int) -> None:
    """Of the node n on a device, of the other on its host; their servers start again at times."""
    dice = Random(f"tiers {seed}")
    for name, device in (("n", "1"), ("m", "host")):
        for at in (1.0, *(dice.uniform(1, seconds) for _ in range(restarts))):
            sim.schedule(tier(at, name=name, device=device))


def assert_settled(sim: Simulator) -> None:
    """Liveness: everybody was answered, at most once, in time; nothing is left to happen."""
    for name, client in sim.clients.items():
        assert client.is_settled, name
        assert len(client.granted) + len(client.rejected) <= 1 + client.is_cancelled, name
        limit = client.max_wait_s
        if limit is None:
            limit = max(record.spec.max_wait_s for record in sim.fleet.models.values())
        for at in client.granted:
            assert at <= client.arrived + limit, name
    assert sim.fleet.waiting() == 0
    for replica in sim.fleet.replicas.values():
        assert replica.phase not in IN_FLIGHT, replica
        assert replica.phase not in (Phase.FAILED, Phase.DRAINING), replica
        assert not replica.leases


@pytest.mark.parametrize("seed", range(25))
def test_without_faults_everybody_is_served(seed: int) -> None:
    sim = crowd(seed, Faults())
    ask_around(sim, seed)
    sim.run()
    assert_settled(sim)
    refused = [c.rejected[0].reason for c in sim.clients.values() if c.rejected]
    assert not refused


@pytest.mark.parametrize("seed", range(40))
def test_with_faults_everybody_is_answered(seed: int) -> None:
    sim = crowd(seed, FAULTS, prefetch_start=seed % 2 == 0, minimum_awake_s=seed % 3)
    ask_around(sim, seed)
    orders = order_about(sim, seed)
    if seed % 4 == 0:
        sim.schedule(NodeLost(Instant(100.0), NodeId("m")))
        sim.schedule(node(150.0, "m", 2, 12, 8))
    if seed % 5 == 0:
        sim.schedule(node(200.0, "n", 2, 9, 10))
    if seed % 3 == 0:
        take_memory(sim, seed)
    sim.run()
    assert_settled(sim)
    assert {order: len(sim.finished.get(order, [])) for order in orders} == dict.fromkeys(orders, 1)


def test_whatever_befalls_frozen_responses_everybody_is_settled() -> None:
    freezes = 0
    for seed in range(12):
        sim = crowd(seed, FAULTS, maximum_wait_behind_s=5.0, minimum_awake_s=1.0)
        ask_around(sim, seed, count=60, long=0.3)
        order_about(sim, seed)
        sim.schedule(NodeLost(Instant(200.0), NodeId("m")))
        sim.schedule(node(250.0, "m", 2, 12, 8))
        sim.run()
        assert_settled(sim)
        orders = [command for _, commands in sim.journal for command in commands]
        freezes += sum(isinstance(order, SleepEngine) and order.keep for order in orders)
    assert freezes > 20


@pytest.mark.parametrize("seed", range(5))
def test_a_journal_replays_to_itself(seed: int) -> None:
    sim = crowd(seed, FAULTS)
    ask_around(sim, seed)
    order_about(sim, seed)
    sim.run()
    replayed = Fleet(policy(**CROWDED))
    for event, commands in sim.journal:
        assert replayed.handle(event) == commands


def test_with_no_requests_residency_only_descends() -> None:
    sim = crowd(1, Faults())
    ask_around(sim, 1)
    sim.run(330.0)
    depths = {r.id: r.depth for r in sim.fleet.replicas.values()}
    assert Depth.AWAKE in depths.values()
    quiet = len(sim.journal)
    sim.run()
    later = [type(c) for _, commands in sim.journal[quiet:] for c in commands]
    assert set(later) == {SleepEngine, StopEngine}
    assert all(r.depth >= depths[r.id] for r in sim.fleet.replicas.values())
    assert all(r.depth is Depth.STOPPED for r in sim.fleet.replicas.values() if r.model != "d")


def test_a_stream_does_not_overtake_the_oldest_for_ever() -> None:
    sim = simulator(spec("a", 20), spec("b", 20))
    for number in range(400):
        sim.request(number * 0.5, f"a{number}", "a", serve_s=3.0)
    sim.request(30.0, "b", "b", max_wait_s=60.0)
    sim.run()
    assert_settled(sim)
    assert sim.clients[RequestId("b")].granted[0] < 60.0


def throng(seed: int) -> Simulator:
    """Twenty-five models, some over two devices, some twice, on two nodes of three devices."""
    dice = Random(seed)
    names = [f"m{number}" for number in range(25)]
    specs = [
        spec(
            name,
            dice.randint(3, 23),
            devices_per_replica=dice.choice([1, 1, 1, 2]),
            replicas=dice.choice([1, 1, 1, 2]),
            ladder=ladder(dice.choice([10.0, NEVER]), dice.choice([20.0, 60.0, NEVER])),
            deepest=dice.choice([*[Depth.STOPPED] * 5, Depth.LEVEL_2, Depth.LEVEL_1]),
            max_restarts=5,
        )
        for name in names
    ]
    sim = simulator(
        *specs,
        seed=seed,
        nodes=(node(0.0, "n", 3, 24, 60), node(0.0, "m", 3, 24, 60)),
        busy_leases=dice.choice([2, 3, 10**6]),
        evict_to=dice.choice([Depth.KV_RELEASED, Depth.LEVEL_1, Depth.LEVEL_2]),
        minimum_awake_s=float(dice.choice([0, 2, 4])),
        prefetch_start=dice.random() < 0.5,
    )
    for number in range(200):
        name = names[int(25 * dice.random() ** 2)]
        sim.request(dice.uniform(0, 300), f"r{number}", name, dice.uniform(0.1, 8.0))
    return sim


@pytest.mark.parametrize("seed", range(11, 19))
def test_a_throng_of_several_widths_comes_to_rest(seed: int) -> None:
    sim = throng(seed)
    sim.run()
    assert_settled(sim)
