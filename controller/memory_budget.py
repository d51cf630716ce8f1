"""What of the nodes' memory the fleet may use."""

from __future__ import annotations

from dataclasses import dataclass, replace

from controller.config_schema import MemorySection
from controller.core.steadying import FollowPolicy
from controller.footprints import GIB
from controller.ports import NodeFound


@dataclass(frozen=True, slots=True)
class NodeBudget:
    name: str
    devices: int
    device_bytes: int | None
    host_bytes: int | None


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes where they were named; shares of what is found where they were not."""

    device_bytes: int | None
    device_fraction: float
    host_bytes: int | None
    host_fraction: float
    nodes: tuple[NodeBudget, ...]
    follow: FollowPolicy
    kv_host_bytes: int = 0
    """Of each node, for the KV tier: taken off the host's budget, and where host and device are
    one memory off the device's."""

    @classmethod
    def of(cls, section: MemorySection, kv_host_bytes: int = 0) -> MemoryBudget:
        device, host = _bytes(section.device_budget_gib), _bytes(section.host_budget_gib)
        nodes = tuple(
            NodeBudget(
                node.name,
                node.devices,
                _bytes(node.device_budget_gib) or device,
                _bytes(node.host_budget_gib) or host,
            )
            for node in section.nodes
        )
        return cls(
            device,
            section.device_fraction,
            host,
            section.host_fraction,
            nodes,
            _follow(section, nodes, kv_host_bytes),
            kv_host_bytes,
        )

    @property
    def is_followed(self) -> bool:
        return self.follow.follows_devices or self.follow.follows_host

    def limit(self, found: NodeFound) -> NodeFound:
        """The node with what the fleet may use of it, instead of all it has."""
        named = next((node for node in self.nodes if node.name == found.node), None)
        device = named.device_bytes if named else self.device_bytes
        host = named.host_bytes if named else self.host_bytes
        return replace(
            found,
            devices=tuple(
                (name, max(0, _share(device, self.device_fraction, size) - self._taken(name)))
                for name, size in found.devices
            ),
            host_bytes=max(
                0, _share(host, self.host_fraction, found.host_bytes) - self.kv_host_bytes
            ),
        )

    def _taken(self, device: str) -> int:
        return self.kv_host_bytes if device == "cpu" else 0

    def largest_device_bytes(self) -> int | None:
        """Of any node; None where some budget is a share of what is not known yet."""
        budgets = [node.device_bytes for node in self.nodes] or [self.device_bytes]
        known = [size for size in budgets if size is not None]
        return max(known) if len(known) == len(budgets) else None


def _follow(
    section: MemorySection, nodes: tuple[NodeBudget, ...], kv_host_bytes: int
) -> FollowPolicy:
    """``auto``: a number stands as it was written, a fraction is of what there is to be had."""
    is_named = {
        "device": section.device_budget_gib or any(node.device_bytes for node in nodes),
        "host": section.host_budget_gib or any(node.host_bytes for node in nodes),
    }
    follows = {
        what: section.follow == "always" or (section.follow == "auto" and not named)
        for what, named in is_named.items()
    }
    return FollowPolicy(
        follows["device"],
        follows["host"],
        section.headroom_fraction,
        section.stall_percent,
        section.calm_s,
        kv_host_bytes,
    )


def _share(budget: int | None, fraction: float, found: int) -> int:
    """Never more than there is."""
    return min(budget, found) if budget is not None else int(found * fraction)


def _bytes(size_gib: float | None) -> int | None:
    return None if size_gib is None else int(size_gib * GIB)
