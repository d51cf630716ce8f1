"""What orders of a model took: learned, told at a start, forgotten with the model as it was."""

from __future__ import annotations

from controller.core.commands import RejectRequest, StartEngine
from controller.core.costs import REMEMBERED, CostTable, Took
from controller.core.events import (
    CostsFound,
    DemotionOrdered,
    ModelAdded,
    ModelChanged,
    ModelRemoved,
    RequestArrived,
)
from controller.core.fleet import Fleet
from controller.core.lifecycle import Action
from controller.core.names import (
    CostGuess,
    Depth,
    Footprint,
    Instant,
    ModelName,
    OperationId,
    OrderTimes,
    RequestId,
)
from controller.core.planning import is_at_rest
from tests.core.fleets import Story, node, policy, spec

A, B = ModelName("a"), ModelName("b")
START = Took(Action.START, Depth.STOPPED, (4.0,))
WAKE = Took(Action.WAKE, Depth.LEVEL_1, (0.2, 0.3))
TIMES = OrderTimes(1.0, 2.0, 3.0, 40.0, 50.0, 60.0, 70.0, 80.0)
GUESS = CostGuess(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)


def told(*took: Took, held: tuple[tuple[Depth, Footprint], ...] = ()) -> Fleet:
    """A fleet that knows of ``a`` from before, with no node yet."""
    fleet = Fleet(policy(), [spec("a"), spec("b")])
    assert fleet.handle(CostsFound(Instant(0.0), A, took, held)) == []
    return fleet


def test_each_action_is_guessed_and_limited_by_itself() -> None:
    table = CostTable(GUESS, TIMES)
    guessed = {action: table.seconds(A, action) for action in Action}
    assert guessed == dict(zip(Action, (1.0, 5.0, 6.0, 4.0, 7.0), strict=True))
    limits = {action: table.patience_s(A, action, Depth.STOPPED) for action in Action}
    assert limits == dict(zip(Action, (40.0, 50.0, 60.0, 70.0, 80.0), strict=True))


def test_a_wake_is_guessed_by_where_it_comes_from() -> None:
    table = CostTable(GUESS, TIMES)
    depths = (Depth.AWAKE, Depth.KV_RELEASED, Depth.LEVEL_1, Depth.LEVEL_2, Depth.STOPPED)
    assert [table.raising(A, depth) for depth in depths] == [0.0, 2.0, 3.0, 4.0, 1.0]
    assert [table.lowering(A, depth) for depth in depths[1:]] == [6.0, 6.0, 6.0, 7.0]


def test_each_order_that_is_answered_teaches_what_it_took() -> None:
    story = Story(spec("a", keeps_kv=True))
    story.arrives("r", "a")
    story.answers("a#0", after=5.0)
    story.releases("r")
    for number, (depth, after) in enumerate([(Depth.LEVEL_1, 2.5), (Depth.STOPPED, 3.5)]):
        operation = OperationId(f"o{number}")
        story.feed(DemotionOrdered(story.time, operation, A, depth))
        if number == 0:
            story.answers("a#0", after=0.5)
        story.answers("a#0", after=after)
    assert story.fleet.costs.of(A) == (
        Took(Action.START, Depth.STOPPED, (5.0,)),
        Took(Action.EXPORT, Depth.AWAKE, (0.5,)),
        Took(Action.SLEEP, Depth.LEVEL_1, (2.5,)),
        Took(Action.STOP, Depth.STOPPED, (3.5,)),
    )


def test_all_that_was_measured_of_a_model_is_told_and_of_no_other() -> None:
    table = CostTable(GUESS, TIMES)
    for seconds in range(REMEMBERED + 2):
        table.learn(A, Action.START, Depth.STOPPED, float(seconds))
    table.learn(B, Action.START, Depth.STOPPED, 9.0)
    table.learn(A, Action.WAKE, Depth.LEVEL_1, 0.5)
    assert table.of(A) == (
        Took(Action.START, Depth.STOPPED, (2.0, 3.0, 4.0, 5.0, 6.0)),
        Took(Action.WAKE, Depth.LEVEL_1, (0.5,)),
    )
    table.forget(A)
    assert table.of(A) == ()
    assert table.seconds(B, Action.START) == 9.0


