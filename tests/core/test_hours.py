"""Fixed hours: woken at their beginning, kept awake or put to rest, and never in another's way."""

from __future__ import annotations

from controller.core.commands import Command, SleepEngine, StartEngine, WakeEngine
from controller.core.events import DemotionOrdered, LeaseReleased, RegimeBegan, WakeOrdered
from controller.core.lifecycle import Phase
from controller.core.names import (
    Depth,
    ModelName,
    OperationId,
    Regime,
    ReplicaId,
    RequestId,
    Schedule,
)
from tests.core.fleets import Story, ladder, spec
from tests.core.test_replicas import rests

A0, B0 = ReplicaId("a#0"), ReplicaId("b#0")
REST = ladder(float("inf"), 60.0)
OFFICE = Schedule("UTC", asleep_to=Depth.LEVEL_2, asleep_after_s=5.0)
A = spec("a", 10, ladder=REST, schedule=OFFICE)


def begins(story: Story, regime: Regime, model: str = "a") -> list[Command]:
    return story.feed(RegimeBegan(story.time, ModelName(model), regime))


def ends(story: Story, request: str) -> list[Command]:
    return story.feed(LeaseReleased(story.time, RequestId(request)))


def slept(commands: list[Command]) -> list[tuple[str, Depth]]:
    return [(c.replica, c.depth) for c in commands if isinstance(c, SleepEngine)]


def test_started_in_the_morning_and_kept_awake_all_day() -> None:
    story = Story(A)
    started = begins(story, Regime.AWAKE)
    assert [c.replica for c in started if isinstance(c, StartEngine)] == ["a#0"]
    story.answers("a#0")
    assert rests(story, 36_000.0) == []
    assert slept(begins(story, Regime.USUAL)) == [("a#0", Depth.LEVEL_1)]  # idle for long


def test_at_rest_in_the_evening_and_woken_by_whoever_asks() -> None:
    story = Story(A)
    story.raises("r", "a")
    ends(story, "r")
    story.at += 5.0
    assert slept(begins(story, Regime.ASLEEP)) == [("a#0", Depth.LEVEL_2)]
    story.answers("a#0")
    woken = story.arrives("night", "a")
    assert [c.replica for c in woken if isinstance(c, WakeEngine)] == ["a#0"]
    story.answers("a#0")
    ended = story.at
    assert slept(ends(story, "night")) == []
    assert slept(rests(story, ended + 4.9)) == []
    assert slept(rests(story, ended + 5.0)) == [("a#0", Depth.LEVEL_2)]


def test_a_running_response_is_not_cut_off_when_the_evening_begins() -> None:
    story = Story(A)
    story.raises("r", "a")
    story.at += 3600.0
    assert begins(story, Regime.ASLEEP) == []
    assert slept(rests(story, story.at + 60.0)) == []


def test_the_ladders_own_steps_go_on_at_night() -> None:
    story = Story(spec("a", 10, ladder=ladder(1.0), schedule=OFFICE))
    story.raises("r", "a")
    begins(story, Regime.ASLEEP)
    ends(story, "r")
    assert slept(rests(story, story.at + 1.0)) == [("a#0", Depth.KV_RELEASED)]


def test_at_its_beginning_it_takes_room_from_the_idle_and_none_from_the_busy() -> None:
    story = Story(A, spec("b", 20))
    story.raises("r", "b")
    assert begins(story, Regime.AWAKE) == []
    assert slept(ends(story, "r")) == [("b#0", Depth.LEVEL_1)]
    story.answers("b#0")
    story.answers("a#0")
    assert story.fleet.replicas[A0].phase is Phase.AWAKE


def test_evicted_by_day_it_comes_back_only_into_free_room() -> None:
    """Else two models would chase each other at each pause."""
    story = Story(A, spec("b", 20, ladder=REST))
    begins(story, Regime.AWAKE)
    story.answers("a#0")
    assert slept(story.arrives("r", "b")) == [("a#0", Depth.LEVEL_1)]
    story.answers("a#0")
    story.answers("b#0")
    ends(story, "r")
    ended = story.at
    assert rests(story, ended + 59.0) == []
    assert slept(rests(story, ended + 60.0)) == [("b#0", Depth.LEVEL_1)]
    woken = story.answers("b#0")
    assert [c.replica for c in woken if isinstance(c, WakeEngine)] == ["a#0"]


def test_another_idle_model_is_evicted_rather_than_one_in_its_hours() -> None:
    story = Story(A, spec("b", 8), spec("c", 10))
    begins(story, Regime.AWAKE)
    story.answers("a#0")
    story.raises("r", "b")
    ends(story, "r")
    assert slept(story.arrives("s", "c")) == [("b#0", Depth.LEVEL_1)]


def test_an_administrators_word_counts_until_the_next_hours_or_its_next_word() -> None:
    story = Story(A)
    begins(story, Regime.AWAKE)
    story.answers("a#0")
    ordered = DemotionOrdered(story.time, OperationId("o1"), ModelName("a"), Depth.LEVEL_1)
    assert slept(story.feed(ordered)) == [("a#0", Depth.LEVEL_1)]
    assert story.answers("a#0") != []
    assert not [c for c in rests(story, 3600.0) if isinstance(c, WakeEngine)]
    story.feed(WakeOrdered(story.time, OperationId("o2"), ModelName("a")))
    story.answers("a#0")
    assert slept(rests(story, 7200.0)) == []
    begins(story, Regime.USUAL)
    assert begins(story, Regime.USUAL) == []


def test_the_story_tells_of_hours() -> None:
    story = Story(A)
    begins(story, Regime.AWAKE)
    told = [(line.what, line.why) for line in story.fleet.story(ModelName("a"))]
    assert ("AWAKE hours", "by its schedule") in told


def test_a_backup_is_kept_in_these_hours_too() -> None:
    story = Story(spec("a", 10, replicas=2, least_replicas=2, schedule=OFFICE))
    begins(story, Regime.AWAKE)
    started = story.answers("a#0")
    assert [c.replica for c in started if isinstance(c, StartEngine)] == ["a#1"]


def test_nobody_is_woken_for_the_evening() -> None:
    story = Story(A)
    assert begins(story, Regime.ASLEEP) == []
    assert begins(story, Regime.USUAL) == []


def test_an_order_to_rest_counts_against_the_hours_at_once() -> None:
    """Also where the model is awake for somebody: its own ladder is what counts then."""
    story = Story(A)
    begins(story, Regime.AWAKE)
    story.answers("a#0")
    assert story.fleet.models[A.name].is_due_awake
    story.arrives("r", "a")
    story.feed(DemotionOrdered(story.time, OperationId("o1"), A.name, Depth.LEVEL_1))
    assert not story.fleet.models[A.name].is_due_awake
    story.feed(WakeOrdered(story.time, OperationId("o2"), A.name))
    assert story.fleet.models[A.name].is_due_awake
