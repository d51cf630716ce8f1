"""Fetched or computed: what numbers decide, and what is decided without them."""

from __future__ import annotations

import pytest

from controller.core.names import Instant, ModelName, NodeId
from controller.core.recall import Rates, is_computed_sooner, is_worth_fetching

NODE, MODEL = NodeId("n"), ModelName("m")
MIB = 1 << 20


def measured(*, fetch_mib_s: float, prefill_s: float, at: float = 0.0) -> Rates:
    """A token's KV has 22.5 KiB."""
    rates = Rates()
    rates.fetched(NODE, 100 * MIB, 100 / fetch_mib_s, Instant(at))
    rates.computed(MODEL, 1000, 1000 / prefill_s, Instant(at))
    rates.sized(MODEL, 2880 * 1024, 128)
    return rates


def seconds(rates: Rates, tokens: int, at: float = 1.0) -> tuple[float | None, float | None]:
    return (
        rates.fetch_s(NODE, MODEL, tokens, Instant(at)),
        rates.compute_s(MODEL, tokens, Instant(at)),
    )


def test_seconds_follow_from_what_was_measured() -> None:
    fetch_s, compute_s = seconds(measured(fetch_mib_s=100, prefill_s=240), 4096)
    assert fetch_s == pytest.approx(0.9)
    assert compute_s == pytest.approx(17.07, abs=0.01)


@pytest.mark.parametrize(
    ("fetch_mib_s", "prefill_s", "head_start_s", "is_sooner"),
    [
        (1000, 240, 0.0, False),  # a CPU beside a fast store
        (4, 240, 0.0, True),  # 4,096 tokens: 22.5 s to fetch, 17 s to compute
        (4, 240, 10.0, False),  # but the wake takes 10 s of them
        (1000, 50_000, 0.0, True),  # a GPU: 0.09 s to fetch, 0.08 s to compute
        (1000, 50_000, 1.0, False),
    ],
)
def test_the_smaller_of_two_wins_and_a_wake_is_a_head_start(
    fetch_mib_s: float, prefill_s: float, head_start_s: float, is_sooner: bool
) -> None:
    both = seconds(measured(fetch_mib_s=fetch_mib_s, prefill_s=prefill_s), 4096)
    assert is_computed_sooner(*both, head_start_s) is is_sooner


@pytest.mark.parametrize("both", [(None, 1.0), (9.0, None), (None, None)])
def test_only_measurements_speak_against_fetching(
    both: tuple[float | None, float | None],
) -> None:
    assert not is_computed_sooner(*both)
    assert is_worth_fetching(*both, head_start_s=1.0)


def test_a_wake_that_is_over_at_once_is_no_time_to_fetch_in() -> None:
    assert not is_worth_fetching(0.001, 100.0, head_start_s=0.002)
    assert not is_worth_fetching(0.001, 100.0, head_start_s=0.049)
    assert is_worth_fetching(0.001, 100.0, head_start_s=0.05)


def test_what_was_measured_is_forgotten_in_time() -> None:
    rates = measured(fetch_mib_s=100, prefill_s=240, at=0.0)
    assert seconds(rates, 100, at=599.0) != (None, None)
    assert seconds(rates, 100, at=600.0) == (None, None)


def test_one_slow_fetch_among_many_changes_nothing() -> None:
    rates = measured(fetch_mib_s=100, prefill_s=240)
    rates.fetched(NODE, 100 * MIB, 1.0, Instant(1))
    rates.fetched(NODE, 100 * MIB, 60.0, Instant(2))
    assert rates.fetch_s(NODE, MODEL, 4096, Instant(3)) == pytest.approx(0.9)


def test_of_what_was_measured_the_middle_counts_and_only_the_last_five() -> None:
    rates = Rates()
    rates.sized(MODEL, MIB, 1)
    for number, mib_s in enumerate((1, 500, 100, 200, 300, 400)):
        rates.fetched(NODE, mib_s * MIB, 1.0, Instant(number))
        rates.computed(MODEL, mib_s * 1000, 1.0, Instant(number))
    assert seconds(rates, 3000, at=9.0) == (3000 / 300, 3000 / 300_000)


def test_a_single_byte_teaches_as_much_as_many() -> None:
    rates = Rates()
    rates.sized(MODEL, 1, 1)
    rates.fetched(NODE, 1, 0.5, Instant(0))
    assert rates.fetch_s(NODE, MODEL, 4, Instant(1)) == 2.0


def test_what_took_no_time_that_could_be_measured_teaches_nothing() -> None:
    rates = Rates()
    rates.sized(MODEL, MIB, 1)
    rates.fetched(NODE, MIB, 0.0, Instant(0))
    rates.computed(MODEL, 1000, 0.0, Instant(0))
    assert seconds(rates, 100) == (None, None)


def test_short_prompts_and_empty_fetches_teach_nothing() -> None:
    rates = Rates()
    rates.fetched(NODE, 0, 1.0, Instant(0))
    rates.computed(MODEL, 20, 5.0, Instant(0))
    rates.sized(MODEL, 0, 128)
    rates.sized(MODEL, 128, 0)
    assert seconds(rates, 100) == (None, None)
    rates.sized(MODEL, 2880 * 1024, 128)
    assert seconds(rates, 100) == (None, None)
