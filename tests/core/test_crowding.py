"""A limit on the number of sleepers, beside the bytes."""

from __future__ import annotations

from typing import Any

from controller.core.commands import StopEngine
from controller.core.events import DemotionOrdered, LeaseReleased, PinOrdered, RequestCancelled
from controller.core.lifecycle import Phase
from controller.core.names import Depth, Eviction, ModelName, OperationId, RequestId
from tests.core.fleets import Story, spec


def slept(story: Story, name: str) -> list[Any]:
    """The model has been up and falls asleep."""
    story.raises(f"first {name}", name)
    story.feed(LeaseReleased(story.time, RequestId(f"first {name}")))
    order = OperationId(f"down {name}")
    story.feed(DemotionOrdered(story.time, order, ModelName(name), Depth.LEVEL_1))
    return [c for c in story.answers(f"{name}#0") if isinstance(c, StopEngine)]


def crowd(limit: int | None, *names: str, **more: Any) -> Story:
    return Story(*(spec(name, 6, **more) for name in names), most_sleepers=limit)


def test_of_one_sleeper_too_many_the_least_wanted_is_stopped() -> None:
    story = crowd(2, "a", "b", "c")
    assert slept(story, "a") == []
    assert slept(story, "b") == []
    [stop] = slept(story, "c")
    assert stop.replica == "a#0"
    assert stop.whom == "the limit of sleepers"


def test_who_was_wanted_more_often_stays_though_it_slept_first() -> None:
    models = [spec(name, 6) for name in "abc"]
    story = Story(*models, most_sleepers=2, eviction=Eviction.LFU)
    assert [slept(story, name) for name in "aab"] == [[], [], []]
    [stop] = slept(story, "c")
    assert stop.replica == "b#0"


def test_without_a_limit_all_may_sleep() -> None:
    story = crowd(None, "a", "b", "c")
    assert [slept(story, name) for name in "abc"] == [[], [], []]


def test_who_may_not_be_stopped_sleeps_on() -> None:
    story = crowd(0, "a", "b", deepest=Depth.LEVEL_2)
    assert slept(story, "a") == []
    assert slept(story, "b") == []


def test_nor_is_the_pinned_one() -> None:
    story = crowd(1, "a", "b")
    assert slept(story, "a") == []
    story.feed(PinOrdered(story.time, ModelName("a"), True))
    [stop] = slept(story, "b")
    assert stop.replica == "b#0"


def test_a_sleeper_that_is_waited_for_is_stopped_only_when_nobody_waits() -> None:
    story = Story(spec("a", 20), spec("b", 22), most_sleepers=0)
    story.raises("r", "b")
    story.feed(LeaseReleased(story.time, RequestId("r")))
    order = DemotionOrdered(story.time, OperationId("o"), ModelName("b"), Depth.LEVEL_2)
    story.feed(order)
    story.arrives("ra", "a")
    story.arrives("rb", "b")
    story.answers("b#0")
    assert story.fleet.replicas[next(iter(story.fleet.replicas))].phase is Phase.STARTING
    b = next(r for r in story.fleet.replicas.values() if r.model == "b")
    assert b.phase is Phase.ASLEEP
    [stop] = story.feed(RequestCancelled(story.time, RequestId("rb")))
    assert isinstance(stop, StopEngine)
