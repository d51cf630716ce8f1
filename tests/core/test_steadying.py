"""Which ups and downs of a memory become a budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.core.names import Instant
from controller.core.steadying import SteadyBudget

NAMED = 100


def budgets(*looks: tuple[float, int], step: int = 5, calm_s: float = 30.0) -> list[int | None]:
    """What is left of a hundred after each look."""
    steady = SteadyBudget(step, calm_s)
    told = []
    for at, to_be_had in looks:
        steady.look(Instant(at), to_be_had, NAMED)
        told.append(steady.cut_to)
    return told


def test_noise_is_no_change() -> None:
    assert budgets((0, 120), (2, 98), (4, 96), (6, 103)) == [None] * 4


def test_a_cut_counts_at_once() -> None:
    assert budgets((0, 120), (2, 60), (4, 40)) == [None, 60, 40]


def test_what_comes_free_counts_after_it_stayed_free() -> None:
    assert budgets((0, 60), (10, 200), (29, 200), (31, 200), (41, 200)) == [60, 60, 60, 60, None]


def test_only_what_was_free_all_the_time_counts() -> None:
    looks = ((0, 40), (10, 90), (20, 70), (40, 90), (51, 90), (71, 90))
    assert budgets(*looks) == [40, 40, 40, 70, 70, 90]


def test_a_short_relief_in_the_middle_counts_for_nothing() -> None:
    assert budgets((0, 40), (20, 99), (40, 41), (60, 99)) == [40] * 4


def test_the_last_bit_is_given_back_though_it_is_less_than_a_step() -> None:
    assert budgets((0, 94), (10, 120), (41, 120)) == [94, 94, None]


@given(st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 150)), min_size=1, max_size=40))
def test_a_budget_is_never_above_what_can_be_had_by_more_than_a_step(
    steps: list[tuple[float, int]],
) -> None:
    steady, at = SteadyBudget(5, 30.0), 0.0
    for pause_s, to_be_had in steps:
        at += pause_s
        changed_before = steady.cut_to
        changed = steady.look(Instant(at), to_be_had, NAMED)
        budget = NAMED if steady.cut_to is None else steady.cut_to
        assert budget <= min(NAMED, to_be_had) + 5
        assert changed == (steady.cut_to != changed_before)


def test_what_was_free_before_a_cut_speaks_for_nothing_after_it() -> None:
    looks = ((0, 100), (25, 60), (26, 99), (40, 99), (54, 99), (55, 99), (56, 99))
    assert budgets(*looks) == [None, 60, 60, 60, 60, 60, 99]
