"""What a grant tells: in which state the model was found, how long was waited, and for what."""

from __future__ import annotations

from collections.abc import Sequence

from controller.core.commands import Command, GrantLease
from controller.core.events import DemotionOrdered
from controller.core.names import Depth, ModelName, ModelState, OperationId, RequestId
from tests.core.fleets import Story, spec


def grants(commands: Sequence[Command]) -> dict[RequestId, tuple[ModelState, float, float]]:
    """State, seconds of the wait, seconds of the wake in it."""
    found = [command for command in commands if isinstance(command, GrantLease)]
    return {grant.request: (grant.state, grant.queued_s, grant.wake_s) for grant in found}


def sleeps(story: Story, model: str) -> None:
    order = DemotionOrdered(
        story.time, OperationId(f"o{story.at}"), ModelName(model), Depth.LEVEL_1
    )
    story.feed(order)
    story.answers(f"{model}#0")


def test_who_finds_it_awake_waits_for_nothing() -> None:
    story = Story(spec("a", 10))
    story.raises("r1", "a")
    assert grants(story.arrives("r2", "a")) == {RequestId("r2"): (ModelState.AWAKE, 0.0, 0.0)}


def test_a_start_is_told_to_each_as_long_as_they_waited_for_it() -> None:
    story = Story(spec("a", 10))
    story.arrives("r1", "a")
    story.at = 4.0
    story.arrives("r2", "a")
    assert grants(story.answers("a#0", after=6.0)) == {
        RequestId("r1"): (ModelState.COLD, 10.0, 10.0),
        RequestId("r2"): (ModelState.COLD, 6.0, 6.0),
    }


def test_a_wake_is_told_without_the_wait_for_room_before_it() -> None:
    story = Story(spec("a", 20), spec("b", 20))
    story.raises("r1", "a")
    story.releases("r1")
    sleeps(story, "a")
    story.raises("r2", "b")
    story.releases("r2")
    story.arrives("r3", "a")
    assert grants(story.answers("b#0", after=2.0)) == {}  # b has fallen asleep
    assert grants(story.answers("a#0", after=1.0)) == {
        RequestId("r3"): (ModelState.WOKEN, 3.0, 1.0)
    }
