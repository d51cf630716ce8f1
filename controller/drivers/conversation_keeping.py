"""What is done to a conversation's KV, and what goes on record of it.

With the records away nothing is lost but memory of it: the fleet serves on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Protocol

from controller.conversation_ports import KVOrders, Records
from controller.core.conversations import Act, Residency
from controller.drivers.conversation_entries import Entries, Entry
from kv_store.conversations import ConversationKey, ConversationRecord, KVPlace, RecordsUnavailable
from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from kv_store.turns import TurnTold, agreement, digest
from workers.engine import EngineError

log = logging.getLogger("torpor.conversations")

_ORDER = {
    Act.HIBERNATE: KVOrder.HIBERNATE,
    Act.REHYDRATE: KVOrder.REHYDRATE,
    Act.RESET: KVOrder.FORGET,
    Act.DELETE: KVOrder.FORGET,
}


class Kept(Protocol):
    """What was said in conversations."""

    async def forget(self, key: ConversationKey) -> None: ...


class Keeping:
    def __init__(
        self, entries: Entries, records: Records, orders: KVOrders, kept: Kept | None = None
    ) -> None:
        """``kept`` None: nothing of what is said."""
        self._kept = kept
        self._entries = entries
        self._records = records
        self._orders = orders

    async def open(self) -> None:
        with _unrecorded("reading"):
            for record in await self._records.open():
                self._entries.restore(record)

    async def close(self) -> None:
        await self._records.close()

    async def save(self, entry: Entry) -> None:
        if self._entries.has(entry):
            entry.record = self._entries.as_it_is(entry)
            with _unrecorded("writing"):
                await self._records.put(entry.record)

    def place(self, replica: str, salt: str) -> KVPlace | None:
        return self._orders.place(replica, salt)

    async def answered(self, entry: Entry, model: str, replica: str, found: bytes) -> None:
        """A turn more, of which no tokens are known."""
        self._count(entry, model, replica, found)
        await self.save(entry)

    async def took_place(
        self,
        entry: Entry,
        model: str,
        replica: str,
        found: bytes,
        place: KVPlace,
        told: TurnTold,
    ) -> None:
        """A turn more, which left these tokens' KV there."""
        before, agreed = entry.record.place, 0
        if before is not None and (before.path, before.salt) != (place.path, place.salt):
            await self._drop(entry.record, before)
        elif before is not None:
            agreed = await self._drop_tail(entry.record, before, told.tokens)
        self._count(entry, model, replica, found)
        entry.record = replace(
            self._entries.as_it_is(entry),
            place=place,
            tokens=len(told.tokens),
            digest=digest(told.tokens),
            residency=Residency.IN_MEMORY.value,
        )
        with _unrecorded("writing"):
            await self._records.put(entry.record, told, agreed=agreed)
        if entry.line.was_hibernated and not self._entries.limits.keeps_copies:
            with suppress(EngineError):
                prefix = place.prefix(told.tokens)
                placed = await self._orders.carry_out(place, KVOrder.WITHDRAW, prefix)
                entry.record = _with_bytes(entry.record, placed)

    async def prefix(self, entry: Entry, act: Act) -> Prefix | None:
        """Of what the act is about; None: nothing is known of. Raises RecordsUnavailable,
        EngineError: that act needs one."""
        prefix = await self._records.prefix(entry.record)
        if prefix is None and act in (Act.HIBERNATE, Act.REHYDRATE):
            raise EngineError("its tokens are not on record")
        return prefix

    async def carry_out(self, entry: Entry, act: Act, prefix: Prefix | None) -> None:
        """Raises EngineError, RecordsUnavailable: it may be half done."""
        record = entry.record
        if act is Act.DELETE and entry.has_history and self._kept is not None:
            await self._kept.forget(entry.key)
            entry.has_history = False
        if prefix is not None and record.place is not None:
            await self.save(entry)
            placed = await self._orders.carry_out(record.place, _ORDER[act], prefix)
            if act is Act.HIBERNATE:
                gone = placed.objects - placed.in_durable
                self._entries.counts(entry.key.tenant).evicted_chunks += gone
            if act is Act.REHYDRATE and not self._entries.limits.keeps_copies:
                placed = await self._orders.carry_out(record.place, KVOrder.WITHDRAW, prefix)
            entry.record = _with_bytes(entry.record, placed)
        if act is Act.RESET:
            await self._records.forget_tokens(record)
            entry.record = replace(entry.record, place=None, tokens=0, digest="")
        elif act is Act.DELETE:
            await self._records.forget(record)

    async def look(self, entry: Entry) -> None:
        """Where its KV lies at this moment, if the tier says."""
        record = entry.record
        with suppress(EngineError, RecordsUnavailable):
            prefix = await self._records.prefix(record)
            if prefix is not None and record.place is not None:
                placed = await self._orders.carry_out(record.place, KVOrder.WHERE, prefix)
                if entry.record is record:
                    entry.record = _with_bytes(record, placed)

    def _count(self, entry: Entry, model: str, replica: str, found: bytes) -> None:
        record = entry.record
        if record.turns:
            self._entries.counts(entry.key.tenant).found(found)
        entry.record = replace(
            record,
            model=model,
            replica=replica,
            turns=record.turns + 1,
            last_use_s=time.time(),
        )

    async def _drop(self, record: ConversationRecord, place: KVPlace) -> None:
        """Of weights, or of a model, that the conversation has left behind."""
        with _unrecorded("forgetting"):
            prefix = await self._records.prefix(record)
            if prefix is not None:
                with suppress(EngineError):
                    await self._orders.carry_out(place, KVOrder.FORGET, prefix)
            await self._records.forget_tokens(record)

    async def _drop_tail(
        self, record: ConversationRecord, place: KVPlace, tokens: Sequence[int]
    ) -> int:
        """What lies beyond where this turn departs from the one before, if it does; so many tokens
        it shares with that one."""
        if not record.tokens or digest(tokens[: record.tokens]) == record.digest:
            return record.tokens
        agreed = 0
        with suppress(EngineError), _unrecorded("reading"):
            prefix = await self._records.prefix(record)
            if prefix is not None:
                agreed = agreement(prefix.tokens, tokens)
                tail = replace(prefix, begin=agreed)
                await self._orders.carry_out(place, KVOrder.FORGET, tail)
        return agreed


def _with_bytes(record: ConversationRecord, placed: Placed) -> ConversationRecord:
    """The tier knows sizes only of what it holds, or just held, in host memory."""
    durable = placed.durable_bytes
    if placed.in_durable and not placed.object_bytes:
        durable = record.durable_bytes
    return replace(record, host_bytes=placed.host_bytes, durable_bytes=durable)


@contextmanager
def _unrecorded(what: str) -> Iterator[None]:
    try:
        yield
    except RecordsUnavailable as error:
        log.warning("%s records of conversations: %s", what, error)
