"""A KV tier gives up its memory before an engine sleeps for want of it, and has it back later."""

from __future__ import annotations

from controller.core.commands import Command, RejectRequest, ResizeTier, SleepEngine, StartEngine
from controller.core.events import (
    DemotionOrdered,
    NodeLost,
    RequestArrived,
    TierMeasured,
    TierNotResized,
    TierResized,
    TimePassed,
)
from controller.core.fleet import Fleet
from controller.core.lifecycle import Phase
from controller.core.names import (
    Depth,
    DeviceId,
    Instant,
    ModelName,
    NodeId,
    OperationId,
    OpId,
    Priority,
    RejectReason,
    ReplicaId,
    RequestId,
)
from controller.core.tier import Tier
from controller.core.tiers import CALM_S, PATIENCE_S, RETRY_S
from tests.core.fleets import Story, spec, tier, to_be_had
from tests.core.test_simulation import FAULTS, ask_around, assert_settled, crowd, take_memory

N = NodeId("n")


def two_idle() -> Story:
    """Two engines of ten awake on 20, beside a tier of 6 of which 2 are left to it."""
    story = Story(spec("a"), spec("b"), device=20)
    story.feed(tier(0.0))
    for model in ("a", "b"):
        story.raises(f"r{model}", model)
        story.releases(f"r{model}")
    return story


def taken(story: Story, leaves: int) -> list[Command]:
    story.at += 1
    return story.feed(to_be_had(story.at, device=leaves))


def resized(story: Story, order: Command, held: int | None = None) -> list[Command]:
    assert isinstance(order, ResizeTier)
    story.at += 1
    held = order.to_bytes if held is None else held
    return story.feed(TierResized(story.time, order.op, order.node, held))


def budget(story: Story) -> int:
    return story.fleet.ledger.budgets[N][DeviceId("0")]


def awake(story: Story) -> list[str]:
    return [r.id for r in story.fleet.replicas.values() if r.phase is Phase.AWAKE]


def test_the_tier_shrinks_by_what_is_lacking_and_nobody_sleeps() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    assert shrink == ResizeTier(shrink.op, N, 3)  # type: ignore[attr-defined]
    assert resized(story, shrink) == []
    assert budget(story) == 20
    assert len(awake(story)) == 2


def test_what_is_coming_free_for_another_reason_is_not_asked_of_the_tier() -> None:
    """``a`` falls asleep and gives back nine: just what others take, or one less."""
    for leaves, to_bytes in ((11, None), (10, 5)):
        story = two_idle()
        story.feed(DemotionOrdered(story.time, OperationId("o"), ModelName("a"), Depth.LEVEL_1))
        orders = [o.to_bytes for o in taken(story, leaves) if isinstance(o, ResizeTier)]
        assert orders == ([] if to_bytes is None else [to_bytes])


def test_where_the_tier_is_too_small_sleepers_go_beside_it_and_no_sooner() -> None:
    story = two_idle()
    (shrink, *sleeps) = taken(story, 8)
    assert isinstance(shrink, ResizeTier)
    assert shrink.to_bytes == 2
    assert [type(order) for order in sleeps] == [SleepEngine]


def test_a_fleet_that_needs_nothing_leaves_the_tier_alone() -> None:
    story = Story(spec("a"), device=20)
    story.feed(tier(0.0))
    assert taken(story, 12) == []


def test_a_swap_for_which_there_is_room_is_no_reason() -> None:
    story = Story(spec("a"), spec("b"), device=20)
    story.feed(tier(0.0))
    story.raises("r1", "a")
    story.releases("r1")
    taken(story, 17)
    (sleep,) = story.arrives("r2", "b")
    assert isinstance(sleep, SleepEngine)


def test_whoever_could_have_no_room_otherwise_has_the_tiers() -> None:
    story = Story(spec("a", 20), device=20)
    story.feed(tier(0.0))
    taken(story, 17)
    (shrink,) = story.arrives("r", "a")
    assert isinstance(shrink, ResizeTier)
    (start,) = resized(story, shrink)
    assert isinstance(start, StartEngine)
    story.answers("a#0")
    story.releases("r")
    story.at += CALM_S
    assert story.feed(TimePassed(story.time)) == [], "it is still there"


def test_what_can_never_fit_takes_nothing_of_the_tier() -> None:
    story = Story(spec("a", 21), device=20)
    story.feed(tier(0.0))
    taken(story, 17)
    (refused,) = story.arrives("r", "a")
    assert isinstance(refused, RejectRequest)


def test_what_no_engine_uses_any_more_it_has_back_after_a_while() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    resized(story, shrink)
    story.feed(DemotionOrdered(story.time, OperationId("o"), ModelName("a"), Depth.STOPPED))
    assert story.answers("a#0") != []
    assert story.fleet.books.tiers[N].order is None, "not yet"
    assert story.fleet.next_deadline() == story.fleet.books.tiers[N].calm_at
    story.at = story.fleet.next_deadline()
    (grow,) = story.feed(TimePassed(story.time))
    assert isinstance(grow, ResizeTier)
    assert grow.to_bytes == 6
    assert budget(story) == 17
    assert resized(story, grow) == []


def test_it_has_its_part_back_once_others_let_go() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    resized(story, shrink)
    (grow,) = taken(story, 18)
    assert isinstance(grow, ResizeTier)
    assert grow.to_bytes == 4
    assert budget(story) == 20
    resized(story, grow)
    (whole,) = taken(story, 20)
    assert isinstance(whole, ResizeTier)
    assert whole.to_bytes == 6
    assert resized(story, whole) == []


