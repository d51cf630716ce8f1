"""The KV tier's part of a node's memory: given up first, and had back when nobody needs it.

What is reserved for a tier is in nobody's budget. Where others hold memory of the fleet's, its KV
can be had again from the durable tier, or computed, while an engine that is put to sleep keeps
people waiting. So the tier is the first to shrink, down to a part that is left to it, where more
is held than the budget allows, or where somebody waits who could not have room otherwise: by no
more than others hold. What it gave up is the fleet's budget. Sleepers go deeper only when that is
not enough. A swap of engines for which there is room by itself is no reason: that is how a fleet
works, and some memory is nearly always others'.

It has its part back once others let go of the memory, and, after a while and with nobody waiting,
what of it no engine uses any more.

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
from controller.core.names import Instant
from controller.core.rooms import Rooms
from controller.core.tier import Resize, Tier

RETRY_S = 30.0
PATIENCE_S = 60.0
CALM_S = 30.0
"""After its size has changed, and before it has back what nobody uses."""


# what happened


def measure(books: Books, event: TierMeasured) -> None:
    tier = books.tiers.get(event.node)
    if event.node not in books.ledger.budgets or (tier and tier.order):
        return
    held = min(event.held_bytes, event.whole_bytes)
    fresh = Tier(event.node, event.device, event.whole_bytes, event.least_bytes, held)
    if tier is not None:
        fresh.retry_at, fresh.calm_at = tier.retry_at, tier.calm_at
    books.tiers[event.node] = fresh
    _book(books, fresh)


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
    tier.calm_at = Instant(books.now + CALM_S)
    _book(books, tier)


def _ended_badly(books: Books, tier: Tier) -> None:
    tier.held_bytes, tier.order = tier.booked_bytes, None
    tier.retry_at = Instant(books.now + RETRY_S)
    _book(books, tier)


def _book(books: Books, tier: Tier) -> None:
    books.ledger.give(tier.node, {tier.device: tier.given_bytes})
    books.version += 1


# what is done about it


def shrink_tiers(books: Books) -> None:
    """Where more is held than the budget allows."""
    for tier in books.tiers.values():
        if tier.order is not None and tier.order.until <= books.now:
            _ended_badly(books, tier)
        if not (books.ledger.is_over_budget(tier.node) and _may_give(books, tier)):
            continue
        over = -Rooms(books).at(tier.node).spare.get(tier.device, 0)
        if over > 0:
            gives = max(over, tier.grain_bytes + 1)
            _order(books, tier, max(_least(books, tier), tier.held_bytes - gives))


def shrink_for_room(books: Books) -> bool:
    """Somebody waits for whom there is no room, whoever goes; whether that was of any use."""
    giving = [tier for tier in books.tiers.values() if _may_give(books, tier)]
    for tier in giving:
        _order(books, tier, _least(books, tier))
    return bool(giving)


def regrow_tiers(books: Books) -> None:
    for tier in books.tiers.values():
        if tier.order is None and tier.retry_at <= books.now:
            back = tier.given_bytes - _used_bytes(books, tier)
            if back > tier.grain_bytes:
                _order(books, tier, tier.held_bytes + back)


def can_give(books: Books) -> bool:
    """Some tier has not given up all that it can for what others hold."""
    return any(_may_give(books, tier) for tier in books.tiers.values())


def deadlines(books: Books) -> Iterator[Instant]:
    """At which something may have to be done about a tier."""
    for tier in books.tiers.values():
        if tier.order is not None:
            yield tier.order.until
        elif not tier.is_whole:
            yield max(tier.retry_at, tier.calm_at)
            yield tier.retry_at


def _used_bytes(books: Books, tier: Tier) -> int:
    """What the fleet needs of what the tier gave up."""
    others = books.ledger.deficit(tier.node, tier.device)
    is_asked = bool(books.backlog.by_model or books.operations or books.frozen)
    if is_asked or books.now < tier.calm_at:
        return min(tier.given_bytes, others)
    named = books.ledger.named[tier.node].get(tier.device, 0)
    booked = books.ledger.booked(tier.node).get(tier.device, 0)
    return min(tier.given_bytes, max(0, booked - (named - others)))


def _may_give(books: Books, tier: Tier) -> bool:
    is_free = tier.order is None and tier.retry_at <= books.now
    return is_free and tier.held_bytes - _least(books, tier) > tier.grain_bytes


def _least(books: Books, tier: Tier) -> int:
    """So small it may be at present."""
    others = books.ledger.deficit(tier.node, tier.device)
    return min(tier.held_bytes, max(tier.least_bytes, tier.whole_bytes - others))


def _order(books: Books, tier: Tier, to_bytes: int) -> None:
    until = Instant(books.now + PATIENCE_S)
    tier.order = Resize(books.new_op(), to_bytes, until)
    books.commands.append(ResizeTier(tier.order.op, tier.node, to_bytes))
    _book(books, tier)
