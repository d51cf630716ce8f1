"""Restarting engines that leak, when nobody waits for anything and nothing runs on them."""

from __future__ import annotations

from controller.core.books import Books
from controller.core.demoting import demote
from controller.core.lifecycle import Goal, Phase
from controller.core.names import Cause, Depth


def restart_leaking(books: Books) -> None:
    """A step of the plan: in a quiet moment."""
    if not books.leaking or books.backlog.by_model or books.operations:
        return
    for replica in list(books.leaking.values()):
        record = books.models[replica.model]
        rests = replica.phase in (Phase.AWAKE, Phase.ASLEEP) and not replica.leases
        if rests and not replica.is_retiring and not record.spec.pinned:
            record.is_unstarted = True
            books.hopeful[replica.model] = None
            demote(books, replica, Goal(Depth.STOPPED, Cause.LEAKING))
