"""Orders of administrators against one another: a later one calls off earlier ones of its model,
and of no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from controller.core.commands import Command, FinishOperation, GrantLease, StartEngine
from controller.core.demands import demands_of
from controller.core.events import (
    DemotionOrdered,
    EngineFailed,
    RequestArrived,
    SwitchOrdered,
    TimePassed,
    WakeOrdered,
)
from controller.core.fleet import Fleet
from controller.core.lifecycle import Phase
from controller.core.names import (
    Depth,
    Instant,
    Limits,
    ModelName,
    OperationId,
    Priority,
    ReplicaId,
    RequestId,
)
from tests.core.fleets import Story, node, policy, spec


def wakes(story: Story, order: str, model: str) -> list[Command]:
    return story.feed(WakeOrdered(story.time, OperationId(order), ModelName(model)))


def sleeps(story: Story, order: str, model: str) -> list[Command]:
    deep = Depth.LEVEL_2
    return story.feed(DemotionOrdered(story.time, OperationId(order), ModelName(model), deep))


def finished(commands: Sequence[Command]) -> dict[str, str]:
    ends = [command for command in commands if isinstance(command, FinishOperation)]
    return {end.operation: end.error for end in ends}


def test_an_order_to_sleep_calls_off_the_wakes_of_its_model_alone() -> None:
    story = Story(spec("a", 10), spec("b", 10))
    wakes(story, "o1", "a")
    wakes(story, "o2", "b")
    assert finished(sleeps(story, "o3", "a")) == {"o1": "called off by o3"}
    assert finished(story.answers("b#0")) == {"o2": ""}


def test_an_order_whose_id_is_being_carried_out_is_a_double_whatever_it_says() -> None:
    story = Story(spec("a", 10), spec("b", 10))
    story.raises("r", "b")
    story.releases("r")
    wakes(story, "o", "a")
    assert wakes(story, "o", "a") == []
    assert sleeps(story, "o", "b") == []
    assert sleeps(story, "o", "nobody") == []
    switch = SwitchOrdered(
        story.time, OperationId("o"), ModelName("b"), ModelName("b"), Depth.LEVEL_2
    )
    assert story.feed(switch) == []
    assert story.fleet.replicas[ReplicaId("b#0")].phase is Phase.AWAKE
    assert finished(story.answers("a#0")) == {"o": ""}
    assert finished(story.feed(replace(switch, at=story.time))) == {
        "o": "source and target are the same model"
    }
    assert finished(sleeps(story, "p", "nobody")) == {"p": "no model nobody"}


def test_an_order_to_wake_calls_off_the_demotions_of_its_model_alone() -> None:
    story = Story(spec("a", 10), spec("b", 10))
    for model in ("a", "b"):
        story.raises(f"r-{model}", model)
        assert finished(sleeps(story, f"sleep-{model}", model)) == {}
    assert finished(wakes(story, "o", "a")) == {"sleep-a": "called off by o", "o": ""}
    story.releases("r-b")
    assert finished(story.answers("b#0")) == {"sleep-b": ""}


def test_a_wake_that_cannot_be_ends_with_the_reason_and_ends_no_other() -> None:
    story = Story(spec("a", 10, max_restarts=1), spec("b", 10))
    wakes(story, "o1", "a")
    wakes(story, "o2", "b")
    order = story.fleet.replicas[ReplicaId("a#0")].order
    assert order is not None
    failed = story.feed(EngineFailed(story.time, order.op, ReplicaId("a#0"), "no weights"))
    assert finished(failed).keys() == {"o1"}
    assert "no weights" in finished(failed)["o1"]


def test_the_story_names_the_order_for_which_a_model_was_raised() -> None:
    story = Story(spec("a", 10), spec("b", 10))
    wakes(story, "o1", "a")
    wakes(story, "o2", "b")
    told = {name: replica.story[-1].why for name, replica in story.fleet.replicas.items()}
    assert told == {"a#0": "operation o1", "b#0": "operation o2"}


def test_who_was_never_served_comes_before_who_was_served_once() -> None:
    story = Story(spec("a", 10, limits=Limits(running=1)))

    def asks(request: str, tenant: str) -> None:
        arrives = RequestArrived(story.time, RequestId(request), ModelName("a"), tenant=tenant)
        story.feed(arrives)

    asks("x1", "x")
    story.answers("a#0")
    asks("x2", "x")
    asks("y1", "y")
    (granted,) = story.releases("x1")
    assert isinstance(granted, GrantLease)
    assert granted.request == "y1"


def test_a_depth_without_room_on_the_host_ends_the_orders_to_it_and_no_deeper_one() -> None:
    story = Story(spec("a"), host=0)
    story.raises("r", "a")
    story.releases("r")
    for order, depth in (("o1", Depth.KV_RELEASED), ("o2", Depth.LEVEL_1), ("o3", Depth.LEVEL_2)):
        operation = OperationId(order)
        story.feed(DemotionOrdered(story.time, operation, ModelName("a"), depth))
    told = story.answers("a#0")
    assert finished(told) == {"o1": "", "o2": "a#0: the host has no room for LEVEL_1"}
    assert finished(story.answers("a#0")) == {"o3": ""}
    assert story.fleet.state(ModelName("a")) == "level_2"


def test_a_flexible_request_comes_before_a_first_start() -> None:
    fleet = Fleet(policy(prefetch_start=True), [spec("a", 14), spec("b", 14)])
    flexible = RequestArrived(Instant(0.0), RequestId("r"), ModelName("b"), None, "", Priority.FLEX)
    assert fleet.handle(flexible) == []
    [start] = fleet.handle(node(1.0))
    assert isinstance(start, StartEngine)
    assert start.model == "b"


def test_of_first_starts_the_model_that_was_added_first_comes_first() -> None:
    fleet = Fleet(policy(prefetch_start=True, prefetch_at_once=1), [spec("b", 4), spec("a", 4)])
    [start] = fleet.handle(node(1.0))
    assert isinstance(start, StartEngine)
    assert start.model == "b"


def blocked(**more: Any) -> Story:
    """``p`` leaves no room for ``a`` and ``b``, of which each is waited for since another time."""
    story = Story(spec("a", 10), spec("b", 10), spec("p", 20), **more)
    story.raises("rp", "p")
    return story


def test_a_model_is_wanted_since_the_first_who_wants_it() -> None:
    story = blocked()
    story.arrives("ra", "a")
    first = story.at
    story.at += 5.0
    wakes(story, "o", "a")
    [demand] = demands_of(story.fleet.books)
    assert (demand.model, demand.since) == ("a", first)


def test_who_waited_the_maximum_counts_as_one_with_priority_from_that_moment_on() -> None:
    story = blocked(maximum_wait_behind_s=9.0)
    story.arrives("ra", "a")
    end = story.at + 9.0
    story.at += 5.0
    name = RequestId("rb")
    story.feed(RequestArrived(story.time, name, ModelName("b"), priority=Priority.PRIORITY))
    assert [demand.model for demand in demands_of(story.fleet.books)] == ["b", "a"]
    story.feed(TimePassed(Instant(end)))
    assert [demand.model for demand in demands_of(story.fleet.books)] == ["a", "b"]
