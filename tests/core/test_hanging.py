"""Standing still for too long: by what an engine tells, and by its silence."""

from __future__ import annotations

from math import inf

from controller.core.hanging import HangTimes, Pulse
from controller.core.names import Instant

TIMES = HangTimes(factor=10, least_s=60, most_s=600)


def hung(*beats: tuple[float, int, int], at: float, longest_step_s: float | None = 0.1) -> bool:
    """``beats``: (when, steps, running)."""
    pulse = Pulse(Instant(0.0))
    for when, steps, running in beats:
        pulse.beat(Instant(when), steps, running, longest_step_s)
    return pulse.why_hung(Instant(at), TIMES) is not None


def test_patience_fits_the_longest_step_between_a_least_and_a_most() -> None:
    assert TIMES.patience_s(0.02) == 60
    assert TIMES.patience_s(20.0) == 200
    assert TIMES.patience_s(100.0) == 600
    assert TIMES.patience_s(None) == 600
    assert HangTimes(most_s=inf).patience_s(0.02) == inf


def test_an_engine_that_steps_does_not_hang_however_long_it_takes() -> None:
    assert not hung(*((float(at), at, 1) for at in range(0, 1000, 50)), at=960)


def test_an_engine_with_requests_and_no_step_hangs() -> None:
    beats = ((5.0, 7, 1), (10.0, 7, 1), (70.0, 7, 2))
    assert not hung(*beats[:2], at=64)
    assert hung(*beats, at=70)


def test_a_huge_prompt_in_one_step_is_no_hang() -> None:
    assert not hung((5.0, 7, 1), (300.0, 7, 1), at=300, longest_step_s=40.0)


def test_without_requests_it_need_not_step() -> None:
    assert not hung((5.0, 7, 0), (900.0, 7, 0), at=900)
    assert not hung((5.0, 7, 0), (900.0, 7, 1), at=930), "its request has just come"


def test_one_that_never_answers_is_given_the_most() -> None:
    assert not hung(at=600)
    assert hung(at=601)


def test_why_says_for_how_long_and_with_how_many() -> None:
    pulse = Pulse(Instant(0.0))
    pulse.beat(Instant(5.0), 7, 3, 0.1)
    assert pulse.why_hung(Instant(80.0), TIMES) == "no step for 75 s with 3 requests in it"
