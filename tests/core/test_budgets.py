"""Budgets that follow the world: others take memory of the node, and give it back."""

from __future__ import annotations

from dataclasses import replace

from controller.core.commands import GrantLease, RejectRequest, SleepEngine, StopEngine
from controller.core.events import (
    DemotionOrdered,
    LeaseReleased,
    RequestArrived,
    TimePassed,
    WakeOrdered,
)
from controller.core.lifecycle import Goal, Phase
from controller.core.names import (
    Cause,
    Depth,
    ModelName,
    ModelSpec,
    NodeId,
    OperationId,
    Priority,
    RejectReason,
    ReplicaId,
    RequestId,
)
from tests.core.fleets import Story, node, spec, to_be_had


def two_idle() -> Story:
    """Two engines of ten awake on 24; nobody asks for anything."""
    story = Story(spec("a"), spec("b"))
    for model in ("a", "b"):
        story.raises(f"r{model}", model)
        story.at += 1
        story.feed(LeaseReleased(story.time, RequestId(f"r{model}")))
    return story


def taken(story: Story, leaves: int, host: int = 100) -> list[object]:
    story.at += 1
    return list(story.feed(to_be_had(story.at, device=leaves, host=host)))


def phase(story: Story, name: str) -> Phase:
    return story.fleet.replicas[ReplicaId(name)].phase


def test_memory_that_others_take_is_made_up_for_by_the_idle() -> None:
    story = two_idle()
    (sleep,) = taken(story, 14)
    assert isinstance(sleep, SleepEngine)
    assert (sleep.replica, sleep.cause) == ("a#0", Cause.EVICTED)
    assert sleep.whom == "what others took of the memory"


def test_no_more_goes_than_has_to() -> None:
    story = two_idle()
    assert taken(story, 20) == []


def test_the_budget_grows_again_and_who_waited_is_woken() -> None:
    story = two_idle()
    taken(story, 14)
    story.answers("a#0")
    assert story.arrives("r1", "a"), "b goes to sleep for it"
    story.answers("b#0")
    story.answers("a#0")
    assert story.arrives("r2", "b") == [], "a is busy"
    story.at += 0.1
    assert story.feed(to_be_had(story.at)), "there is room for both again"


def test_what_could_fit_if_others_went_waits_and_is_never_tried() -> None:
    story = Story(spec("a", 20))
    taken(story, 12)
    assert story.arrives("r1", "a") == []
    assert story.fleet.waiting() == 1
    assert taken(story, 24) != []


def test_what_can_never_fit_is_told_so_all_the_same() -> None:
    story = Story(spec("a", 30))
    taken(story, 12)
    (rejected,) = story.arrives("r1", "a")
    assert isinstance(rejected, RejectRequest)
    assert rejected.reason is RejectReason.NEVER_FITS


def test_a_sleeper_goes_deeper_where_the_host_is_short() -> None:
    story = two_idle()
    taken(story, 14)
    story.answers("a#0")
    (deeper,) = taken(story, 14, host=5)
    assert isinstance(deeper, SleepEngine)
    assert (deeper.replica, deeper.depth) == ("a#0", Depth.LEVEL_2)


def test_flexible_requests_are_shed_where_somebody_would_have_to_go() -> None:
    story = two_idle()
    taken(story, 14)
    story.answers("a#0")
    flexible = RequestArrived(
        story.time, RequestId("f"), ModelName("a"), priority=Priority.FLEX, max_wait_s=60.0
    )
    (rejected,) = story.feed(flexible)
    assert isinstance(rejected, RejectRequest)
    assert rejected.reason is RejectReason.MEMORY_TAKEN
    assert rejected.retry_after_s == story.fleet.policy.retry_when_short_s
    awake = replace(flexible, request=RequestId("g"), model=ModelName("b"))
    (granted,) = story.feed(awake)
    assert isinstance(granted, GrantLease)


def test_the_busy_are_drained_where_the_idle_do_not_suffice() -> None:
    story = two_idle()
    story.arrives("r1", "b")
    (sleep,) = taken(story, 5)
    assert isinstance(sleep, SleepEngine)
    assert phase(story, "b#0") is Phase.DRAINING
    story.at += 1
    (goes,) = story.feed(LeaseReleased(story.time, RequestId("r1")))
    assert isinstance(goes, SleepEngine)


def test_a_drain_is_called_off_when_others_give_back_what_they_took() -> None:
    story = two_idle()
    story.arrives("r1", "b")
    taken(story, 5)
    taken(story, 24)
    assert phase(story, "b#0") is Phase.AWAKE


def test_who_would_have_to_wait_is_shed_when_nothing_helps_any_more() -> None:
    story = Story(spec("a"), spec("p", pinned=True))
    story.raises("r1", "p")
    assert taken(story, 5) == []
    (rejected,) = story.arrives("r2", "a")
    assert isinstance(rejected, RejectRequest)
    assert rejected.reason is RejectReason.MEMORY_TAKEN
    assert rejected.retry_after_s is not None
    (granted,) = story.arrives("r3", "p")
    assert isinstance(granted, GrantLease)


