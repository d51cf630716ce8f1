"""What an engine holds, as it was measured, and that it holds nothing any more."""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.books import Books
from controller.core.costs import Took
from controller.core.lifecycle import Replica
from controller.core.models import ModelRecord
from controller.core.names import NOTHING, Depth, Footprint
from controller.core.residuals import Residuals


def settle(books: Books, replica: Replica, held: Footprint, depth: Depth) -> None:
    """Measured: that is what it holds, and what its like will be booked at."""
    assert replica.place is not None
    replica.held = held
    replica.depth = depth
    if not replica.is_retiring:
        books.models[replica.model].measured[depth] = held
        books.learned(books.models[replica.model])
    books.ledger.settle(replica, replica.place, held)


def remember(
    books: Books,
    record: ModelRecord,
    took: Iterable[Took],
    held: Iterable[tuple[Depth, Footprint]],
) -> None:
    """From before this run; what it measured itself stays."""
    for one in took:
        books.costs.remember(record.spec.name, one)
    for depth, footprint in held:
        record.measured.setdefault(depth, footprint)
    books.touch_model(record)


def note_residual(books: Books, replica: Replica, depth: Depth) -> None:
    """It has just fallen asleep there."""
    residuals = replica.residuals.setdefault(depth, Residuals())
    residuals.note(replica.held.device_bytes)
    growth = residuals.growth_bytes
    if growth > books.policy.residual_growth_bytes and replica.id not in books.leaking:
        books.leaking[replica.id] = replica
        what = f"leaks: at {depth.name} it keeps {growth >> 20} MiB more than at first"
        replica.tell(books.now, what, "to be restarted when all is quiet")
        books.version += 1


def lay_down(books: Books, replica: Replica) -> None:
    """Nothing is left of its engine."""
    replica.residuals = {}
    books.leaking.pop(replica.id, None)
    books.reliefs.forget(replica)
    if replica.place is not None:
        books.ledger.release(replica, replica.place)
    replica.held, replica.place, replica.depth = NOTHING, None, Depth.STOPPED
    replica.incarnation = replica.order = replica.goal = None
    replica.has_kv = False
    replica.prefixes.clear()
    replica.stop_failures = 0
