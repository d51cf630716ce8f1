"""The KV tier's part of a node's memory: given up first, and had back last.

What is reserved for a tier is in nobody's budget. Where others hold memory of the fleet's, its KV
can be had again from the durable tier, or computed, while an engine that is put to sleep keeps
people waiting. So the tier is the first to shrink, down to a part that is left to it, by as much
as others hold and no more than is lacking; what it gave up is the fleet's budget. Sleepers go
deeper only when that is not enough. Once others let go of the memory, the tier has its part back.

Of a tier the larger of what it may grow to and of what it was told to grow to is booked: what it
is to give up counts when it is known to be given up, and what it is to have back counts at once.
An order that went wrong, or is not answered, leaves it at the larger of the two, until it is
measured; it is not asked again for a while.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.core.books import Books
from controller.core.commands import ResizeTier
from controller.core.events import TierMeasured, TierNotResized, TierResized
from controller.core.names import LONG_AGO, Instant
from controller.core.rooms import Rooms
from controller.core.routing import is_served
from controller.core.tier import Resize, Tier

RETRY_S = 30.0
PATIENCE_S = 60.0


# what happened


def measure(books: Books, event: TierMeasured) -> None:
    tier = books.tiers.get(event.node)
    if event.node not in books.ledger.budgets or (tier and tier.order):
        return
    held = min(event.held_bytes, event.whole_bytes)
    retry_at = tier.retry_at if tier else LONG_AGO
    books.tiers[event.node] = Tier(
        event.node, event.device, event.whole_bytes, event.least_bytes, held, retry_at
    )
    _book(books, books.tiers[event.node])


def resized(books: Books, event: TierResized | TierNotResized) -> None:
    tier = books.tiers.get(event.node)
    if tier is None or tier.order is None or tier.order.op != event.op:
        return
    if isinstance(event, TierNotResized):
        _ended_badly(books, tier)
        return
    if abs(event.held_bytes - tier.order.to_bytes) > tier.grain_bytes:
        tier.retry_at = Instant(books.now + RETRY_S)
    tier.held_bytes, tier.order = min(event.held_bytes, tier.whole_bytes), None
    _book(books, tier)


def _ended_badly(books: Books, tier: Tier) -> None:
    tier.held_bytes, tier.order = tier.booked_bytes, None
    tier.retry_at = Instant(books.now + RETRY_S)
    _book(books, tier)


def _book(books: Books, tier: Tier) -> None:
    books.ledger.give(tier.node, {tier.device: tier.given_bytes})
    books.version += 1


# what is done about it


def fit_tiers(books: Books) -> None:
    for tier in books.tiers.values():
        if tier.order is not None and tier.order.until <= books.now:
            _ended_badly(books, tier)
        if tier.order is None and tier.retry_at <= books.now:
            to_bytes = _fitting_bytes(books, tier)
            if abs(to_bytes - tier.held_bytes) > tier.grain_bytes:
                _order(books, tier, to_bytes)


def can_give(books: Books) -> bool:
    """Some tier has not given up all that it can for what others hold."""
    return any(
        tier.order is None and tier.retry_at <= books.now and _can_give(books, tier)
        for tier in books.tiers.values()
    )


def deadlines(books: Books) -> Iterator[Instant]:
    """At which something may have to be done about a tier."""
    for tier in books.tiers.values():
        if tier.order is not None:
            yield tier.order.until
        elif tier.retry_at > books.now:
            yield tier.retry_at


def _fitting_bytes(books: Books, tier: Tier) -> int:
    others = books.ledger.deficit(tier.node, tier.device)
    if tier.given_bytes > others:
        return tier.whole_bytes - others
    if _is_waited_for(books):
        return _least(books, tier)
    over = -Rooms(books).at(tier.node).spare.get(tier.device, 0)
    gives = max(over, tier.grain_bytes + 1) if over > 0 else 0
    return max(_least(books, tier), tier.held_bytes - gives)


def _can_give(books: Books, tier: Tier) -> bool:
    return tier.held_bytes - _least(books, tier) > tier.grain_bytes


def _least(books: Books, tier: Tier) -> int:
    """So small it may be at present."""
    others = books.ledger.deficit(tier.node, tier.device)
    return min(tier.held_bytes, max(tier.least_bytes, tier.whole_bytes - others))


def _is_waited_for(books: Books) -> bool:
    """Somebody waits for an engine that is not awake."""
    asked = (*books.backlog.by_model, *(o.waking for o in books.operations if o.waking))
    return any(not is_served(books.models[model].replicas) for model in asked)


def _order(books: Books, tier: Tier, to_bytes: int) -> None:
    until = Instant(books.now + PATIENCE_S)
    tier.order = Resize(books.new_op(), to_bytes, until)
    books.commands.append(ResizeTier(tier.order.op, tier.node, to_bytes))
    _book(books, tier)
