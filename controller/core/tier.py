"""One node's KV tier, as far as memory is concerned."""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.names import LONG_AGO, DeviceId, Instant, NodeId, OpId


@dataclass(frozen=True, slots=True)
class Resize:
    """An order that was not answered yet."""

    op: OpId
    to_bytes: int
    until: Instant


@dataclass(slots=True)
class Tier:
    node: NodeId
    device: DeviceId
    """The resource that its memory is of."""
    whole_bytes: int
    """Reserved for it."""
    least_bytes: int
    """Left to it, whatever others hold."""
    held_bytes: int
    """So large it may grow at present."""
    retry_at: Instant = LONG_AGO
    """It is ordered nothing before."""
    calm_at: Instant = LONG_AGO
    """Until then what it gave up stays with the fleet, used or not."""
    order: Resize | None = None

    @property
    def grain_bytes(self) -> int:
        """Changes no larger than that are none: sizes are in pages, and chunks are larger."""
        return self.whole_bytes // 64

    @property
    def booked_bytes(self) -> int:
        return max(self.held_bytes, self.order.to_bytes if self.order else 0)

    @property
    def given_bytes(self) -> int:
        """Of what is reserved for it, what others may have."""
        return self.whole_bytes - self.booked_bytes

    @property
    def coming_bytes(self) -> int:
        """What its order will free."""
        return max(0, self.held_bytes - self.order.to_bytes) if self.order else 0

    @property
    def is_whole(self) -> bool:
        return self.order is None and self.given_bytes == 0