def test_what_it_is_to_have_back_is_nobodys_from_then_on() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    resized(story, shrink)
    (grow,) = taken(story, 20)
    taken(story, 17)
    assert budget(story) == 17, "it may have grown already"
    resized(story, grow)
    assert [type(order) for order in taken(story, 17)] == []


def test_a_tier_that_cannot_shrink_leaves_it_to_the_engines_and_is_asked_again_later() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    assert isinstance(shrink, ResizeTier)
    story.at += 1
    (sleep,) = story.feed(TierNotResized(story.time, shrink.op, N, "it is away"))
    assert isinstance(sleep, SleepEngine)
    story.answers(sleep.replica)
    story.at += RETRY_S
    assert story.arrives("r", sleep.replica.split("#")[0]) != []


def test_one_that_gives_up_less_than_was_asked_is_not_asked_at_once() -> None:
    story = two_idle()
    (shrink,) = taken(story, 16)
    (sleep,) = resized(story, shrink, held=4)
    assert isinstance(sleep, SleepEngine)
    assert budget(story) == 18


def test_an_order_without_an_answer_ends_and_its_late_answer_changes_nothing() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    assert isinstance(shrink, ResizeTier)
    story.at += PATIENCE_S
    (sleep,) = story.feed(TimePassed(story.time))
    assert isinstance(sleep, SleepEngine)
    assert resized(story, shrink) == []
    assert budget(story) == 17
    assert story.feed(TierResized(story.time, OpId(99), NodeId("x"), 1)) == []


def test_the_core_asks_to_be_told_when_the_tiers_patience_is_over() -> None:
    story = Story(spec("a"), device=20)
    story.feed(tier(0.0))
    story.raises("r", "a")
    story.feed(to_be_had(story.at, device=9))
    order = story.fleet.books.tiers[N].order
    assert order is not None
    assert story.fleet.next_deadline() <= order.until


def test_a_server_that_was_started_again_has_its_part_and_is_asked_again() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    resized(story, shrink)
    story.at += 1
    (again,) = story.feed(tier(story.at, held=6))
    assert isinstance(again, ResizeTier)
    assert again.to_bytes == 3


def test_what_is_measured_while_an_order_is_out_says_nothing() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    assert story.feed(tier(story.at, held=6)) == []
    resized(story, shrink)
    assert budget(story) == 20


def test_flexible_requests_are_not_shed_while_the_tier_can_give() -> None:
    story = Story(spec("a"), spec("b"), device=20)
    story.feed(tier(0.0))
    story.raises("r", "a")
    taken(story, 17)
    assert story.feed(flexible(story, "f")) == []
    story.feed(tier(story.at, held=2, whole=2))
    (shed,) = story.feed(flexible(story, "g"))
    assert isinstance(shed, RejectRequest)
    assert shed.reason is RejectReason.MEMORY_TAKEN


def flexible(story: Story, request: str) -> RequestArrived:
    name, model = RequestId(request), ModelName("b")
    return RequestArrived(story.time, name, model, priority=Priority.FLEX, max_wait_s=60.0)


def test_a_lost_node_takes_its_tier_along() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    story.feed(NodeLost(story.time, N))
    assert story.fleet.books.tiers == {}
    assert resized(story, shrink) == []
    assert story.feed(tier(story.at)) == [], "of a node that is not there"
    assert story.fleet.books.tiers == {}


def test_changes_too_small_for_a_tier_are_none() -> None:
    story = Story(spec("a", 1000), device=2000)
    where = (N, DeviceId("0"))
    story.feed(TierMeasured(Instant(0.0), *where, 640, 160, 640))
    story.raises("r", "a")
    assert taken(story, 995) != []
    assert story.fleet.books.tiers[N].order is not None
    assert story.fleet.books.tiers[N].order.to_bytes == 640 - 11
    assert story.fleet.replicas[ReplicaId("a#0")].phase is Phase.AWAKE


def test_no_tier_is_larger_than_what_is_booked_for_it_whatever_its_answers() -> None:
    assert sum(map(resizes_in_a_crowd, range(4))) > 10


def resizes_in_a_crowd(seed: int) -> int:
    def watch(fleet: Fleet) -> None:
        for name, known in fleet.tiers.items():
            assert sim.world.tiers.get(name, known.whole_bytes) <= known.booked_bytes

    sim = crowd(seed, FAULTS, watcher=watch)
    ask_around(sim, seed)
    take_memory(sim, seed, tier_restarts=0)
    sim.run()
    assert_settled(sim)
    return sum(isinstance(c, ResizeTier) for _, given in sim.journal for c in given)


def test_one_that_could_not_grow_is_asked_again_at_the_moment_that_was_noted() -> None:
    story = two_idle()
    (shrink,) = taken(story, 17)
    resized(story, shrink)
    (grow,) = taken(story, 20)
    assert isinstance(grow, ResizeTier)
    assert story.feed(TierNotResized(story.time, grow.op, N, "it is away")) == []
    again_at = story.at + RETRY_S
    assert story.feed(tier(story.at, held=3)) == []
    while story.fleet.next_deadline() < again_at:
        assert story.feed(TimePassed(story.fleet.next_deadline())) == []
    (again,) = story.feed(TimePassed(Instant(again_at)))
    assert isinstance(again, ResizeTier)
    assert again.to_bytes == 6


def test_a_tier_that_may_hold_nothing_is_booked_at_nothing() -> None:
    none = Tier(N, DeviceId("0"), whole_bytes=6, least_bytes=0, held_bytes=0)
    assert (none.booked_bytes, none.given_bytes, none.is_whole) == (0, 6, False)
