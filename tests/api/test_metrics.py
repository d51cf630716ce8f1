"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.parser import text_string_to_metric_families

from controller.core.commands import Command, SleepEngine, StartEngine, WakeEngine
from controller.core.events import (
    CanaryDisagreed,
    EngineFailed,
    EngineFellAsleep,
    EngineLost,
    EngineStarted,
    EngineWoke,
    Event,
    TimePassed,
)
from controller.core.names import (
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    ModelState,
    NodeId,
    OpId,
    ReplicaId,
)
from controller.metrics import Metrics
from tests.api.conftest import Stand
from tests.api.fakes import FakeControl
from workers.engine import Memory, Report

HELD = Footprint(1, 0)
REPLICA = ReplicaId("org/m#0")


def at(seconds: float) -> Instant:
    return Instant(seconds)


def figures(metrics: Metrics) -> dict[str, float]:
    text = metrics.render(FakeControl("chat").view()).decode()
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def told(*steps: tuple[Event, Sequence[Command]]) -> dict[str, float]:
    metrics = Metrics()
    for event, commands in steps:
        metrics.saw(event, commands)
    return figures(metrics)


def test_a_life_in_seconds() -> None:
    found = told(
        (
            TimePassed(at(0)),
            [StartEngine(OpId(1), REPLICA, ModelName("org/m"), NodeId("n"), (DeviceId("0"),))],
        ),
        (EngineStarted(at(30), OpId(1), REPLICA, HELD), []),
        (TimePassed(at(40)), [SleepEngine(OpId(2), REPLICA, Depth.LEVEL_1)]),
        (
            EngineFellAsleep(at(42), OpId(2), REPLICA, HELD),
            [WakeEngine(OpId(3), REPLICA, Depth.LEVEL_1)],
        ),
        (EngineWoke(at(42.5), OpId(3), REPLICA, HELD), []),
    )
    assert found["torpor_cold_start_seconds_sum['org/m']"] == 30
    assert found["torpor_sleep_seconds_sum['level_1', 'org/m']"] == 2
    assert found["torpor_wake_seconds_sum['level_1', 'org/m']"] == 0.5
    assert found["torpor_orders_total['level_1', 'ok', 'org/m', 'wake']"] == 1


def test_wakes_that_go_wrong() -> None:
    wake = [WakeEngine(OpId(1), REPLICA, Depth.LEVEL_2)]
    found = told(
        (TimePassed(at(0)), wake),
        (EngineWoke(at(1), OpId(9), REPLICA, HELD), []),
        (CanaryDisagreed(at(1), OpId(1), REPLICA, "other tokens"), []),
        (TimePassed(at(2)), wake),
        (EngineFailed(at(3), OpId(1), REPLICA, "no memory"), []),
        (TimePassed(at(4)), wake),
        (EngineLost(at(5), REPLICA, OpId(1), "killed"), []),
    )
    for outcome in ("canary_mismatch", "failed", "lost"):
        labels = sorted(["level_2", "org/m", outcome, "wake"])
        assert found[f"torpor_orders_total{labels}"] == 1
    assert found["torpor_engine_losses_total['org/m']"] == 1
    assert not any(key.startswith("torpor_wake_seconds_count") for key in found)


def test_reports_and_demotions() -> None:
    metrics = Metrics()
    report = Report(Memory(1, 0), {"kv": 0.1, "weights": 0.4}, {"kv": 100, "remained": 7})
    metrics.reported("m", "sleep", Depth.LEVEL_1, report)
    metrics.demoted("m", Depth.LEVEL_1, "idle")
    found = figures(metrics)
    assert found["torpor_order_phase_seconds_sum['level_1', 'm', 'sleep', 'weights']"] == 0.4
    assert found["torpor_freed_bytes_total['kv', 'level_1', 'm']"] == 100
    assert found["torpor_demotions_total['idle', 'level_1', 'm']"] == 1


def test_how_the_fleet_stands() -> None:
    found = figures(Metrics())
    assert found["torpor_replica_phase['awake', 'chat', 'chat#0']"] == 1
    assert found["torpor_memory_bytes['booked', 'cpu', 'node-1']"] == 300
    assert found["torpor_memory_bytes['budget', 'cpu', 'node-1']"] == 1000
    assert found["torpor_memory_bytes['cpu', 'node-1', 'taken']"] == 40
    assert found["torpor_memory_bytes['cpu', 'kv_tier', 'node-1']"] == 60
    assert found["torpor_memory_bytes['cpu', 'kv_tier_given', 'node-1']"] == 20


def test_two_do_not_share() -> None:
    one, other = Metrics(), Metrics()
    one.request("m", "/v1/embeddings", 200)
    assert "torpor_requests_total" not in "".join(figures(other))


async def test_requests_as_they_were_answered(stand: Stand) -> None:
    stand.leases.state = ModelState.WOKEN
    await stand.engine()
    client = await stand.open()
    await client.post("/v1/completions", json={"model": "chat"})
    await client.post("/v1/completions", json={"model": "made-up-by-a-client"})
    await client.post("/v1/completions", content=b"{")
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = figures(stand.metrics)
    assert found["torpor_requests_total['/v1/completions', '200', 'chat']"] == 1
    assert found["torpor_requests_total['', '/v1/completions', '404']"] == 1
    assert found["torpor_requests_total['', '/v1/completions', '400']"] == 1
    assert found["torpor_request_queue_seconds_count['chat', 'woken']"] == 1
    assert found["torpor_request_ttft_seconds_count['chat', 'woken']"] == 1
    assert "made-up" not in answer.text
