"""Plausible designs that are wrong, each put in place of the right one and each caught.

A check that nothing can fail proves nothing: here the invariants and the simulated world are
shown to see what they are there to see.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from controller.core import demoting, failures, observing, orders, planning, raising
from controller.core.books import Books
from controller.core.lifecycle import Goal, InvariantBroken, Phase, Replica
from controller.core.names import NOTHING, Depth, Footprint
from controller.drivers.sim import Simulator
from controller.drivers.world import Misordered
from tests.core.test_simulation import FAULTS, ask_around, assert_settled, crowd, order_about

SEEDS = range(12)
Patch = pytest.MonkeyPatch


def simulate() -> None:
    """Raises if any seed shows that something is wrong."""
    for seed in SEEDS:
        sim: Simulator = crowd(seed, FAULTS, maximum_wait_behind_s=5.0)
        ask_around(sim, seed, long=0.2)
        order_about(sim, seed)
        sim.run()
        assert_settled(sim)


def plan_once(patch: Patch) -> None:
    """Each step once after each event, instead of until nothing is left to do."""

    def plan(books: Books) -> None:
        for step in planning.STEPS:
            before = books.version
            step(books)
            if books.version != before:
                return

    patch.setattr(planning, "plan", plan)


def memory_from_the_phase(patch: Patch) -> None:
    """What is held follows from phase and depth, instead of from what was booked: somebody who is
    being stopped is believed to hold nothing."""
    order_down = orders.order_down

    def on_order_down(books: Books, replica: Replica, goal: Goal) -> None:
        order_down(books, replica, goal)
        if replica.phase is Phase.STOPPING and replica.place is not None:
            books.ledger.settle(replica, replica.place, NOTHING)

    for room in (orders, demoting, planning):
        patch.setattr(room, "order_down", on_order_down)


def a_failure_inflates(patch: Patch) -> None:
    """An order that goes wrong is taken to have reached what it reserved, and more each time."""
    fail = failures.fail

    def inflated(books: Books, replica: Replica, reason: str) -> None:
        place = replica.place
        if replica.phase is Phase.STOPPING and place is not None:
            awake = books.models[replica.model].footprint(Depth.AWAKE)
            held = Footprint(
                replica.held.device_bytes + awake.device_bytes, replica.held.host_bytes
            )
            books.ledger.reserve(replica, place, held)
            replica.held = held
        fail(books, replica, reason)

    for room in (failures, observing, planning, raising):
        patch.setattr(room, "fail", inflated)


def the_depth_before_the_drain(patch: Patch) -> None:
    """The goal of a drain is carried out as it was when the drain began."""

    def as_chosen(books: Books, replica: Replica, depth: Depth, deepest: Depth) -> Depth:
        return depth

    patch.setattr(demoting, "fitting_depth", as_chosen)
    patch.setattr(planning, "fitting_depth", as_chosen)


def the_frozen_are_forgotten(patch: Patch) -> None:
    """Nobody asks for an engine whose requests are frozen."""
    touch_use = Books.touch_use

    def forgets(books: Books, replica: Replica) -> None:
        touch_use(books, replica)
        books.frozen.clear()

    patch.setattr(Books, "touch_use", forgets)


MUTANTS: tuple[Callable[[Patch], None], ...] = (
    plan_once,
    memory_from_the_phase,
    a_failure_inflates,
    the_depth_before_the_drain,
    the_frozen_are_forgotten,
)


def test_the_right_design_passes() -> None:
    simulate()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_wrong_design_is_caught(mutant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    with pytest.raises((InvariantBroken, Misordered, AssertionError)):
        simulate()
