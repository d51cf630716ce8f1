"""Each invariant, broken by hand in a lively fleet, is seen: a check must be able to fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from controller.core.books import Books
from controller.core.invariants import check
from controller.core.ledger import HOST
from controller.core.lifecycle import Goal, InvariantBroken, Phase
from controller.core.names import (
    NOTHING,
    Cause,
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    NodeId,
    OpId,
    ReplicaId,
    RequestId,
)
from controller.core.reliefs import Share, offer
from controller.core.tier import Resize
from controller.core.victims import work_out_offer, work_out_victim
from tests.core.fleets import Story, ladder, spec, tier

A, B, C, D = (ReplicaId(f"{name}#0") for name in "abcd")
MANY = 1_000_000


def lively() -> Story:
    """``a`` serves r1, ``b`` is awake and idle with a ladder, ``c`` starts for r3, ``d`` is cold;
    it has no room, and r4 waits for it. The node's KV tier has all its memory."""
    models = (spec("a", 8), spec("b", 4, ladder=ladder(50.0, 90.0)), spec("c", 8), spec("d", 20))
    story = Story(*models, minimum_awake_s=100.0, busy_leases=MANY)
    story.feed(tier(0.0, held=6, whole=6, least=2))
    story.raises("r1", "a")
    story.raises("r2", "b")
    story.releases("r2")
    story.arrives("r3", "c")
    story.arrives("r4", "d")
    return story


def test_nothing_is_wrong_with_it() -> None:
    story = lively()
    phases = {name: replica.phase for name, replica in story.fleet.books.replicas.items()}
    assert phases == {A: Phase.AWAKE, B: Phase.AWAKE, C: Phase.STARTING, D: Phase.COLD}
    assert story.fleet.books.backlog.of(ModelName("d"))
    check(story.fleet)


def _forget_a_waiter(books: Books) -> None:
    books.backlog.by_model[ModelName("d")].clear()
    del books.backlog.by_model[ModelName("d")]


def _an_empty_queue(books: Books) -> None:
    books.backlog.by_model[ModelName("a")] = {}


def _grant_a_waiter(books: Books) -> None:
    books.leased[RequestId("r4")] = A


def _no_lanes(books: Books) -> None:
    books.backlog.lanes.clear()


def _lease_twice(books: Books) -> None:
    books.replicas[B].leases[RequestId("r1")] = Instant(0.0)
    books.leased[RequestId("r1")] = B


def _a_strange_lease(books: Books) -> None:
    books.replicas[A].leases[RequestId("r9")] = Instant(0.0)


def _a_lease_on_who_starts(books: Books) -> None:
    books.replicas[C].leases[RequestId("r9")] = Instant(0.0)


def _other_totals(books: Books) -> None:
    books.ledger.booked(NodeId("n"))[HOST] += 1


def _over_the_budget(books: Books) -> None:
    (node,) = books.ledger.budgets
    books.ledger.budgets[node] = dict.fromkeys(books.ledger.budgets[node], 1)


def _excused_for_nothing(books: Books) -> None:
    books.ledger.excused[NodeId("n")] = {DeviceId("0"): 1}


def _an_order_of_who_is_awake(books: Books) -> None:
    books.replicas[A].order = books.replicas[C].order


def _no_order(books: Books) -> None:
    books.replicas[C].order = None


def _drained(books: Books) -> None:
    books.replicas[B].phase = Phase.DRAINED


def _a_goal(books: Books) -> None:
    books.replicas[A].goal = Goal(Depth.LEVEL_1, Cause.IDLE)


def _nowhere(books: Books) -> None:
    books.replicas[A].place = None


def _no_incarnation(books: Books) -> None:
    books.replicas[A].incarnation = None


def _a_cold_incarnation(books: Books) -> None:
    books.replicas[D].incarnation = OpId(9)


def _kv_of_who_starts(books: Books) -> None:
    books.replicas[C].has_kv = True


def _booked_cold(books: Books) -> None:
    place = books.replicas[A].place
    assert place is not None
    books.ledger.settle(books.replicas[D], place, NOTHING)


def _booked_elsewhere(books: Books) -> None:
    place = books.replicas[A].place
    assert place is not None
    books.replicas[A].place = replace(place, devices=())


def _more_booked_than_held(books: Books) -> None:
    books.replicas[A].held = NOTHING


def _more_held_than_reserved(books: Books) -> None:
    books.replicas[C].held = Footprint(9, 0)


def _a_stale_due(books: Books) -> None:
    books.agenda.put(B, Instant(1.0))


def _moving(books: Books) -> None:
    books.moving[A] = books.replicas[A]


def _not_moving(books: Books) -> None:
    del books.moving[C]


def _of_another_model(books: Books) -> None:
    books.models[ModelName("a")].replicas.clear()


def _hopeless(books: Books) -> None:
    books.models[ModelName("d")].wished_at = Instant(0.0)
    books.hopeful.clear()


def _a_forgotten_failure(books: Books) -> None:
    books.models[ModelName("a")].failures = 1
    books.failing.clear()


def _stale_choices(books: Books) -> None:
    books.reliefs.choices[A] = ()


def _a_stale_relief(books: Books) -> None:
    books.reliefs.coming[C] = {}


def _a_stale_offer(books: Books) -> None:
    books.reliefs.offers[NodeId("n"), DeviceId("0")] = {Depth.LEVEL_1: offer([])}


def _a_stale_need(books: Books) -> None:
    books.reliefs.needs[A] = {DeviceId("0"): 1}


