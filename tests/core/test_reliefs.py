"""What can come free on a device at the most, and at what price at the least."""

from __future__ import annotations

import pytest

from controller.core.choices import Choice
from controller.core.events import DemotionOrdered, LeaseReleased, RequestArrived
from controller.core.fits import Verdict
from controller.core.fleet import Fleet
from controller.core.ledger import HOST
from controller.core.lifecycle import Goal, Phase, Place
from controller.core.names import (
    Cause,
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    NodeId,
    OperationId,
    ReplicaId,
    RequestId,
)
from controller.core.reliefs import Share, offer, share
from controller.core.rooms import Rooms
from controller.core.victims import Asker, later_victims, replicas_on
from tests.core.fleets import Story, good_answer, node, policy, sizes, spec


def idle(asleep: int | None, cost_s: float) -> Share:
    return Share(True, asleep, cost_s, (asleep or 0) + 1)


def busy(asleep: int | None) -> Share:
    return Share(False, asleep, 1.0, (asleep or 0) + 1)


OFFER = offer([idle(4, 2.0), idle(6, 3.0), idle(None, -9.0), busy(20), idle(1, -1.0), busy(None)])


def test_an_offer_is_of_the_idle_who_can_sleep() -> None:
    assert OFFER.idle == [0, 6, 10, 11]
    assert (OFFER.asleep, OFFER.stopped) == (4 + 6 + 20 + 1, 5 + 7 + 1 + 21 + 2 + 1)


def test_so_many_moves_or_more_are_counted_at_this_at_the_least() -> None:
    """Who is counted at less than nothing may always come along."""
    assert OFFER.cost_s == [-1.0, -1.0, 1.0, 4.0]


def test_who_costs_least_for_what_it_frees_comes_first() -> None:
    assert OFFER.relief == [0, 1, 5, 11]
    assert OFFER.relief_cost_s == [-1.0, -1.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("lacking", "count"), [(-3, 0), (0, 0), (1, 1), (6, 1), (7, 2), (11, 3), (12, None)]
)
def test_as_few_as_make_the_room(lacking: int, count: int | None) -> None:
    assert OFFER.fewest(lacking) == count


@pytest.mark.parametrize(
    ("lacking", "count", "least_s"),
    [
        (1, 1, -1.0),
        (5, 1, 1.0),
        (3, 1, 0.0),  # half of the second one
        (11, 3, 4.0),
        (5, 3, 4.0),  # three moves, whatever they free
        (30, 1, 4.0),  # all of them, and even that is not enough
    ],
)
def test_the_last_one_may_go_in_part(lacking: int, count: int, least_s: float) -> None:
    assert OFFER.least_cost_s(lacking, count) == pytest.approx(least_s, abs=1e-6)
    assert OFFER.least_cost_s(lacking, count) <= least_s


def test_nobody_offers_nothing() -> None:
    none = offer([])
    assert (none.idle, none.cost_s, none.relief, none.relief_cost_s) == ([0], [0.0], [0], [0.0])
    assert none.fewest(1) is None
    assert none.least_cost_s(0, 0) == 0.0


def test_later_come_those_who_are_rising_or_awake_for_too_short_a_time() -> None:
    """Not who is idle: it can go at once. Nor who is pinned or goes anyway."""
    models = [spec(name, 5) for name in "abcd"]
    story = Story(*models, spec("p", 4, pinned=True), device=30, minimum_awake_s=50.0)
    for name in "abp":
        story.raises(f"r-{name}", name)
    story.releases("r-b")
    story.arrives("r-c", "c")
    story.raises("r-d", "d")
    books = story.fleet.books
    books.retire(books.replicas[ReplicaId("d#0")])
    node = next(iter(books.ledger.budgets))
    asker = Asker(ModelName("x"), since=story.time)
    later = list(later_victims(books, asker, replicas_on(books, node)))
    assert [victim.replica for victim in later] == ["a#0", "c#0"]
    assert [victim.is_busy for victim in later] == [True, True]
    depths = {choice.depth for victim in later for choice in victim.choices}
    assert depths == {Depth.LEVEL_1, Depth.LEVEL_2}


