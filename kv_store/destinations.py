"""Which durable tier a chunk goes to, where there are several: the one that its salt tells.

LMCache's server is given its tiers once, when it starts, one adapter each, and stock writes every
chunk to all of them. A chunk's key is all that is known where that is decided; so the controller,
which knows whose request it is, puts the name of the destination into the salt
(``kv_store.keys``). Each adapter finds and deletes only what is its own (``DurableAdapter``), so
that nobody's lookups wait for another's store.

What goes to a destination that the server was not given stays in the host tier until it is evicted.
"""

from __future__ import annotations

from collections.abc import Iterable

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.storage_controllers.store_policy import (
    DefaultStorePolicy,
    register_store_policy,
)
from lmcache.v1.distributed.storage_controllers.utils import L2AdapterDescriptor

from kv_store.keys import destination_of
from kv_store.server_command import BY_DESTINATION


class ByDestination(DefaultStorePolicy):  # type: ignore[misc]
    def select_store_targets(
        self, keys: list[ObjectKey], adapters: list[L2AdapterDescriptor]
    ) -> dict[int, list[ObjectKey]]:
        return {each.index: bound_for(each.config.destination, keys) for each in adapters}


def register() -> None:
    """Make the policy known to LMCache; once in a process."""
    register_store_policy(BY_DESTINATION, ByDestination)


def bound_for(destination: str, keys: Iterable[ObjectKey]) -> list[ObjectKey]:
    return [key for key in keys if destination_of(key.cache_salt) == destination]
