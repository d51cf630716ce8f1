"""Conversations: residency tells the truth, order is kept, nothing is lost, whatever races.

The rule machine plays the world: where KV really lies, what acts really do to it, engines that
sleep, tiers and controllers that die at any moment.
"""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.core.conversations import (
    Act,
    Begin,
    Conversation,
    ConversationLimits,
    Finish,
    Job,
    Lifetimes,
    Outcome,
    Residency,
    Step,
    due,
)
from controller.core.names import Instant

ACTS = st.sampled_from(Act)
LUCK = st.booleans()


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.one = Conversation()
        self.recorded = Residency.NOT_CREATED
        """As the store has it, which outlives the controller."""
        self.tickets = 0
        self.asked: list[Job] = []
        """Not begun, not finished, not withdrawn; in the order they were asked."""
        self.joined: dict[int, int] = {}
        self.answered: set[int] = set()
        self.in_memory = self.is_durable = self.has_tokens = False

    def follow(self, steps: list[Step]) -> None:
        for step in steps:
            assert self.asked.pop(0) == step.job, "out of order"
            if isinstance(step, Finish):
                self.answer(step.job)
        assert sum(isinstance(step, Begin) for step in steps) <= 1
        self.recorded = self.one.residency

    def answer(self, job: Job) -> None:
        assert job.ticket not in self.answered
        self.answered.add(job.ticket)

    @rule(act=ACTS)
    def ask(self, act: Act) -> None:
        self.tickets += 1
        job = Job(self.tickets, act)
        done_by, steps = self.one.ask(job)
        if done_by is job:
            self.asked.append(job)
        else:
            assert done_by.act is act is not Act.TURN
            self.joined[job.ticket] = done_by.ticket
        self.follow(steps)

    @precondition(lambda self: self.asked)
    @rule(draw=st.data())
    def withdraw(self, draw: st.DataObject) -> None:
        job = draw.draw(st.sampled_from(self.asked))
        assert self.one.withdraw(job.ticket)
        self.asked.remove(job)
        self.answer(job)

    @precondition(lambda self: self.one.doing is not None)
    @rule()
    def what_has_begun_cannot_be_withdrawn(self) -> None:
        assert self.one.doing is not None
        assert not self.one.withdraw(self.one.doing.ticket)

    @rule(outcome=st.sampled_from(Outcome))
    def a_late_answer(self, outcome: Outcome) -> None:
        before = (self.one.residency, self.one.doing)
        assert self.one.ended(-1, outcome) == []
        assert before == (self.one.residency, self.one.doing)

    @precondition(lambda self: self.one.doing is not None)
    @rule(outcome=st.sampled_from(Outcome), frees=LUCK, loads=LUCK, writes=LUCK)
    def end(self, outcome: Outcome, frees: bool, loads: bool, writes: bool) -> None:
        job = self.one.doing
        assert job is not None
        if outcome is Outcome.DONE:
            self.carry_out(job.act)
        elif outcome is Outcome.UNSURE:
            self.half_done(frees, loads, writes)
        self.answer(job)
        self.follow(self.one.ended(job.ticket, outcome))

    def carry_out(self, act: Act) -> None:
        match act:
            case Act.TURN:
                self.in_memory, self.is_durable, self.has_tokens = True, False, True
            case Act.HIBERNATE:
                self.in_memory, self.is_durable = False, True
            case Act.REHYDRATE:
                self.in_memory = True
            case Act.RESET | Act.DELETE:
                self.in_memory = self.is_durable = self.has_tokens = False

    def half_done(self, frees: bool, loads: bool, writes: bool) -> None:
        if self.has_tokens:
            self.in_memory = (self.in_memory or loads) and not frees
            self.is_durable = (self.is_durable or writes) and not frees

    @rule()
    def the_host_tier_dies(self) -> None:
        self.in_memory = False

    @rule(frees=LUCK, loads=LUCK, writes=LUCK)
    def the_controller_dies(self, frees: bool, loads: bool, writes: bool) -> None:
        """Whatever it was doing is half done, and those who waited are told by their connection."""
        if self.one.doing is not None:
            self.half_done(frees, loads, writes)
        self.one = Conversation(self.recorded)
        self.asked = []
        self.answered |= set(range(1, self.tickets + 1))

    @invariant()
    def residency_tells_the_truth(self) -> None:
        if self.one.doing is not None:
            return
        if self.one.residency is Residency.HIBERNATED:
            assert self.is_durable
            assert not self.in_memory
        if self.one.residency is Residency.NOT_CREATED:
            assert not self.has_tokens

    @invariant()
    def nothing_waits_for_nothing(self) -> None:
        assert self.one.doing is not None or not self.one.waiting

    @invariant()
    def nobody_is_lost(self) -> None:
        open_ones = {job.ticket for job in self.one.waiting}
        if self.one.doing is not None:
            open_ones.add(self.one.doing.ticket)
        for ticket in range(1, self.tickets + 1):
            doer = self.joined.get(ticket, ticket)
            assert (doer in open_ones) != (doer in self.answered or ticket in self.answered)

    @invariant()
    def the_line_is_the_order_of_asking(self) -> None:
        assert list(self.one.waiting) == self.asked


TestLife = Life.TestCase


def line(one: Conversation, *acts: Act) -> list[Step]:
    steps: list[Step] = []
    for ticket, act in enumerate(acts, 1):
        steps += one.ask(Job(ticket, act))[1]
    return steps