def test_a_drain_elsewhere_makes_no_room_here() -> None:
    fleet = Fleet(policy(), [spec(name, 10) for name in "abcd"])

    def asks(model: str) -> None:
        at, name = Instant(1.0), ModelName(model)
        fleet.handle(RequestArrived(at, RequestId(f"r-{model}"), name))

    fleet.handle(node(0.0, devices=2, device=12))
    for model in "ab":
        asks(model)
        fleet.handle(good_answer(fleet, f"{model}#0", Instant(1.0)))
    for model in "cd":
        asks(model)
    for draining in (fleet.replicas[ReplicaId(f"{model}#0")] for model in "ab"):
        assert draining.phase is Phase.DRAINING
        assert draining.place is not None
        [device] = draining.place.devices
        asker = Asker(ModelName("c"))
        fit = Rooms(fleet.books).at(NodeId("n")).fit(asker, draining.place, {device: 10, HOST: 0})
        assert (fit.verdict, fit.drains) == (Verdict.DRAINS, (draining.id,))


def test_room_on_the_host_is_made_by_whoever_sleeps_there_on_any_device() -> None:
    """``a`` needs the host as well; ``b``'s weights are there, and its device is another one."""
    wide = {**sizes(10), Depth.AWAKE: Footprint(10, 5)}
    fleet = Fleet(policy(), [spec("a", footprints=wide), spec("b", 12)])
    fleet.handle(node(0.0, devices=2, device=12, host=12))
    asked = RequestArrived(Instant(1.0), RequestId("r"), ModelName("b"))
    fleet.handle(asked)
    fleet.handle(good_answer(fleet, "b#0", Instant(2.0)))
    fleet.handle(LeaseReleased(Instant(3.0), asked.request))
    fleet.handle(DemotionOrdered(Instant(4.0), OperationId("o"), ModelName("b"), Depth.LEVEL_1))
    fleet.handle(good_answer(fleet, "b#0", Instant(5.0)))
    sleeper = fleet.replicas[ReplicaId("b#0")]
    assert sleeper.place is not None
    other = DeviceId("1" if sleeper.place.devices == ("0",) else "0")
    place, need = Place(NodeId("n"), (other,)), {other: 10, HOST: 3}
    fit = Rooms(fleet.books).at(NodeId("n")).fit(Asker(ModelName("a")), place, need)
    assert [(move.replica, move.depth) for move in fit.moves] == [(sleeper.id, Depth.LEVEL_2)]


def test_who_frees_nothing_is_in_the_offer_with_nothing() -> None:
    nothing = share((), True, DeviceId("0"), lambda choice: choice.cost_s)
    assert nothing == Share(True, None, 0.0, 0)
    assert (offer([nothing]).idle, offer([nothing]).stopped) == ([0], 0)
    assert offer([idle(0, 1.0)]).idle == [0, 0]


def test_a_share_is_the_most_that_one_frees_and_the_least_that_it_is_counted_at() -> None:
    device = DeviceId("0")
    rows = ((Depth.KV_RELEASED, 5, 2.0), (Depth.LEVEL_1, 9, 1.0), (Depth.LEVEL_2, 8, 3.0))
    choices = tuple(Choice(depth, {device: size}, cost_s) for depth, size, cost_s in rows)
    stop = Choice(Depth.STOPPED, {device: 10}, 0.5)
    assert share(choices, True, device, lambda one: one.cost_s) == Share(True, 9, 1.0, 9)
    assert share((*choices, stop), True, device, lambda one: one.cost_s) == Share(True, 9, 1.0, 10)


def test_a_drain_that_frees_what_nobody_lacks_is_not_waited_for() -> None:
    """``c`` gives back what it has of the host, on another device; the host is full, and ``x``
    needs nothing of it."""
    sizes_of = {Depth.AWAKE: Footprint(10, 5), Depth.LEVEL_2: Footprint(1, 0)}
    models = [spec(name, footprints=sizes_of) for name in "ca"]
    fleet = Fleet(policy(evict_to=Depth.LEVEL_2), models)
    fleet.handle(node(0.0, devices=2, device=10, host=10))
    for model in "ca":
        fleet.handle(RequestArrived(Instant(1.0), RequestId(f"r-{model}"), ModelName(model)))
        fleet.handle(good_answer(fleet, f"{model}#0", Instant(1.0)))
    c, a = (fleet.replicas[ReplicaId(f"{model}#0")] for model in "ca")
    for one in (c, a):
        fleet.books.drain(one, Goal(Depth.LEVEL_2, Cause.EVICTED, "x"))
    assert a.place is not None
    need = {a.place.devices[0]: 9, HOST: 0}
    fit = Rooms(fleet.books).at(NodeId("n")).fit(Asker(ModelName("x")), a.place, need)
    assert (fit.verdict, fit.drains) == (Verdict.DRAINS, (a.id,))