def test_a_started_controller_decides_by_what_was_measured_before() -> None:
    fleet = told(START, WAKE, held=((Depth.AWAKE, Footprint(7)),))
    assert fleet.handle(node(0.0)) == []
    assert fleet.outlook(A).estimate_s == 4.0
    assert fleet.costs.raising(A, Depth.LEVEL_1) == 0.3
    assert fleet.costs.raising(B, Depth.STOPPED) == policy().costs.start_s
    assert fleet.models[A].footprint(Depth.AWAKE) == Footprint(7)
    assert fleet.models[A].footprint(Depth.LEVEL_1) == spec("a").footprints[Depth.LEVEL_1]


def test_a_request_that_would_be_turned_away_on_a_guess_is_let_in() -> None:
    guessing = Story(spec("a"))
    [refusal, _] = guessing.arrives("r", "a", max_wait_s=5.0)
    assert isinstance(refusal, RejectRequest)
    knowing = Story(spec("a"))
    knowing.feed(CostsFound(knowing.time, A, (START,), ()))
    [start] = knowing.arrives("r", "a", max_wait_s=5.0)
    assert isinstance(start, StartEngine)


def test_what_was_measured_in_this_run_stays() -> None:
    story = Story(spec("a"))
    story.raises("r", "a")
    held = story.fleet.models[A].footprint(Depth.AWAKE)
    late = CostsFound(story.time, A, (START, WAKE), ((Depth.AWAKE, Footprint(1)),))
    story.feed(late)
    assert story.fleet.costs.raising(A, Depth.STOPPED) == 1.0
    assert story.fleet.costs.raising(A, Depth.LEVEL_1) == 0.3
    assert story.fleet.models[A].footprint(Depth.AWAKE) == held


def test_costs_of_an_unknown_or_removed_model_are_nobodys() -> None:
    story = Story(spec("a"))
    story.raises("r", "a")
    story.feed(ModelRemoved(story.time, A))
    story.feed(CostsFound(story.time, A, (WAKE,), ()))
    story.feed(CostsFound(story.time, B, (WAKE,), ()))
    assert story.fleet.costs.of(B) == ()
    assert WAKE not in story.fleet.costs.of(A)


def test_nothing_is_left_of_a_model_that_is_gone() -> None:
    story = Story(spec("a"))
    story.feed(RequestArrived(story.time, RequestId("r"), A, tenant="x"))
    story.answers("a#0")
    books = story.fleet.books
    assert books.popularity.of(A) > 0
    assert books.tenants.last_turn(A, "x") == 1
    story.releases("r")
    story.feed(ModelRemoved(story.time, A))
    story.answers("a#0")
    assert A not in story.fleet.models
    assert is_at_rest(books)
    assert (books.costs.of(A), books.popularity.of(A)) == ((), 0.0)
    assert books.tenants.last_turn(A, "x") == 0


def test_a_model_that_is_changed_begins_anew() -> None:
    """Also where its name comes again; what its old engine still does teaches nothing."""
    for event in (
        ModelChanged(Instant(2.0), spec("a", 12), restart=True),
        ModelAdded(Instant(2.0), spec("a", 12)),
    ):
        story = Story(spec("a"))
        story.arrives("r", "a")
        story.feed(event)
        assert story.fleet.costs.of(A) == ()
        story.answers("a#0", after=3.0)
        assert story.fleet.costs.of(A) == ()
    known = Story(spec("a"))
    known.raises("r", "a")
    assert known.fleet.costs.of(A) != ()
    known.feed(ModelChanged(known.time, spec("a", 12), restart=True))
    assert known.fleet.costs.of(A) == ()


def test_a_change_without_a_restart_keeps_what_was_measured() -> None:
    story = Story(spec("a"))
    story.raises("r", "a")
    story.feed(ModelChanged(story.time, spec("a", max_wait_s=7.0), restart=False))
    assert story.fleet.costs.raising(A, Depth.STOPPED) == 1.0


def test_a_ladder_that_sets_itself_follows_what_is_known_from_before() -> None:
    story = Story(spec("a", sets_own_ladder=True))
    record = story.fleet.models[A]
    before = story.fleet.books.own_rungs(record)
    story.feed(CostsFound(story.time, A, (START,), ()))
    assert story.fleet.books.own_rungs(record) != before
