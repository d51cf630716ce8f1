"""The only file that names concrete adapters: Settings and an address of Ray → a controller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from controller.announcer import Announcer, JsonAnnouncer
from controller.api.app import create_app
from controller.api.status import Readiness
from controller.conversation_metrics import ConversationGauges
from controller.conversation_ports import Records, RecordsUnavailable
from controller.core.commands import Command
from controller.core.events import Event
from controller.core.fleet import Fleet
from controller.core.names import Depth, ModelSpec
from controller.cost_records import CostRecords
from controller.drivers.control import LiveControl
from controller.drivers.conversation_entries import Entries
from controller.drivers.conversation_keeping import Keeping
from controller.drivers.conversations import LiveConversations
from controller.drivers.following import Following
from controller.drivers.history import LiveHistories
from controller.drivers.hours import keep_hours
from controller.drivers.kv_orders import LiveKVOrders
from controller.drivers.lease_desk import LeaseDesk
from controller.drivers.leases import LiveLeases
from controller.drivers.live import LiveDriver
from controller.drivers.recalls import Recalls
from controller.history_metrics import HistoryMetrics
from controller.journal import Journal
from controller.metrics import Metrics
from controller.ports import InvalidModel, Pool
from controller.reload import FileLook, Reload
from controller.serving import DeciderSockets, Served, api_settings
from controller.settings import (
    ConfigError,
    Settings,
    keys_of_history,
    password_of_store,
    read_model,
    records_of_run,
    tier_of,
)
from kv_store.conversation_records import ConversationRecords
from kv_store.conversations import MemoryRecords
from kv_store.history_seal import Seal
from kv_store.history_store import HistoryStore
from kv_store.redis_client import client_at
from kv_store.settings import Redis
from workers.capacity import MemoryPolicy
from workers.engine import EngineSpec, KVExport, Report
from workers.pool_values import OrderLimits

log = logging.getLogger("torpor.conversations")
_MEMORY_S = 2.0
"""So often is looked at what others hold."""
_COSTS_S = 1.0
"""So long after the first of several measurements they are written down."""


def build(settings: Settings, ray_address: str, sockets: DeciderSockets | None = None) -> Served:
    """A controller that joins a Ray, which no other pool pays for: its client takes 38 MiB."""
    from workers.ray_pool import RayPool

    pool = RayPool(
        ray_address,
        state_dir=settings.state_dir,
        log_dir=settings.log_dir,
        limits=OrderLimits(
            start_s=settings.timeouts.start_s,
            sleep_s=settings.timeouts.sleep_s,
            wake_s=settings.timeouts.wake_s,
            stop_s=settings.timeouts.stop_s,
        ),
        memory=MemoryPolicy(share=1.0),
        memory_s=_MEMORY_S if settings.memory.is_followed else None,
        kv=tier_of(settings),
    )
    return assemble(settings, pool, sockets)


def assemble(settings: Settings, pool: Pool, sockets: DeciderSockets | None = None) -> Served:
    """A controller of the engines of any pool; with ``sockets`` it serves carriers there."""
    fleet = Fleet(settings.policy)
    limit = settings.memory.limit
    following = Following(settings.memory.follow, limit) if settings.memory.is_followed else None
    costs = CostRecords(
        settings.state_dir / "costs.json",
        settings.device,
        soon=lambda write: asyncio.get_running_loop().call_later(_COSTS_S, write),
    )
    driver = LiveDriver(fleet, pool, settings.models, limit, following, settings.hangs, costs)
    metrics = Metrics()
    journal = Journal(
        settings.state_dir / "journal.jsonl",
        settings.journal.max_bytes,
        settings.journal.files,
        soon=lambda flush: asyncio.get_running_loop().call_soon(flush),
    )
    announcing = JsonAnnouncer if settings.announces_json else Announcer
    announcer = announcing(settings.server.host, settings.server.port)
    driver.observers += [_Journalist(journal), metrics, announcer, costs]
    control = LiveControl(driver, lambda entry: _read_model(entry, settings))

    entries = Entries(settings.conversations, records_of_run().run)
    store = _store(settings)
    seal = _seal(settings)
    kept = _kept(store, seal)
    records, orders = _records(store, seal), LiveKVOrders(driver)
    keeping = Keeping(entries, records, orders, kept)
    histories = _histories(settings, entries, kept, metrics.history)
    recalls = Recalls(driver, records, orders, metrics.kv)
    driver.observers.append(recalls)
    conversations = LiveConversations(
        entries, keeping, recalls, control.operations, control.publish
    )
    metrics.include(ConversationGauges(entries.statistics))
    readiness = Readiness()
    leases = LiveLeases(driver)
    desk = LeaseDesk(leases, metrics, lambda: tuple(v.model for v in control.view().models))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await driver.open()
        await conversations.open()
        await _read_histories(histories)
        announcer.opened(settings)
        try:
            async with (
                _meanwhile(keep_hours(driver)),
                _reloading(settings, control),
                _carriers(settings, desk, sockets),
            ):
                yield
        finally:
            await conversations.close()
            if kept is not None:
                await kept.close()
            await driver.close()
            journal.close()
            costs.write()

    app = create_app(
        api_settings(settings),
        leases,
        control,
        metrics,
        lifespan=lifespan,
        readiness=readiness,
        conversations=conversations,
        histories=histories,
    )
    return Served(app, settings, readiness, is_behind_carriers=sockets is not None)


@asynccontextmanager
async def _carriers(
    settings: Settings, desk: LeaseDesk, sockets: DeciderSockets | None
) -> AsyncIterator[None]:
    """They are served meanwhile, if there are any, and let their responses end."""
    if sockets is None:
        yield
        return
    await desk.open(sockets.leases)
    try:
        yield
    finally:
        await desk.close(settings.server.drain_s)


async def _read_histories(histories: LiveHistories | None) -> None:
    if histories is None:
        return
    try:
        await histories.open()
    except RecordsUnavailable as error:
        log.warning("which conversations have a history is not known yet: %s", error)


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


def _histories(
    settings: Settings, entries: Entries, kept: HistoryStore | None, counts: HistoryMetrics
) -> LiveHistories | None:
    if kept is None or settings.history is None:
        return None
    return LiveHistories(entries, kept, settings.history.limits, counts)


@asynccontextmanager
async def _reloading(settings: Settings, control: LiveControl) -> AsyncIterator[None]:
    """The file is watched meanwhile, if there is one."""
    if settings.source is None:
        yield
        return
    async with _meanwhile(Reload(settings, control, FileLook(settings)).watch()):
        yield


@asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _read_model(entry: dict[str, object], settings: Settings) -> tuple[ModelSpec, EngineSpec]:
    try:
        return read_model(entry, settings)
    except ConfigError as error:
        said = "; ".join(f"{problem.path}: {problem.reason}" for problem in error.problems)
        raise InvalidModel(said) from error


class _Journalist:
    """The journal as an observer of the driver."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        self._journal.record(event, commands)

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        return None

    def exported(self, model: str, export: KVExport) -> None:
        return None
