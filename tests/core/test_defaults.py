"""What holds where nothing is said is what docs/configuration.md says."""

from __future__ import annotations

import re
from dataclasses import asdict
from math import inf
from pathlib import Path

import pytest

from controller.core.bulkheads import LiveLimits
from controller.core.commands import SleepEngine
from controller.core.conversations import ConversationLimits, Lifetimes
from controller.core.events import LeaseFound, RequestArrived
from controller.core.fleet import Fleet
from controller.core.hanging import HangTimes
from controller.core.names import (
    Cause,
    CostGuess,
    Depth,
    Eviction,
    FleetPolicy,
    Instant,
    ModelName,
    ModelSpec,
    OpId,
    OrderTimes,
    Prices,
    ReplicaId,
    RequestId,
    Schedule,
)
from controller.core.steadying import FollowPolicy

GIB = 1024**3
PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
POLICY, MODEL = FleetPolicy(), ModelSpec(ModelName("a"), {})


def documented(heading: str) -> dict[str, str]:
    """Keys and their defaults, of the table below that heading."""
    _, _, below = PAGE.partition(f"\n{heading}\n")
    table = below.partition("\n#")[0]
    return dict(re.findall(r"^\| `([\w.]+)` \| `([^`]*)`", table, re.MULTILINE))


def seconds(heading: str) -> dict[str, float]:
    return {key: float(value) for key, value in documented(heading).items()}


def test_what_orders_are_thought_to_take() -> None:
    assert asdict(CostGuess()) == seconds("### `policy.costs`")


def test_prices() -> None:
    assert asdict(Prices()) == seconds("### `policy.prices`")


def test_how_long_orders_may_take() -> None:
    """But for stops: the core waits until what does not stop by itself is killed, too."""
    told = {key: at for key, at in seconds("## `timeouts`").items() if "hang" not in key}
    until_killed_s = told.pop("stop_s")
    times = asdict(OrderTimes())
    assert times.pop("stop_s") == until_killed_s + 90.0
    assert times == told


@pytest.mark.parametrize(
    "key",
    [
        *("backlog_limit", "restart_backoff_s", "popularity_half_life_s", "minimum_awake_s"),
        *("maximum_wait_behind_s", "busy_leases", "stable_after_s", "retry_when_short_s"),
        *("operation_limit_s", "prefetch_at_once"),
    ],
)
def test_numbers_of_the_policy(key: str) -> None:
    assert getattr(POLICY, key) == float(documented("## `policy`")[key])


def test_the_rest_of_the_policy() -> None:
    told = documented("## `policy`")
    assert POLICY.evict_to is Depth[told["evict_to"].upper()]
    assert POLICY.eviction is Eviction(told["eviction"])
    assert POLICY.residual_growth_bytes == float(told["residual_growth_gib"]) * GIB
    assert str(POLICY.prefetch_start).lower() == told["prefetch_start"]


def test_models() -> None:
    told = documented("## `models[]` and `defaults`")
    assert MODEL.replicas == MODEL.least_replicas == int(told["replicas"])
    assert MODEL.devices_per_replica == int(told["tensor_parallel"])
    assert MODEL.max_restarts == int(told["max_restarts"])
    assert MODEL.max_wait_s == float(told["max_wait_s"])
    assert MODEL.deepest is Depth[told["deepest"].upper()]
    assert (MODEL.pinned, MODEL.can_freeze) == (told["pinned"] == "true", told["freeze"] == "true")
    assert MODEL.spreads == (told["spread"] == "node")


def test_hours() -> None:
    told = documented("### `schedule`")
    assert Schedule("UTC").asleep_to is Depth[told["asleep_to"].upper()]
    assert Schedule("UTC").asleep_after_s == float(told["asleep_after_s"])


def test_conversations() -> None:
    told, limits = documented("## `conversations`"), ConversationLimits()
    assert (limits.total, limits.waiting) == (int(told["limit"]), int(told["waiting"]))
    assert limits.lifetimes == Lifetimes(inf, float(told["expire_after_s"]))
    assert limits.keeps_copies == (told["after_rehydration"] == "keep")
    assert limits.live == LiveLimits(queue=int(told["live.queue"]))


def test_engines_that_hang() -> None:
    told = seconds("## `timeouts`")
    hangs = HangTimes(told["hang_factor"], told["hang_least_s"], told["hang_most_s"])
    assert HangTimes() == hangs


def test_budgets_that_follow() -> None:
    told, usual = documented("## `memory`"), FollowPolicy()
    for key in ("headroom_fraction", "stall_percent", "calm_s"):
        assert getattr(usual, key) == float(told[key])
    assert usual.reserved_bytes == 0


def test_what_only_some_models_have_no_model_has_by_itself() -> None:
    assert not MODEL.sets_own_ladder
    assert not MODEL.keeps_kv
    assert MODEL.schedule is None


def test_responses_may_be_frozen_unless_somebody_says_otherwise() -> None:
    at, request, replica = Instant(0.0), RequestId("r"), ReplicaId("a#0")
    assert RequestArrived(at, request, MODEL.name).can_freeze
    assert LeaseFound(at, request, replica).can_freeze
    assert not SleepEngine(OpId(1), replica, Depth.LEVEL_1, Cause.IDLE).keep


def test_a_fleet_without_nodes_holds_nothing() -> None:
    fleet = Fleet(POLICY)
    assert fleet.policy is POLICY
    assert (fleet.models, fleet.replicas, fleet.tiers, fleet.ledger.budgets) == ({}, {}, {}, {})
    assert (fleet.waiting(), fleet.frozen(), fleet.changes) == (0, [], ())
    assert fleet.next_deadline() == inf
