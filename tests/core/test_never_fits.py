"""What fits no node, however empty, is refused at once; what fits to the byte is not."""

from __future__ import annotations

import pytest

from controller.core.commands import RejectRequest, StartEngine
from controller.core.events import NodeJoined
from controller.core.fleet import Fleet
from controller.core.names import (
    Depth,
    DeviceId,
    Footprint,
    Instant,
    ModelName,
    ModelSpec,
    NodeId,
    RejectReason,
)
from controller.core.placement import is_possible, why_never
from controller.core.rooms import Rooms
from controller.core.victims import Asker
from tests.core.fleets import Story, node, policy, sizes, spec


def wanting(device: int, host: int, devices: int = 1) -> ModelSpec:
    footprints = {**sizes(device), Depth.AWAKE: Footprint(device, host)}
    return spec("a", footprints=footprints, devices_per_replica=devices)


def test_all_of_the_device_and_all_of_the_host_is_enough() -> None:
    story = Story(wanting(24, 100), device=24, host=100)
    (start,) = story.arrives("r", "a")
    assert isinstance(start, StartEngine)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (wanting(25, 0), "needs 25 bytes, budget 24 bytes"),
        (wanting(24, 101), "needs 101 bytes of host memory, budget 100 bytes"),
        (
            wanting(1, 0, devices=2),
            "needs 1 bytes on each of 2 devices of one node, budget 0 bytes",
        ),
    ],
)
def test_a_byte_more_never_fits(model: ModelSpec, said: str) -> None:
    story = Story(model, device=24, host=100)
    (refused,) = story.arrives("r", "a")
    assert isinstance(refused, RejectRequest)
    assert refused.reason is RejectReason.NEVER_FITS
    assert said in refused.detail


def test_one_node_with_room_for_it_is_enough() -> None:
    """Whichever node comes first: the first has too little for it on its host."""
    fleet = Fleet(policy(), [wanting(10, 5)])
    fleet.handle(node(0.0, "n", host=4))
    rooms, record = Rooms(fleet.books), fleet.models[ModelName("a")]
    asker, replica = Asker(record.spec.name), record.replicas[0]
    assert not is_possible(rooms, asker, record, replica)
    fleet.handle(node(0.0, "m", host=5))
    assert is_possible(Rooms(fleet.books), asker, record, replica)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (wanting(11, 0, devices=2), "needs 11 bytes on each of 2 devices of one node, budget 10"),
        (wanting(10, 8, devices=2), "needs 8 bytes of host memory, budget 7 bytes"),
        (wanting(10, 7, devices=2), None),
        (wanting(21, 0), "needs 21 bytes, budget 20 bytes"),
        (wanting(20, 6), "needs 6 bytes of host memory, budget 5 bytes"),
        (wanting(20, 5), None),
    ],
)
def test_the_node_is_named_that_comes_nearest(model: ModelSpec, said: str | None) -> None:
    """One with a large device beside a small one, and two of two that are alike."""
    fleet = Fleet(policy(), [model])
    devices = ((DeviceId("0"), 9), (DeviceId("1"), 20))
    fleet.handle(NodeJoined(Instant(0.0), NodeId("k"), devices, 5))
    for name, host in (("m", 6), ("n", 7)):
        fleet.handle(node(0.0, name, devices=2, device=10, host=host))
    why = why_never(Rooms(fleet.books), fleet.models[ModelName("a")])
    assert (why is None) if said is None else said in (why or "")


def test_who_asks_while_one_of_two_starts_is_let_in_though_the_budget_became_too_small() -> None:
    story = Story(spec("a", 20, replicas=2))
    story.arrives("r", "a")
    assert story.feed(node(1.0, device=15)) == []
    assert story.arrives("s", "a") == []
    assert story.fleet.waiting() == 2


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (100 << 20, "100.0 MiB"),
        (100 << 30, "100.0 GiB"),
        (512 << 20, "0.5 GiB"),
        (1 << 20, "1.0 MiB"),
        (1000, "1000 bytes"),
    ],
)
def test_sizes_are_told_in_the_unit_that_suits_them(size: int, said: str) -> None:
    [refusal] = Story(spec("a", size), device=1).arrives("r", "a")
    assert isinstance(refusal, RejectRequest)
    assert refusal.detail == f"needs {said}, budget 1 bytes"