def _regarded_as_another(books: Books) -> None:
    regard = (Depth.LEVEL_1, Depth.STOPPED, False)
    books.reliefs.idle[B] = {regard: work_out_victim(books, books.replicas[A], regard)}


def _an_offer_of_stale_shares(books: Books) -> None:
    node, device = NodeId("n"), DeviceId("0")
    books.reliefs.shares[A] = {Depth.LEVEL_1: Share(True, 1, 0.0, 1)}
    stale = work_out_offer(books, node, device, Depth.LEVEL_1)
    books.reliefs.offers[node, device] = {Depth.LEVEL_1: stale}


def _a_stale_ladder(books: Books) -> None:
    books.models[ModelName("b")].rungs = []


def _a_stranger_leaks(books: Books) -> None:
    books.leaking[A] = books.replicas[B]


def _a_cold_one_leaks(books: Books) -> None:
    books.leaking[D] = books.replicas[D]


def _a_forgotten_freeze(books: Books) -> None:
    books.replicas[A].phase = Phase.ASLEEP


def _frozen_against_its_will(books: Books) -> None:
    books.replicas[A].never_frozen[RequestId("r1")] = None
    books.replicas[A].phase = Phase.ASLEEP


def _never_frozen_and_gone(books: Books) -> None:
    books.replicas[A].never_frozen[RequestId("r9")] = None


def _more_than_was_named(books: Books) -> None:
    books.ledger.budgets[NodeId("n")][HOST] += 1


def _a_device_without_a_name(books: Books) -> None:
    del books.ledger.named[NodeId("n")][HOST]


def _less_than_nothing(books: Books) -> None:
    books.ledger.budgets[NodeId("n")][DeviceId("1")] = -1
    books.ledger.named[NodeId("n")][DeviceId("1")] = 0


def _a_tier_that_outgrew_its_part(books: Books) -> None:
    books.tiers[NodeId("n")].held_bytes = 7


def _a_tier_that_is_to_give_up_all(books: Books) -> None:
    books.tiers[NodeId("n")].order = Resize(OpId(9), 1, Instant(99.0))


def _a_tier_that_gave_what_nobody_got(books: Books) -> None:
    books.tiers[NodeId("n")].held_bytes = 5


def _nothing_to_retire_for(books: Books) -> None:
    books.retire(books.replicas[D])


def _work_left_over(books: Books) -> None:
    books.backlog.add(RequestId("r9"), ModelName("b"), Instant(0.0), 1e6)


WRECKERS: tuple[tuple[Callable[[Books], None], str], ...] = (
    (_forget_a_waiter, "backlog and its queues differ"),
    (_an_empty_queue, "an empty queue"),
    (_grant_a_waiter, "granted and waiting"),
    (_no_lanes, "its lanes differ"),
    (_lease_twice, "whose lease"),
    (_a_strange_lease, "whose lease"),
    (_a_lease_on_who_starts, "a lease while STARTING"),
    (_other_totals, "totals differ"),
    (_over_the_budget, "over its budget"),
    (_excused_for_nothing, "over its budget"),
    (_an_order_of_who_is_awake, "order and phase"),
    (_no_order, "order and phase"),
    (_drained, "seen DRAINED"),
    (_a_goal, "goal and phase"),
    (_nowhere, "place and phase"),
    (_no_incarnation, "incarnation"),
    (_a_cold_incarnation, "incarnation"),
    (_kv_of_who_starts, "KV dropped while STARTING"),
    (_booked_cold, "cold and booked"),
    (_booked_elsewhere, "booked elsewhere"),
    (_more_booked_than_held, "booked and held differ"),
    (_more_held_than_reserved, "booked and held differ"),
    (_a_stale_due, "due is stale"),
    (_moving, "moving"),
    (_not_moving, "moving"),
    (_of_another_model, "not among its model's"),
    (_hopeless, "hoping in vain"),
    (_a_forgotten_failure, "a failure is forgotten"),
    (_stale_choices, "stale choices"),
    (_a_stale_relief, "stale relief"),
    (_a_stale_offer, "a stale offer"),
    (_a_stale_need, "a stale need"),
    (_regarded_as_another, "regarded as before"),
    (_an_offer_of_stale_shares, "a stale offer"),
    (_a_stale_ladder, "a stale ladder"),
    (_a_stranger_leaks, "leaks, and is not there"),
    (_a_cold_one_leaks, "leaks, and is not there"),
    (_a_forgotten_freeze, "frozen"),
    (_frozen_against_its_will, "frozen in spite"),
    (_never_frozen_and_gone, "not leases"),
    (_more_than_was_named, "is not within"),
    (_a_device_without_a_name, "is not within"),
    (_less_than_nothing, "is not within"),
    (_a_tier_that_outgrew_its_part, "larger than it may be"),
    (_a_tier_that_is_to_give_up_all, "told to give up all"),
    (_a_tier_that_gave_what_nobody_got, "0 are given"),
    (_nothing_to_retire_for, "planning again changes the books"),
    (_work_left_over, "planning again orders"),
)


@pytest.mark.parametrize(("wreck", "said"), WRECKERS, ids=lambda one: getattr(one, "__name__", ""))
def test_what_is_broken_is_seen(wreck: Callable[[Books], None], said: str) -> None:
    story = lively()
    wreck(story.fleet.books)
    with pytest.raises(InvariantBroken, match=said):
        check(story.fleet)
