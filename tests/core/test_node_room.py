"""Room on one node, asked for directly: what is promised without a search, and what is found."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from controller.core.events import DemotionOrdered
from controller.core.fits import BLOCKED, Rank, Verdict
from controller.core.ledger import HOST, Amounts
from controller.core.lifecycle import Goal, Phase, Place
from controller.core.names import (
    Cause,
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    ModelSpec,
    NodeId,
    OperationId,
    ReplicaId,
)
from controller.core.node_room import NodeRoom
from controller.core.rooms import Rooms
from controller.core.victims import Asker
from tests.core.fleets import Story, node, sizes, spec

N, DEVICE = NodeId("n"), DeviceId("0")
A, B, C = ReplicaId("a#0"), ReplicaId("b#0"), ReplicaId("c#0")
PLACE = Place(N, (DEVICE,))
ANYHOW, NO_STOP, NO_DRAIN = (
    Asker(ModelName("x")),
    Asker(ModelName("x"), can_stop=False),
    Asker(ModelName("x"), can_drain=False),
)


def room(story: Story) -> NodeRoom:
    return Rooms(story.fleet.books).at(N)


def drained_for_another(story: Story, name: ReplicaId, depth: Depth = Depth.LEVEL_1) -> None:
    story.fleet.books.drain(story.fleet.books.replicas[name], Goal(depth, Cause.EVICTED, "x"))


def one_drains_one_sleeps() -> NodeRoom:
    """On 24: ``a`` has 10 and will give 9, ``b`` has 1 that only its end will give, 13 are free."""
    story = Story(spec("a", 10), spec("b", 10))
    for model in "ba":
        story.raises(f"r-{model}", model)
        if model == "b":
            story.releases("r-b")
            demotion = DemotionOrdered(
                story.time, OperationId("o"), ModelName(model), Depth.LEVEL_2
            )
            story.feed(demotion)
            story.answers(B)
    assert story.fleet.replicas[B].phase is Phase.ASLEEP
    drained_for_another(story, A)
    return room(story)


@pytest.mark.parametrize(
    ("asker", "need", "promised", "found"),
    [
        (ANYHOW, 13, (Verdict.EVICTS_IDLE, 0, 0.0, 0), Verdict.DRAINS),
        (ANYHOW, 22, (Verdict.FREEZES, 0, -inf, 0), Verdict.DRAINS),
        (ANYHOW, 23, (Verdict.STOPS, 0, -inf, 0), Verdict.STOPS),
        (ANYHOW, 24, BLOCKED, Verdict.BLOCKED),
        (NO_STOP, 22, (Verdict.FREEZES, 0, -inf, 0), Verdict.DRAINS),
        (NO_STOP, 23, BLOCKED, Verdict.BLOCKED),
        (NO_DRAIN, 14, (Verdict.STOPS, 0, -inf, 0), Verdict.STOPS),
        (NO_DRAIN, 24, BLOCKED, Verdict.BLOCKED),
        (replace(ANYHOW, can_evict=False), 14, BLOCKED, Verdict.BLOCKED),
    ],
)
def test_what_is_promised_counts_drains_and_what_only_an_end_frees(
    asker: Asker, need: int, promised: Rank, found: Verdict
) -> None:
    here = one_drains_one_sleeps()
    assert here.least_rank(asker, PLACE.devices, {DEVICE: need, HOST: 0}) == promised
    fit = here.fit_evicting(asker, PLACE, {DEVICE: need, HOST: 0})
    assert fit.verdict is found
    assert fit.rank >= promised


def test_a_host_that_is_full_hides_nothing_of_what_devices_promise() -> None:
    story = Story(spec("a", 10), host=0)
    story.raises("r", "a")
    assert room(story).least_rank(ANYHOW, PLACE.devices, {DEVICE: 25, HOST: 0}) == BLOCKED
    dear = room(story).least_rank(ANYHOW, PLACE.devices, {DEVICE: 25, HOST: 1})
    assert dear == (Verdict.EVICTS_IDLE, 0, -inf, 0), "what the host lacks is not looked into"


def on_two_devices() -> Story:
    """Of twelve each: ``a`` is idle on one, ``b`` busy on the other."""
    story = Story(spec("a", 10), spec("b", 10), device=12)
    story.feed(node(0.0, devices=2, device=12))
    for model in "ab":
        story.raises(f"r-{model}", model)
    story.releases("r-a")
    return story


def test_of_several_devices_the_worst_promise_counts_and_the_fullest() -> None:
    story = on_two_devices()
    [idle], [busy] = (one.place.devices for one in story.fleet.replicas.values() if one.place)
    here = room(story)

    def promised(**need: int) -> Rank:
        amounts = {idle: need["idle"], busy: need["busy"], HOST: 0}
        return here.least_rank(ANYHOW, (idle, busy), amounts)

    assert promised(idle=2, busy=2) == (Verdict.EVICTS_IDLE, 0, 0.0, 0)
    assert promised(idle=5, busy=2)[0] is Verdict.EVICTS_IDLE
    assert promised(idle=5, busy=2)[3] == 1
    assert promised(idle=5, busy=5)[0] is Verdict.FREEZES
    assert promised(idle=12, busy=5)[0] is Verdict.STOPS
    assert promised(idle=13, busy=2) == BLOCKED
    here.spare[idle] = 1
    assert here.emptiness((idle, busy)) == 1
    assert here.emptiness((busy, DeviceId("9"))) == 0


def test_a_drain_on_one_device_promises_nothing_of_another() -> None:
    story = on_two_devices()
    a, b = (story.fleet.replicas[name] for name in (A, B))
    assert a.place is not None
    drained_for_another(story, B)
    need = {a.place.devices[0]: 12, HOST: 0}
    here = room(story)
    assert here.least_rank(ANYHOW, a.place.devices, need)[0] is Verdict.STOPS
    need[a.place.devices[0]] = 13
    assert here.least_rank(ANYHOW, a.place.devices, need) == BLOCKED
    assert list(here.drains) == [b.id]


@pytest.mark.parametrize(
    ("need", "verdict"),
    [
        ({DEVICE: 14, HOST: 0}, Verdict.READY),
        ({DEVICE: 15, HOST: 0}, Verdict.COMING),
        ({DEVICE: 23, HOST: 0}, Verdict.COMING),
        ({DEVICE: 24, HOST: 0}, Verdict.BLOCKED),
        ({DEVICE: 14, HOST: 1}, Verdict.BLOCKED),
        ({DeviceId("9"): 1}, Verdict.BLOCKED),
        ({DeviceId("9"): 0}, Verdict.READY),
    ],
)
def test_what_is_free_or_coming_free_to_the_byte(need: Amounts, verdict: Verdict) -> None:
    """``a`` of ten falls asleep on 24; the host is full, or more than that."""
    for host in (10, 9):
        story = Story(spec("a", 10), host=10)
        story.raises("r", "a")
        story.releases("r")
        story.feed(DemotionOrdered(story.time, OperationId("o"), ModelName("a"), Depth.LEVEL_1))
        story.fleet.ledger.measure(N, {HOST: host})
        here = room(story)
        assert here.verdict_free(PLACE.devices, need) is verdict
        assert here.is_overrun() is (host == 9)
        here.close((DEVICE,), 0)
        assert here.verdict_free(PLACE.devices, need) is Verdict.BLOCKED


def test_where_the_host_does_not_suffice_the_whole_node_is_closed() -> None:
    for spare, host_bytes, is_whole in ((5, 5, False), (5, 6, True), (-5, 0, False), (0, 1, True)):
        story = on_two_devices()
        here = room(story)
        here.spare[HOST] = spare
        here.close((DEVICE,), host_bytes)
        assert here.is_closed() is is_whole
        assert here.verdict_free((DEVICE,), {}) is Verdict.BLOCKED


def test_what_is_claimed_is_nobody_elses() -> None:
    here = one_drains_one_sleeps()
    fit = here.fit_evicting(ANYHOW, PLACE, {DEVICE: 22, HOST: 0})
    here.claim(fit)
    assert (here.spare[DEVICE], here.drains) == (0, {})


def test_what_a_drain_and_an_end_make_together() -> None:
    fit = one_drains_one_sleeps().fit_evicting(ANYHOW, PLACE, {DEVICE: 23, HOST: 0})
    assert fit.drains == (A,)
    assert [(move.replica, move.depth) for move in fit.moves] == [(B, Depth.STOPPED)]


@pytest.mark.parametrize("asker", [NO_STOP, NO_DRAIN])
def test_whoever_may_not_have_sleepers_stopped_has_the_idle_sleep(asker: Asker) -> None:
    story = Story(spec("a", 10))
    story.raises("r", "a")
    story.releases("r")
    fit = room(story).fit_evicting(asker, PLACE, {DEVICE: 20, HOST: 0})
    assert fit.verdict is Verdict.EVICTS_IDLE
    assert [(move.replica, move.depth) for move in fit.moves] == [(A, Depth.LEVEL_1)]


def barely_smaller(name: str) -> ModelSpec:
    """Asleep it holds one byte less."""
    lower = {Depth.LEVEL_1: Footprint(9, 0), Depth.LEVEL_2: Footprint(9, 0)}
    return spec(name, footprints={**sizes(10), **lower})


def test_of_two_drains_the_first_is_waited_for_and_a_byte_is_enough() -> None:
    story = Story(barely_smaller("a"), barely_smaller("b"))
    for model in "ab":
        story.raises(f"r-{model}", model)
    for name in (A, B):
        drained_for_another(story, name)
    for lacking, drains in ((1, (A,)), (2, (A, B))):
        fit = room(story).fit_evicting(ANYHOW, PLACE, {DEVICE: 4 + lacking, HOST: 0})
        assert (fit.verdict, fit.drains) == (Verdict.DRAINS, drains)


@pytest.mark.parametrize(("host", "depth"), [(5, Depth.LEVEL_2), (6, Depth.LEVEL_1)])
@pytest.mark.parametrize("is_busy", [False, True])
def test_nobodys_weights_go_to_a_host_that_has_not_a_byte_free_at_this_moment(
    host: int, depth: Depth, is_busy: bool
) -> None:
    """``c`` has five there, and they are coming free. Idle ``a`` is put to sleep, busy frozen."""
    models = (spec("a", footprints=sizes(10, host=1)), spec("c", 5), spec("x"))
    story = Story(*models, host=host)
    story.raises("r-c", "c")
    story.releases("r-c")
    for name, to in (("o1", Depth.LEVEL_1), ("o2", Depth.STOPPED)):
        if story.fleet.replicas[C].phase is Phase.FALLING_ASLEEP:
            story.answers(C)
        story.feed(DemotionOrdered(story.time, OperationId(name), ModelName("c"), to))
    story.raises("r", "a")
    if not is_busy:
        story.releases("r")
    assert story.fleet.replicas[C].phase is Phase.STOPPING
    story.fleet.books.now = Instant(story.at + 100.0)
    asker = Asker(ModelName("x"), since=story.time)
    fit = room(story).fit_evicting(asker, PLACE, {DEVICE: 20, HOST: 0})
    assert fit.verdict is (Verdict.FREEZES if is_busy else Verdict.EVICTS_IDLE)
    assert [(move.replica, move.depth) for move in fit.moves] == [(A, depth)]


def test_where_the_host_lacks_too_a_sleeper_of_any_device_goes_deeper_beside_a_freeze() -> None:
    """``b`` has ten of twelve on the host; ``x`` needs three there, and the device of ``a``."""
    story = Story(spec("b", 10), spec("a", 10), spec("x"), device=12, host=12)
    story.feed(node(0.0, devices=2, device=12, host=12))
    for model in "ba":
        story.raises(f"r-{model}", model)
    story.releases("r-b")
    story.feed(DemotionOrdered(story.time, OperationId("o"), ModelName("b"), Depth.LEVEL_1))
    story.answers(B)
    a, b = (story.fleet.replicas[name].place for name in (A, B))
    assert a is not None
    assert b is not None
    assert a.devices != b.devices
    story.fleet.books.now = Instant(story.at + 100.0)
    asker = Asker(ModelName("x"), since=story.time)
    fit = room(story).fit_evicting(asker, a, {a.devices[0]: 11, HOST: 3})
    assert fit.verdict is Verdict.FREEZES
    assert {(move.replica, move.depth) for move in fit.moves} == {
        (A, Depth.LEVEL_2),
        (B, Depth.LEVEL_2),
    }
