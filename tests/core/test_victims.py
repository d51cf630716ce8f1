"""What demotions free: counted to the byte, on devices and on the host."""

from __future__ import annotations

import pytest

from controller.core.cheapest import cheapest
from controller.core.choices import Choice, Move, Victim
from controller.core.events import DemotionOrdered, Event
from controller.core.eviction import make_room
from controller.core.ledger import HOST, Amounts
from controller.core.lifecycle import Phase
from controller.core.names import (
    Depth,
    DeviceId,
    Eviction,
    ModelName,
    NodeId,
    OperationId,
    ReplicaId,
)
from controller.core.victims import Asker, most_free, never_free, victims, work_out_coming
from tests.core.fleets import Story, spec

A, DEVICE = ReplicaId("a#0"), DeviceId("0")


def ordered(story: Story, depth: Depth) -> Event:
    return DemotionOrdered(story.time, OperationId("o"), ModelName("a"), depth)


def coming(story: Story) -> Amounts:
    return work_out_coming(story.fleet.books, story.fleet.books.replicas[A])


@pytest.mark.parametrize(
    ("depth", "drained", "ordered_down"),
    [
        # What is reserved on the host counts from the order on, and before it as wanted.
        (Depth.LEVEL_1, {DEVICE: 9, HOST: -10}, {DEVICE: 9, HOST: 0}),
        (Depth.LEVEL_2, {DEVICE: 9, HOST: 0}, {DEVICE: 9, HOST: 0}),
        (Depth.STOPPED, {DEVICE: 10, HOST: 0}, {DEVICE: 10, HOST: 0}),
    ],
)
def test_what_comes_free_by_a_drain_and_by_the_order_after_it(
    depth: Depth, drained: Amounts, ordered_down: Amounts
) -> None:
    story = Story(spec("a", 10))
    story.raises("r", "a")
    story.feed(ordered(story, depth))
    assert story.fleet.books.replicas[A].phase is Phase.DRAINING
    assert coming(story) == drained
    story.releases("r")
    assert story.fleet.books.replicas[A].phase in (Phase.FALLING_ASLEEP, Phase.STOPPING)
    assert coming(story) == ordered_down


def test_what_a_sleeper_held_on_the_host_comes_free_when_it_is_stopped() -> None:
    story = Story(spec("a", 10))
    story.raises("r", "a")
    story.releases("r")
    story.feed(ordered(story, Depth.LEVEL_1))
    story.answers("a#0")
    assert coming(story) == {DEVICE: 0, HOST: 0}
    story.feed(ordered(story, Depth.STOPPED))
    assert coming(story) == {DEVICE: 1, HOST: 10}


def test_a_single_byte_is_enough_if_it_is_all_that_lacks() -> None:
    victim = Victim(A, False, True, False, 0.0, (Choice(Depth.LEVEL_2, {DEVICE: 1, HOST: 0}),))
    assert (victim.wants, victim.is_stuck) == (0.0, False), "nobody said otherwise"
    assert cheapest({DEVICE: 1}, 0, [victim], None) == [(victim, victim.choices[0])]
    assert cheapest({DEVICE: 2}, 0, [victim], None) is None
    assert make_room({DEVICE: 1}, 0, [victim], Eviction.LRU) == [
        Move(A, Depth.LEVEL_2, is_busy=False, cost_s=0.0)
    ]


def test_what_never_comes_free_is_of_the_pinned_and_of_those_who_may_not_be_stopped() -> None:
    """``p`` stays as it is, ``c`` at the least that it may hold, ``a`` goes altogether; who asks
    and who goes for good are in nobody's way."""
    others = (
        spec("p", 4, pinned=True),
        spec("c", 6, deepest=Depth.LEVEL_2),
        spec("g", 3, pinned=True),
    )
    story = Story(spec("a", 10), *others, spec("x", 1, pinned=True), device=30)
    for model in "apcgx":
        story.raises(f"r-{model}", model)
    books, n = story.fleet.books, NodeId("n")
    books.replicas[ReplicaId("g#0")].is_retiring = True
    asker = Asker(ModelName("x"), ReplicaId("x#0"))
    assert never_free(books, asker, n, may_thaw=True) == {DEVICE: 4 + 1, HOST: 0}
    books.replicas[A].phase = Phase.ASLEEP
    books.replicas[A].depth = Depth.LEVEL_1
    assert never_free(books, asker, n, may_thaw=True) == {DEVICE: 4 + 1, HOST: 0}
    assert never_free(books, asker, n, may_thaw=False) == {DEVICE: 4 + 1 + 1, HOST: 0}


def test_who_holds_nothing_there_frees_nothing_there() -> None:
    story = Story(spec("a", 10))
    story.raises("r", "a")
    story.releases("r")
    books = story.fleet.books
    assert most_free(books, books.replicas[A], DEVICE) == 10
    assert most_free(books, books.replicas[A], DeviceId("1")) == 0


def test_awake_is_who_does_not_sleep() -> None:
    story = Story(spec("a", 10), spec("b", 10))
    for model in "ab":
        story.raises(f"r-{model}", model)
        story.releases(f"r-{model}")
    story.feed(ordered(story, Depth.LEVEL_1))
    story.answers("a#0")
    books = story.fleet.books
    rows = victims(books, Asker(ModelName("x")), list(books.replicas.values()))
    assert {(row.replica, row.is_awake, row.is_busy, row.is_stuck) for row in rows} == {
        ("a#0", False, False, False),
        ("b#0", True, False, False),
    }
