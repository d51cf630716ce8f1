"""Placement groups: in Ray's books, what a tensor-parallel engine takes.

The ledger chooses a node and devices of it. The group has one bundle for each of these devices, on
that node and no other, and the engine's actor lives in it; vLLM's own workers are processes below
the actor (its executor ``mp``), so that they live, are watched and die with it. A group is named
like its actor and detached like it: whoever adopts the engine has its group too, and whoever stops
the engine removes it. Decisions that will be asked about again:

- A bundle takes a thousandth of its device. A sleeper keeps its place in Ray's books and blocks
  nobody; what a device carries is the ledger's to say.
- Devices are resources by their names (``cuda:0``) where the node declares them, as ours do. In
  Ray's own ``GPU`` they have no names: there a bundle is a thousandth of some GPU of the node.
- Without a GPU ranks are processes on the one device: so many thousandths of a CPU.
- One node only. Over several, vLLM's workers are actors of its own executor ``ray``, which wants
  whole GPUs for itself, and a place in the ledger would be several nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import get_placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import NODE_ID_LABEL_KEY, PlacementGroup, placement_group

from workers.engine import StartFailed
from workers.ray_orders import answer

SHARE = 0.001


def bundles(
    devices: tuple[str, ...], ranks: int, declared: Mapping[str, float]
) -> list[dict[str, float]]:
    """One for each device, in their order, or for each rank on the one that there is. Raises
    StartFailed where Ray has none of them."""
    if len(devices) == 1:
        return [{"CPU": SHARE} for _ in range(ranks)]
    if all(device in declared for device in devices):
        return [{device: SHARE} for device in devices]
    if declared.get("GPU", 0) < len(devices):
        raise StartFailed(f"the node declares to Ray neither {', '.join(devices)} nor as many GPUs")
    return [{"GPU": SHARE} for _ in devices]


def create(name: str, node_id: str, devices: tuple[str, ...], ranks: int) -> PlacementGroup:
    """Returns at once, whether it can be had or not. Raises StartFailed."""
    declared = {row["NodeID"]: row["Resources"] for row in ray.nodes()}.get(node_id, {})
    wanted = bundles(devices, ranks, declared)
    return placement_group(
        wanted,
        strategy="STRICT_PACK",
        name=name,
        lifetime="detached",
        bundle_label_selector=[{NODE_ID_LABEL_KEY: node_id} for _ in wanted],
    )


async def await_place(group: PlacementGroup, limit_s: float) -> None:
    """Raises StartFailed where it cannot be had in time."""
    try:
        await asyncio.wait_for(answer(group.ready()), limit_s)
    except TimeoutError:
        wanted = ", ".join(sorted({name for bundle in group.bundle_specs for name in bundle}))
        raise StartFailed(
            f"Ray had no place for {group.bundle_count} ranks ({wanted}) within {limit_s:g} s"
        ) from None


async def remove(name: str) -> None:
    """Whatever there is of that name; what runs in it is killed."""
    with suppress(ValueError, RayError):
        group = await asyncio.to_thread(get_placement_group, name)
        await asyncio.to_thread(remove_placement_group, group)


async def remove_all_but(known: Collection[str], ours: str) -> None:
    """Of this namespace, those whose names begin with ``ours``."""
    rows: dict[str, Any] = await asyncio.to_thread(placement_group_table)
    left = {row["name"] for row in rows.values() if row["state"] != "REMOVED"} - set(known)
    await asyncio.gather(*(remove(name) for name in left if name.startswith(ours)))
