"""Bulkheads: never more live than a limit says, nobody forgotten, nobody held up by a stranger."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from controller.core.bulkheads import Answer, Bulkheads, LiveLimits


def test_a_crowded_tenant_holds_up_nobody_else() -> None:
    bulkheads = Bulkheads(LiveLimits(model=3, tenant=2, queue=2))
    assert [bulkheads.enter(n, "m", "a") for n in (1, 2, 3)] == [
        Answer.ENTERED,
        Answer.ENTERED,
        Answer.WAITS,
    ]
    assert bulkheads.enter(4, "m", "b") is Answer.ENTERED
    assert bulkheads.enter(5, "m", "b") is Answer.WAITS  # the model is full
    assert bulkheads.enter(6, "m", "c") is Answer.REFUSED
    assert bulkheads.leave(4) == [5]
    assert bulkheads.leave(1) == [3]
    assert bulkheads.leave(1) == []


def test_without_limits_all_enter() -> None:
    bulkheads = Bulkheads(LiveLimits(queue=0))
    assert {bulkheads.enter(n, "m", "a") for n in range(1000)} == {Answer.ENTERED}


STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 12), st.sampled_from("mn"), st.sampled_from("ab")),
    max_size=80,
)


@given(STEPS, st.sampled_from([None, 1, 2]), st.sampled_from([None, 1, 3]), st.integers(0, 3))
def test_any_coming_and_going(
    steps: list[tuple[bool, int, str, str]], model: int | None, tenant: int | None, queue: int
) -> None:
    bulkheads = Bulkheads(LiveLimits(model, tenant, queue))
    live: dict[int, tuple[str, str]] = {}
    waiting: dict[int, tuple[str, str]] = {}
    for is_entering, ticket, name, whose in steps:
        if is_entering and ticket not in live and ticket not in waiting:
            match bulkheads.enter(ticket, name, whose):
                case Answer.ENTERED:
                    live[ticket] = (name, whose)
                case Answer.WAITS:
                    waiting[ticket] = (name, whose)
                case Answer.REFUSED:
                    assert len(waiting) == queue
        elif not is_entering:
            live.pop(ticket, None)
            waiting.pop(ticket, None)
            for entering in bulkheads.leave(ticket):
                live[entering] = waiting.pop(entering)
        assert bulkheads.waiting() == len(waiting) <= queue
        assert bulkheads.live() == len(live)
        for one in "ab":
            assert bulkheads.waiting(one) == sum(of == one for _, of in waiting.values())
            assert bulkheads.live(one) == sum(of == one for _, of in live.values())
        models = Counter(of for of, _ in live.values())
        tenants = Counter(of for _, of in live.values())
        assert all(model is None or count <= model for count in models.values())
        assert all(tenant is None or count <= tenant for count in tenants.values())
        for name, whose in waiting.values():  # whoever waits has no room
            is_full = model is not None and models[name] >= model
            assert is_full or (tenant is not None and tenants[whose] >= tenant)