def test_a_hibernation_waits_for_the_inference_and_the_next_turn_for_it() -> None:
    one = Conversation()
    assert line(one, Act.TURN, Act.HIBERNATE, Act.TURN) == [Begin(Job(1, Act.TURN))]
    assert one.ended(1, Outcome.DONE) == [Begin(Job(2, Act.HIBERNATE))]
    assert one.state == "hibernating"
    assert one.ended(2, Outcome.DONE) == [Begin(Job(3, Act.TURN))]
    assert one.residency is Residency.IN_MEMORY


def test_hibernations_join() -> None:
    one = Conversation(Residency.IN_MEMORY)
    first, _ = one.ask(Job(1, Act.HIBERNATE))
    second, steps = one.ask(Job(2, Act.HIBERNATE))
    assert (second, steps) == (first, [])


def test_a_hibernation_does_not_join_one_from_before_the_last_turn() -> None:
    one = Conversation(Residency.IN_MEMORY)
    line(one, Act.HIBERNATE, Act.TURN)
    third, _ = one.ask(Job(3, Act.HIBERNATE))
    assert third.ticket == 3


@pytest.mark.parametrize("act", [Act.HIBERNATE, Act.REHYDRATE, Act.RESET])
def test_with_nothing_on_record_there_is_nothing_to_do(act: Act) -> None:
    one = Conversation()
    assert one.ask(Job(1, act))[1] == [Finish(Job(1, act))]
    assert one.doing is None


def test_a_turn_after_a_deletion_begins_anew() -> None:
    one = Conversation(Residency.HIBERNATED)
    line(one, Act.DELETE, Act.TURN)
    assert one.ended(1, Outcome.DONE) == [Begin(Job(2, Act.TURN))]
    assert one.residency is Residency.NOT_CREATED
    assert not one.is_over


def test_what_is_deleted_is_over_until_somebody_asks_again() -> None:
    one = Conversation(Residency.HIBERNATED)
    line(one, Act.DELETE)
    assert not one.is_over
    one.ended(1, Outcome.DONE)
    assert one.is_over is True
    one.ask(Job(2, Act.TURN))
    one.ended(2, Outcome.DONE)
    assert not one.is_over


def test_a_deletion_that_failed_leaves_the_conversation() -> None:
    one = Conversation(Residency.HIBERNATED)
    line(one, Act.DELETE)
    one.ended(1, Outcome.UNSURE)
    assert not one.is_over
    assert one.residency is Residency.IN_MEMORY


def test_an_act_that_reached_nothing_leaves_what_was_known() -> None:
    one = Conversation(Residency.HIBERNATED)
    line(one, Act.TURN)
    assert one.residency is Residency.IN_MEMORY
    one.ended(1, Outcome.UNTOUCHED)
    assert one.residency is Residency.HIBERNATED


@pytest.mark.parametrize(
    ("residency", "idle_s", "act"),
    [
        (Residency.IN_MEMORY, 9, None),
        (Residency.IN_MEMORY, 10, Act.HIBERNATE),
        (Residency.HIBERNATED, 10, None),
        (Residency.NOT_CREATED, 10, None),
        (Residency.HIBERNATED, 100, Act.DELETE),
        (Residency.IN_MEMORY, 100, Act.DELETE),
    ],
)
def test_the_reaper(residency: Residency, idle_s: float, act: Act | None) -> None:
    lifetimes = Lifetimes(hibernate_after_s=10, expire_after_s=100)
    at = Instant(1000.0)
    assert due(Conversation(residency), Instant(at - idle_s), at, lifetimes) is act


def test_the_reaper_leaves_alone_what_is_in_use_or_kept_for_ever() -> None:
    lifetimes = Lifetimes(inf, 0.0)
    busy = Conversation()
    line(busy, Act.TURN)
    assert due(busy, Instant(0.0), Instant(9.0), lifetimes) is None
    assert due(Conversation(), Instant(0.0), Instant(9.0), Lifetimes()) is None


def test_lifetimes_are_a_tenants_own_or_the_usual_ones() -> None:
    own = Lifetimes(hibernate_after_s=50, expire_after_s=7)
    limits = ConversationLimits(Lifetimes(20, 30), tenants={"x": own, "y": Lifetimes(9, 40)})
    assert limits.of_tenant("x") is own
    assert limits.of_tenant("z") is limits.lifetimes
    assert limits.shortest_s == 7
    assert ConversationLimits(Lifetimes(inf, 30)).shortest_s == 30


def test_what_can_be_seen_of_one() -> None:
    one = Conversation(Residency.HIBERNATED)
    line(one, Act.TURN, Act.TURN, Act.DELETE, Act.TURN)
    assert (one.turns_waiting, one.was_hibernated) == (2, True)
    one.ended(1, Outcome.DONE)
    assert (one.turns_waiting, one.was_hibernated) == (1, False)


@pytest.mark.parametrize(
    ("act", "state"),
    [
        (Act.HIBERNATE, "hibernating"),
        (Act.REHYDRATE, "rehydrating"),
        (Act.TURN, Residency.HIBERNATED.value),
    ],
)
def test_its_state_is_what_is_being_done_about_it_or_else_its_residency(
    act: Act, state: str
) -> None:
    assert Conversation(Residency.HIBERNATED, doing=Job(1, act)).state == state
    assert Conversation(Residency.HIBERNATED).state == Residency.HIBERNATED.value
