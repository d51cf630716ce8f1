"""Engines of several devices, in placement groups of a real Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from tests.workers.stand import DECLARED, QUICK, Stand, ask, eventually, places_in_ray
from workers.engine import EngineGone, Rest, StartFailed
from workers.ray_groups import SHARE, bundles

pytestmark = pytest.mark.ray


@pytest.fixture
def taken(on_ray: Stand) -> Iterator[str]:
    """A device that somebody else has, all of it."""
    group = placement_group([{DECLARED[1]: 1}], name="somebody-elses")
    assert group.wait(60)
    yield DECLARED[1]
    remove_placement_group(group)


async def test_it_has_a_place_on_the_devices_that_were_chosen_until_it_is_stopped(
    on_ray: Stand,
) -> None:
    chosen = (DECLARED[0], DECLARED[3])
    started = await on_ray.start(devices=chosen, children=2)
    assert places_in_ray() == {"engine:m#0:1": chosen}
    node = on_ray.pool._nodes.get(on_ray.node).id
    rows = ray.util.placement_group_table().values()
    [row] = [row for row in rows if row["name"] == "engine:m#0:1"]
    assert set(row["bundles_to_node_id"].values()) == {node}
    assert row["strategy"] == "STRICT_PACK"
    await on_ray.pool.sleep("m#0", Rest.LEVEL_1)
    await on_ray.pool.wake("m#0")
    assert await ask(started.endpoint)
    await on_ray.pool.stop("m#0", 1)
    assert places_in_ray() == {}


async def test_a_sleeper_blocks_nobody(on_ray: Stand) -> None:
    pair = DECLARED[:2]
    await on_ray.start("one#0", 1, pair)
    await on_ray.pool.sleep("one#0", Rest.LEVEL_1)
    await on_ray.start("other#0", 2, pair)
    assert places_in_ray() == {"engine:one#0:1": pair, "engine:other#0:2": pair}


async def test_without_a_place_the_start_fails_and_leaves_nothing(
    on_ray: Stand, taken: str
) -> None:
    on_ray.pool._limits = replace(QUICK, place_s=0.2)
    with pytest.raises(StartFailed, match="no place for 2 ranks"):
        await on_ray.start(devices=(DECLARED[0], taken))
    await on_ray.pool.stop("m#0", 1)
    assert places_in_ray() == {}
    on_ray.pool._limits = QUICK
    assert await on_ray.start(incarnation=2, devices=DECLARED[2:])


async def test_a_stop_calls_the_wait_for_a_place_off(on_ray: Stand, taken: str) -> None:
    on_ray.pool._limits = replace(QUICK, place_s=600)
    starting = asyncio.create_task(on_ray.start(devices=(DECLARED[0], taken)))
    await eventually(places_in_ray)
    await on_ray.pool.stop("m#0", 1)
    with pytest.raises(EngineGone):
        await starting
    assert places_in_ray() == {}


async def test_the_next_controller_removes_the_places_that_nobody_has(
    on_ray: Stand,
) -> None:
    pair = DECLARED[2:]
    await on_ray.start(incarnation=4, devices=pair)
    left = placement_group([{DECLARED[0]: SHARE}], name="engine:gone#0:3", lifetime="detached")
    assert left.wait(60)
    await on_ray.pool.close()
    await on_ray.pool.open()
    [seen] = await on_ray.pool.discover()
    assert (seen.replica, seen.devices) == ("m#0", pair)
    assert places_in_ray() == {"engine:m#0:4": pair}


def test_a_bundle_for_each_device_by_name_or_of_rays_own_count() -> None:
    pair = ("cuda:1", "cuda:0")
    assert bundles(pair, 2, {"cuda:0": 1, "cuda:1": 1}) == [{"cuda:1": SHARE}, {"cuda:0": SHARE}]
    assert bundles(pair, 2, {"GPU": 2, "cuda:0": 1}) == [{"GPU": SHARE}, {"GPU": SHARE}]
    for lacking in ({"GPU": 1.0, "CPU": 8.0}, {"CPU": 8.0}):
        with pytest.raises(StartFailed, match="neither cuda:1, cuda:0 nor"):
            bundles(pair, 2, lacking)
    assert bundles(("cpu",), 3, {"CPU": 2}) == [{"CPU": SHARE}] * 3
