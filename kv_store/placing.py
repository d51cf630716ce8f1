"""What can be ordered of one prefix's KV on one node, and where it lies afterwards."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from kv_store.lmcache_client import LMCacheClient, Placed, Prefix, TierUnavailable


class KVOrder(Enum):
    WHERE = "where"
    HIBERNATE = "hibernate"
    """To the durable tier, then out of the host tier."""
    REHYDRATE = "rehydrate"
    """To the host tier again. Needs an engine of the model on that node, asleep or awake."""
    RECALL = "recall"
    """The same ahead of need: an engine of the model may be about to come."""
    WITHDRAW = "withdraw"
    """Out of the durable tier, as far as it lies in the host tier."""
    FORGET = "forget"
    """Out of both."""


async def place(tier: LMCacheClient, order: KVOrder, prefix: Prefix, limit_s: float) -> Placed:
    """Raises TierUnavailable: the server is away, or not all of it could be done."""
    match order:
        case KVOrder.WHERE:
            return await tier.where(prefix, limit_s=limit_s)
        case KVOrder.HIBERNATE:
            return await _hibernated(tier, prefix, limit_s)
        case KVOrder.REHYDRATE:
            return await _recalled(tier, prefix, limit_s, attach_s=0.0)
        case KVOrder.RECALL:
            return await _recalled(tier, prefix, limit_s, attach_s=limit_s)
        case KVOrder.WITHDRAW:
            return await tier.withdraw(prefix, limit_s=limit_s)
        case KVOrder.FORGET:
            return await _forgotten(tier, prefix, limit_s)


async def _recalled(
    tier: LMCacheClient, prefix: Prefix, limit_s: float, *, attach_s: float
) -> Placed:
    recalled = await tier.recall(prefix, limit_s=limit_s, attach_s=attach_s)
    placed = await tier.where(prefix, limit_s=limit_s)
    return replace(placed, moved_bytes=recalled.bytes, moved_s=recalled.seconds)


async def _hibernated(tier: LMCacheClient, prefix: Prefix, limit_s: float) -> Placed:
    """What is in neither tier any more was evicted before, and will be recomputed."""
    exported = await tier.export(prefix, limit_s=limit_s)
    if exported.failed:
        raise TierUnavailable(f"{exported.failed} chunks did not reach the durable tier")
    placed = await tier.release(prefix, limit_s=limit_s)
    if placed.in_host:
        raise TierUnavailable(f"{placed.in_host} chunks are in use")
    return placed


async def _forgotten(tier: LMCacheClient, prefix: Prefix, limit_s: float) -> Placed:
    deleted = await tier.delete(prefix, limit_s=limit_s)
    if deleted.left:
        raise TierUnavailable(f"{deleted.left} chunks could not be deleted")
    return Placed(deleted.from_host, 0, 0, 0)