def test_where_all_is_too_little_all_that_can_go_goes() -> None:
    story = two_idle()
    orders = taken(story, 0)
    assert [type(order) for order in orders] == [StopEngine, StopEngine]


def test_nobody_is_shed_while_what_is_coming_free_makes_up_for_what_was_taken() -> None:
    """``a`` falls asleep and gives nine back: that is enough to the byte, or it is not."""
    for leaves, is_shed in ((11, False), (10, True)):
        story = Story(spec("a"), spec("p", 10, pinned=True), spec("c", 1))
        for model in "ap":
            story.raises(f"r{model}", model)
            story.releases(f"r{model}")
        story.feed(DemotionOrdered(story.time, OperationId("o"), ModelName("a"), Depth.LEVEL_1))
        taken(story, leaves)
        rejected = [o for o in story.arrives("r", "c") if isinstance(o, RejectRequest)]
        assert bool(rejected) is is_shed


def test_one_that_woke_a_moment_ago_is_drained_when_its_least_time_is_over() -> None:
    story = Story(spec("a"), minimum_awake_s=5.0)
    story.raises("r1", "a")
    taken(story, 5)
    assert phase(story, "a#0") is Phase.AWAKE
    story.at = story.fleet.next_deadline()
    story.feed(TimePassed(story.time))
    assert phase(story, "a#0") is Phase.DRAINING


def test_what_was_taken_is_known_of_a_node_that_joins_later() -> None:
    story = two_idle()
    story.feed(to_be_had(1.0, "m", device=14))
    story.feed(node(2.0, "m", device=24))
    assert list(story.fleet.ledger.taken(NodeId("m")).values()) == [10, 0]
    assert not story.fleet.ledger.is_cut(NodeId("n"))


def over_its_host(*specs: ModelSpec) -> Story:
    """``p`` sleeps at level 1 and is pinned, so that its ten stay on the host."""
    story = Story(*specs, spec("p", 10, pinned=True))
    story.raises("rp", "p")
    story.releases("rp")
    sleeps(story, "p", Depth.LEVEL_1)
    return story


def sleeps(story: Story, model: str, depth: Depth) -> None:
    name = ModelName(model)
    story.feed(DemotionOrdered(story.time, OperationId(f"o-{model}"), name, depth))
    story.answers(f"{model}#0")


def test_who_needs_nothing_of_the_host_wakes_though_the_host_is_over_its_budget() -> None:
    story = over_its_host(spec("a", 20), spec("b", 20))
    for model in "ab":
        story.raises(f"r{model}", model)
        story.releases(f"r{model}")
        if model == "a":
            sleeps(story, "a", Depth.LEVEL_2)
    assert taken(story, 24, host=5) == []
    (evicted,) = story.feed(WakeOrdered(story.time, OperationId("up"), ModelName("a")))
    assert isinstance(evicted, SleepEngine)
    assert (evicted.replica, evicted.depth) == ("b#0", Depth.LEVEL_2)


def test_where_all_is_too_little_nobody_gives_what_nobody_lacks() -> None:
    """The device is full to the byte: to stop ``a`` would free one there, which is not asked."""
    story = over_its_host(spec("a", 10), spec("c", 22, pinned=True))
    story.raises("ra", "a")
    story.releases("ra")
    sleeps(story, "a", Depth.LEVEL_1)
    story.raises("rc", "c")
    story.releases("rc")
    (deeper,) = taken(story, 24, host=0)
    assert isinstance(deeper, SleepEngine)
    assert (deeper.replica, deeper.depth) == ("a#0", Depth.LEVEL_2)


def test_where_all_is_too_little_a_single_byte_is_given() -> None:
    story = Story(spec("a", 10), spec("p", 20, pinned=True))
    story.raises("ra", "a")
    story.releases("ra")
    sleeps(story, "a", Depth.LEVEL_2)
    story.raises("rp", "p")
    (stop,) = taken(story, 5)
    assert isinstance(stop, StopEngine)
    assert stop.replica == "a#0"


def test_who_must_not_go_deeper_than_the_host_allows_stays_awake() -> None:
    story = Story(spec("a", 20, deepest=Depth.LEVEL_1), host=5)
    story.raises("ra", "a")
    books, a = story.fleet.books, story.fleet.replicas[ReplicaId("a#0")]
    books.drain(a, Goal(Depth.LEVEL_1, Cause.EVICTED, "b"))
    assert story.releases("ra") == []
    assert a.phase is Phase.AWAKE
    assert a.story[-1].why == "the host has no room for LEVEL_1"


def test_who_waits_for_a_node_that_became_too_small_is_told_so() -> None:
    story = Story(spec("a", 20), spec("b", 20))
    story.raises("ra", "a")
    story.arrives("rb", "b")
    (rejected,) = story.feed(node(story.at + 1, device=15))
    assert isinstance(rejected, RejectRequest)
    assert (rejected.request, rejected.reason) == ("rb", RejectReason.NEVER_FITS)
