"""Eviction and placement against a twin that tries everything."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from math import fsum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.cheapest import MOST_VICTIMS, cheapest
from controller.core.choices import Choice, Move, Victim, price
from controller.core.events import ModelAdded
from controller.core.eviction import make_room
from controller.core.fits import Verdict
from controller.core.fleet import Fleet
from controller.core.idle import RUNGS
from controller.core.ledger import HOST, Amounts
from controller.core.names import Depth, DeviceId, Eviction, Instant, ModelName, ReplicaId
from controller.core.placement import fit_cold
from controller.core.reliefs import offer, share
from controller.core.rooms import Rooms
from controller.core.victims import Asker
from tests.core.fleets import good_answer, node, policy, spec

DEVICES = (DeviceId("0"), DeviceId("1"))
POLICIES = st.sampled_from(list(Eviction))
FEW = settings(max_examples=300, deadline=None, derandomize=True)


def choices(devices: tuple[DeviceId, ...], size: int, host: int) -> tuple[Choice, ...]:
    def relief(device: int, on_host: int) -> Amounts:
        return {**dict.fromkeys(devices, device), HOST: on_host}

    return (
        Choice(Depth.LEVEL_1, relief(size - 1, -host), 1.0),
        Choice(Depth.LEVEL_2, relief(size - 1, 0), 3.0),
        Choice(Depth.STOPPED, relief(size, 0), 10.0),
    )


@st.composite
def victims(draw: st.DrawFn, host: st.SearchStrategy[int]) -> list[Victim]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        devices = draw(st.sampled_from([DEVICES, DEVICES[:1], DEVICES[1:]]))
        rungs = choices(devices, draw(st.integers(1, 9)), draw(host))
        is_awake = draw(st.booleans())
        is_busy = is_awake and draw(st.booleans())
        found.append(
            Victim(
                ReplicaId(f"v{number}"),
                is_busy=is_busy,
                is_stuck=is_busy and draw(st.booleans()),
                is_awake=is_awake,
                is_wanted=draw(st.booleans()),
                idle_since=draw(st.integers(0, 3)),
                wants=draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
                choices=rungs[: draw(st.integers(0, 3))] if is_awake else rungs[1:],
            )
        )
    return found


def makes_room(lacking: Amounts, host_free: int, taken: list[Choice]) -> bool:
    moved_in = -sum(min(0, choice.relief[HOST]) for choice in taken)
    freed = {r: sum(c.relief.get(r, 0) for c in taken) for r in lacking}
    return moved_in <= host_free and all(freed[r] >= lacking[r] for r in lacking)


def every_way(found: list[Victim]) -> list[dict[ReplicaId, Choice]]:
    options = [(None, *victim.choices) for victim in found]
    return [
        {v.replica: c for v, c in zip(found, combo, strict=True) if c is not None}
        for combo in product(*options)
    ]


def chosen(found: list[Victim], moves: list[Move]) -> dict[ReplicaId, Choice]:
    rungs = {(v.replica, c.depth): c for v in found for c in v.choices}
    return {move.replica: rungs[move.replica, move.depth] for move in moves}


def paid(found: list[Victim], way: dict[ReplicaId, Choice]) -> list[float]:
    prices = [price(v, way[v.replica]) for v in found if v.replica in way]
    return [sum(column) for column in zip(*prices, strict=True)]


LACKING = st.fixed_dictionaries(
    {DEVICES[0]: st.integers(-3, 20), DEVICES[1]: st.integers(-3, 20), HOST: st.integers(-9, 0)}
)


@FEW
@given(victims(host=st.just(0)), LACKING, POLICIES)
def test_room_is_found_whenever_there_is_any(
    found: list[Victim], lacking: Amounts, by: Eviction
) -> None:
    moves = make_room(lacking, 0, found, by)
    ways = [way for way in every_way(found) if makes_room(lacking, 0, list(way.values()))]
    assert (moves is not None) == bool(ways)


@FEW
@given(victims(host=st.integers(0, 5)), LACKING, st.integers(0, 9), POLICIES)
def test_the_moves_make_the_room_and_none_is_idle(
    found: list[Victim], lacking: Amounts, host_free: int, by: Eviction
) -> None:
    """With a full host a way may be missed, but what is found is right and not too much."""
    moves = make_room(lacking, host_free, found, by)
    if moves is None:
        return
    taken = chosen(found, moves)
    assert makes_room(lacking, host_free, list(taken.values()))
    for victim in found:
        for milder in (None, *victim.choices):
            if milder is taken.get(victim.replica):
                break
            others = [c for name, c in taken.items() if name != victim.replica]
            fewer = [*others, milder] if milder else others
            assert not makes_room(lacking, host_free, fewer)


@FEW
@given(victims(host=st.integers(0, 5)), LACKING, st.integers(0, 9))
def test_cost_finds_the_cheapest_demotions_of_all(
    found: list[Victim], lacking: Amounts, host_free: int
) -> None:
    ways = [w for w in every_way(found) if makes_room(lacking, host_free, list(w.values()))]
    moves = make_room(lacking, host_free, found, Eviction.COST)
    assert (moves is None) == (not ways)
    if moves is not None:
        assert paid(found, chosen(found, moves)) == min(paid(found, way) for way in ways)


def idle(
    number: int,
    size: int,
    cost_s: int,
    wants: int = 1,
    depth: Depth = Depth.LEVEL_2,
    who: tuple[bool, bool, bool] = (False, False, False),
) -> Victim:
    """Unless ``who`` says that it is busy, stuck or wanted."""
    return Victim(
        ReplicaId(f"v{number:02}"),
        is_busy=who[0],
        is_stuck=who[1],
        is_awake=True,
        is_wanted=who[2],
        idle_since=0.0,
        wants=wants,
        choices=(Choice(depth, {DEVICES[0]: size, HOST: 0}, cost_s),),
    )


PRICED = st.tuples(
    st.integers(1, 9),
    st.sampled_from([0, 0, 1, 2, 9]),
    st.integers(0, 2),
    st.sampled_from(RUNGS),
    st.sampled_from([(False, False, False)] * 3 + [(True, True, False), (True, False, True)]),
)


@FEW
@given(st.lists(PRICED, min_size=3, max_size=7), st.integers(4, 25))
def test_of_any_sizes_at_any_prices_the_cheapest_are_found(
    rows: list[tuple[int, int, int, Depth, tuple[bool, bool, bool]]], lacking: int
) -> None:
    """Also where whoever frees most is left out, or whoever costs least for it."""
    found = [idle(number, *row) for number, row in enumerate(rows)]
    need: Amounts = {DEVICES[0]: lacking}
    ways = [way for way in every_way(found) if makes_room(need, 0, list(way.values()))]
    moves = make_room(need, 0, found, Eviction.COST)
    assert (moves is None) == (not ways)
    if moves is not None:
        assert paid(found, chosen(found, moves)) == min(paid(found, way) for way in ways)


def test_what_is_known_stays_unless_something_is_cheaper() -> None:
    alike = [idle(number, 4, 2) for number in range(4)]
    known = [(victim, victim.choices[0]) for victim in alike[1:3]]
    assert cheapest({DEVICES[0]: 8}, 0, alike, known) == known
    better = [*alike, idle(9, 8, 3)]
    found = cheapest({DEVICES[0]: 8}, 0, better, known)
    assert found == [(better[-1], better[-1].choices[0])]


def test_what_goes_back_to_the_host_lets_another_be_milder() -> None:
    """The first is not needed once the second has gone as deep as a full host made it."""
    small, large = (
        replace(one, idle_since=number, choices=choices(DEVICES[:1], size, 5)[:2])
        for number, (one, size) in enumerate(((idle(0, 4, 1), 5), (idle(1, 9, 1), 10)))
    )
    moves = make_room({DEVICES[0]: 8}, 5, [small, large], Eviction.LRU)
    assert moves is not None
    assert [(move.replica, move.depth) for move in moves] == [("v01", Depth.LEVEL_1)]


def test_a_search_of_nearly_all_that_may_be_tried_is_carried_to_its_end() -> None:
    """367 branches, and the cheapest way is among the last of them."""
    sizes, costs = (6, 7, 7, 3, 9, 9, 3, 6, 9, 6, 9), (9, 6, 3, 4, 9, 7, 3, 9, 5, 4, 4)
    found = [idle(number, *row) for number, row in enumerate(zip(sizes, costs, strict=True))]
    steps = cheapest({DEVICES[0]: 32}, 0, found, None)
    assert steps is not None
    assert sum(choice.cost_s for _, choice in steps) == 18


@pytest.mark.parametrize("by", [Eviction.COST, Eviction.LFU, Eviction.LRU])
def test_of_a_crowd_that_is_too_large_to_try_all_the_right_one_goes(by: Eviction) -> None:
    """The later ones, less often wanted and less dear, have been used more lately."""
    crowd = [
        replace(idle(number, 5, 60 - number, 50 - number), idle_since=number)
        for number in range(2 * MOST_VICTIMS)
    ]
    moves = make_room({DEVICES[0]: 5}, 0, crowd, by)
    assert moves is not None
    expected = crowd[0] if by is Eviction.LRU else crowd[-1]
    assert [move.replica for move in moves] == [expected.replica]
    among_the_dear = make_room({DEVICES[0]: 5}, 0, [*crowd, nobody_else(crowd[-1])], by)
    assert among_the_dear == moves, "whoever is waited for is left"


def nobody_else(victim: Victim) -> Victim:
    """But that somebody waits for it."""
    return replace(victim, replica=ReplicaId("w"), is_wanted=True, wants=0.0, idle_since=-1.0)


@FEW
@given(victims(host=st.just(0)), LACKING, POLICIES)
def test_nobody_busy_goes_where_the_idle_suffice(
    found: list[Victim], lacking: Amounts, by: Eviction
) -> None:
    moves = make_room(lacking, 0, found, by)
    idle = [victim for victim in found if not victim.is_busy]
    ways = [way for way in every_way(idle) if makes_room(lacking, 0, list(way.values()))]
    if moves is not None and ways:
        assert not any(move.is_busy for move in moves)


@FEW
@given(
    st.lists(st.integers(4, 12), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 2)), max_size=4),
    st.integers(1, 10),
    st.integers(1, 3),
)
def test_a_free_place_is_found_whenever_there_is_one(
    budgets: list[int], others: list[tuple[int, int]], size: int, count: int
) -> None:
    fleet = Fleet(policy())
    fleet.handle(node(0.0, "n", len(budgets), max(budgets)))
    joined = {DeviceId(str(number)): budget for number, budget in enumerate(budgets)}
    fleet.ledger.budgets[next(iter(fleet.ledger.budgets))] = {**joined, HOST: 100}
    for number, (awake, devices) in enumerate(others):
        neighbour = spec(f"x{number}", awake, devices_per_replica=devices)
        fleet.handle(ModelAdded(Instant(0.0), neighbour))
        fleet.books.wish(fleet.books.models[neighbour.name])
    fleet.handle(ModelAdded(Instant(1.0), spec("m", size, devices_per_replica=count)))
    rooms = Rooms(fleet.books)
    fit = fit_cold(rooms, Asker(ModelName("m")), fleet.models[ModelName("m")])
    spare = [rooms.nodes()[0].spare[device] for device in joined]
    ways = [way for way in combinations(spare, count) if all(free >= size for free in way)]
    assert (fit is not None and fit.verdict is Verdict.READY) == bool(ways)
    if ways:
        assert fit is not None
        left = min(rooms.nodes()[0].spare[device] for device in fit.place.devices)
        assert left == max(min(way) for way in ways), "not the emptiest"


@FEW
@given(
    st.integers(1, 12),
    st.integers(1, 2),
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 2), st.booleans()), max_size=5),
)
def test_a_start_is_blocked_only_if_evicting_everybody_would_not_help(
    size: int, count: int, others: list[tuple[int, int, bool]]
) -> None:
    fleet = Fleet(policy(prefetch_start=True, prefetch_at_once=9))
    for number, (awake, devices, pinned) in enumerate(others):
        more = {"devices_per_replica": devices, "pinned": pinned}
        fleet.handle(ModelAdded(Instant(0.0), spec(f"x{number}", awake, **more)))
    fleet.handle(node(0.0, "n", 3, 12))
    for _ in range(20):
        for replica in list(fleet.books.moving.values()):
            fleet.handle(good_answer(fleet, replica.id, Instant(1.0)))
    fleet.books.policy = policy()
    fleet.handle(ModelAdded(Instant(2.0), spec("m", size, devices_per_replica=count)))
    fit = fit_cold(Rooms(fleet.books), Asker(ModelName("m")), fleet.models[ModelName("m")])
    stuck = dict.fromkeys(map(DeviceId, "012"), 0)
    for replica in fleet.replicas.values():
        if replica.place is not None and fleet.models[replica.model].spec.pinned:
            for device in replica.place.devices:
                stuck[device] += replica.held.device_bytes
    wide = [device for device, amount in stuck.items() if 12 - amount >= size]
    assert (fit is not None and fit.verdict is not Verdict.BLOCKED) == (len(wide) >= count)


@FEW
@given(victims(host=st.just(0)), st.integers(-2, 20), st.sampled_from(Eviction))
def test_no_moves_are_fewer_or_cheaper_than_an_offer_promises(
    found: list[Victim], lacking: int, by: Eviction
) -> None:
    device = DEVICES[0]
    idle = [v for v in found if not v.is_busy and all(device in c.relief for c in v.choices)]
    shares = [
        share(v.choices, True, device, lambda choice, v=v: choice.regret(v.wants, by)) for v in idle
    ]
    promised = offer(shares)
    sleeping = [
        replace(v, choices=tuple(c for c in v.choices if c.depth is not Depth.STOPPED))
        for v in idle
    ]
    ways = [w for w in every_way(sleeping) if makes_room({device: lacking}, 0, list(w.values()))]
    fewest = promised.fewest(lacking)
    assert (fewest is None) == (not ways)
    if fewest is not None:
        assert fewest == min(len(way) for way in ways)
        wants = {victim.replica: victim.wants for victim in idle}
        costs = [fsum(c.regret(wants[name], by) for name, c in way.items()) for way in ways]
        assert promised.least_cost_s(lacking, fewest) <= min(costs)
