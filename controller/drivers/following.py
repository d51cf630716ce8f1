"""Budgets that follow what others leave of a node's memory: measurements in, BudgetMeasured out.

The fleet can have what is free and what is its own, less what is kept free for everybody's peaks
and what its KV tier may grow to. Where tasks stall for memory, more is kept free. Where the
fleet's own cannot be seen, it is taken to be what is booked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from controller.core.events import BudgetMeasured, TierMeasured
from controller.core.ledger import HOST
from controller.core.names import DeviceId, Instant, NodeId
from controller.core.steadying import FollowPolicy, SteadyBudget
from controller.core.tier import Tier
from controller.ports import NodeFound, NodeMemory
from workers.pool_values import ResourceMemory

STEP = 0.02
"""Of a resource: a change smaller than this is none."""
STALLED = 3
"""So many times as much is kept free while tasks stall."""


class Following:
    def __init__(
        self, policy: FollowPolicy, limit: Callable[[NodeFound], NodeFound] = lambda node: node
    ) -> None:
        """``limit``: of what a node has, what the fleet may use."""
        self._policy = policy
        self._limit = limit
        self._steady: dict[tuple[NodeId, DeviceId], SteadyBudget] = {}

    def look(
        self, at: Instant, memory: NodeMemory, booked: Mapping[DeviceId, int]
    ) -> BudgetMeasured | None:
        """None: nothing that matters has changed."""
        node = NodeId(memory.node)
        named = self._named(memory)
        changed = [
            self._budget(node, resource, part).look(
                at, self._to_be_had(memory, resource, part, booked), named[resource]
            )
            for resource, part in self._followed(memory)
        ]
        return self._event(at, memory) if any(changed) else None

    def tier(self, at: Instant, memory: NodeMemory, known: Tier | None) -> TierMeasured | None:
        """None: it is as large as is known, or its size cannot be changed."""
        if memory.tier_bytes is None or (known and known.held_bytes == memory.tier_bytes):
            return None
        whole = self._policy.reserved_bytes
        device = DeviceId(memory.host.name) if _is_one_memory(memory) else HOST
        least = int(whole * self._policy.least_of_tier)
        held = min(memory.tier_bytes, whole)
        return TierMeasured(at, NodeId(memory.node), device, whole, least, held)

    def _followed(self, memory: NodeMemory) -> Iterator[tuple[DeviceId, ResourceMemory]]:
        if self._policy.follows_devices:
            yield from ((DeviceId(device.name), device) for device in memory.devices)
        if self._policy.follows_host and not _is_one_memory(memory):
            yield HOST, memory.host

    def _to_be_had(
        self,
        memory: NodeMemory,
        resource: DeviceId,
        part: ResourceMemory,
        booked: Mapping[DeviceId, int],
    ) -> int:
        policy = self._policy
        own = booked.get(resource, 0) if part.own_bytes is None else part.own_bytes
        is_of_host = resource == HOST or _is_one_memory(memory)
        is_stalled = is_of_host and memory.stalled_percent >= policy.stall_percent
        kept_free = part.total_bytes * policy.headroom_fraction * (STALLED if is_stalled else 1)
        reserved = policy.reserved_bytes if is_of_host else 0
        return max(0, part.free_bytes + own - int(kept_free) - reserved)

    def _budget(self, node: NodeId, resource: DeviceId, part: ResourceMemory) -> SteadyBudget:
        step = int(part.total_bytes * STEP)
        return self._steady.setdefault((node, resource), SteadyBudget(step, self._policy.calm_s))

    def _named(self, memory: NodeMemory) -> dict[DeviceId, int]:
        sizes = tuple((device.name, device.total_bytes) for device in memory.devices)
        limited = self._limit(NodeFound(memory.node, sizes, memory.host.total_bytes))
        return {**{DeviceId(d): size for d, size in limited.devices}, HOST: limited.host_bytes}

    def _event(self, at: Instant, memory: NodeMemory) -> BudgetMeasured:
        node = NodeId(memory.node)

        def cut(resource: DeviceId, part: ResourceMemory) -> int:
            steady = self._steady.get((node, resource))
            known = None if steady is None else steady.cut_to
            return part.total_bytes if known is None else known

        devices = tuple((DeviceId(d.name), cut(DeviceId(d.name), d)) for d in memory.devices)
        return BudgetMeasured(at, node, devices, cut(HOST, memory.host))


def _is_one_memory(memory: NodeMemory) -> bool:
    return memory.devices == (memory.host,)
