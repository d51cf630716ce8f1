"""The half of the wiring that remembers: conversations, their records and what was said in them,
in the store that the settings name."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.conversation_metrics import ConversationGauges
from controller.conversation_ports import Records, RecordsUnavailable
from controller.drivers.control import LiveControl
from controller.drivers.conversation_entries import Entries
from controller.drivers.conversation_keeping import Keeping
from controller.drivers.conversations import LiveConversations
from controller.drivers.history import LiveHistories
from controller.drivers.kv_orders import LiveKVOrders
from controller.drivers.live import LiveDriver
from controller.drivers.recalls import Recalls
from controller.metrics import Metrics
from controller.settings import Settings, keys_of_history, password_of_store, records_of_run
from kv_store.conversation_records import ConversationRecords
from kv_store.conversations import MemoryRecords
from kv_store.history_seal import Seal
from kv_store.history_store import HistoryStore
from kv_store.redis_client import client_at
from kv_store.settings import Redis

log = logging.getLogger("torpor.conversations")


@dataclass(frozen=True, slots=True)
class Remembered:
    conversations: LiveConversations
    histories: LiveHistories | None
    """None: nothing that is said is kept."""
    _kept: HistoryStore | None

    @asynccontextmanager
    async def lived(self) -> AsyncIterator[None]:
        """From reading what is on record to the last of its writes."""
        await self.conversations.open()
        try:
            await self._read_histories()
            yield
        finally:
            await self.conversations.close()
            if self._kept is not None:
                await self._kept.close()

    async def _read_histories(self) -> None:
        if self.histories is None:
            return
        try:
            await self.histories.open()
        except RecordsUnavailable as error:
            log.warning("which conversations have a history is not known yet: %s", error)


def remember(
    settings: Settings, driver: LiveDriver, control: LiveControl, metrics: Metrics
) -> Remembered:
    """For the engines of that driver, which its recalls observe from then on."""
    entries = Entries(settings.conversations, records_of_run().run)
    store, seal = _store(settings), _seal(settings)
    kept = _kept(store, seal)
    records, orders = _records(store, seal), LiveKVOrders(driver)
    recalls = Recalls(driver, records, orders, metrics.kv)
    driver.observers.append(recalls)
    conversations = LiveConversations(
        entries,
        Keeping(entries, records, orders, kept),
        recalls,
        control.operations,
        control.publish,
    )
    metrics.include(ConversationGauges(entries.statistics))
    histories = None
    if kept is not None and settings.history is not None:
        histories = LiveHistories(entries, kept, settings.history.limits, metrics.history)
    return Remembered(conversations, histories, kept)


def _store(settings: Settings) -> Redis | Path | None:
    """Where records and histories lie: with the KV where that is Redis, else in the run's own."""
    if settings.kv is not None and isinstance(settings.kv.durable, Redis):
        return settings.kv.durable.with_password(password_of_store())
    return records_of_run().socket


def _seal(settings: Settings) -> Seal | None:
    return Seal(keys_of_history(settings.history)) if settings.history is not None else None


def _records(store: Redis | Path | None, seal: Seal | None) -> Records:
    if store is None:
        return MemoryRecords()
    return ConversationRecords(client_at(store), seal=seal)


def _kept(store: Redis | Path | None, seal: Seal | None) -> HistoryStore | None:
    if seal is None:
        return None
    if store is None:
        raise RuntimeError("there is no store for what is said: `torpor serve` starts one")
    return HistoryStore.at(store, seal)
