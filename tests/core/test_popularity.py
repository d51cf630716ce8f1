"""How often models were wanted of late: fading, and told in one unit over any length of time."""

from __future__ import annotations

import pytest

from controller.core.events import DemotionOrdered, Event, LeaseReleased, RequestArrived
from controller.core.fleet import Fleet
from controller.core.invariants import check
from controller.core.names import (
    Depth,
    DeviceId,
    Instant,
    ModelName,
    NodeId,
    OperationId,
    RequestId,
)
from controller.core.popularity import MOST_HALF_LIVES, Popularity
from controller.core.victims import offer_of
from tests.core.fleets import good_answer, node, policy, spec

A, B = ModelName("a"), ModelName("b")
HALF_LIFE_S = 10.0


def test_what_was_wanted_a_half_life_ago_counts_half() -> None:
    popularity = Popularity(HALF_LIFE_S)
    popularity.count(A, Instant(100.0))
    popularity.count(B, Instant(110.0))
    assert popularity.of(B) == pytest.approx(2 * popularity.of(A))
    popularity.count(A, Instant(110.0))
    assert popularity.of(A) == pytest.approx(1.5 * popularity.of(B))


def test_who_was_never_wanted_or_is_forgotten_has_nothing() -> None:
    popularity = Popularity(HALF_LIFE_S)
    assert popularity.of(A) == 0.0
    popularity.count(A, Instant(1.0))
    popularity.forget(A)
    popularity.forget(B)
    assert popularity.of(A) == 0.0


def test_the_unit_is_another_after_a_long_time_and_only_then() -> None:
    """Figures of before are told in it, too, and whoever keeps some hears of it."""
    popularity = Popularity(HALF_LIFE_S)
    long_s = MOST_HALF_LIVES * HALF_LIFE_S
    assert popularity.count(A, Instant(long_s - 2 * HALF_LIFE_S)) is False
    assert popularity.count(A, Instant(long_s)) is False
    assert popularity.count(B, Instant(long_s + HALF_LIFE_S)) is True
    assert popularity.of(B) == 1.0
    assert popularity.of(A) == pytest.approx(0.5 + 0.125)
    assert popularity.count(B, Instant(long_s + 2 * HALF_LIFE_S)) is False
    assert popularity.of(B) == pytest.approx(1.0 + 2.0)


def test_figures_stay_finite_for_ever() -> None:
    popularity = Popularity(HALF_LIFE_S)
    for step in range(400):
        popularity.count(A, Instant(step * 100 * HALF_LIFE_S))
        assert 1.0 <= popularity.of(A) <= 2.0 ** (MOST_HALF_LIVES + 1)


def test_what_a_fleet_keeps_is_told_in_the_new_unit() -> None:
    """``a`` rests on one device; ``b``, on the other one, is wanted after a long time. What ``a``
    counts is kept, and ``check`` would see it stale."""
    fleet = Fleet(policy(popularity_half_life_s=0.01), [spec("a"), spec("b"), spec("c", 20)])

    def feed(event: Event) -> None:
        fleet.handle(event)
        check(fleet)

    def is_served(model: str, at: float) -> None:
        feed(RequestArrived(Instant(at), RequestId(f"{model}{at}"), ModelName(model)))
        feed(good_answer(fleet, f"{model}#0", Instant(at + 1)))
        feed(LeaseReleased(Instant(at + 2), RequestId(f"{model}{at}")))

    feed(node(0.0, devices=2, device=12))
    is_served("a", 1.0)
    is_served("b", 2.0)
    for at in (20.0, 40.0):
        feed(DemotionOrdered(Instant(at), OperationId(f"o{at}"), B, Depth.LEVEL_1))
        feed(good_answer(fleet, "b#0", Instant(at + 1)))
        for name, device in (("n", "0"), ("n", "1")):
            offer_of(fleet.books, NodeId(name), DeviceId(device), Depth.LEVEL_1)
        is_served("b", at + 2)
