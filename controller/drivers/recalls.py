"""KV of waiting turns comes back while their engine wakes: ``core.recall`` decides, this orders.

A turn that waits for its lease is known here. When the core orders a wake or a start of its model,
the node's KV tier is asked for the turn's prefix, and likewise when a turn comes while its engine
is on its way. Nobody waits for that: the lease is granted when the engine is awake, and what has
not come by then the engine's own lookup fetches, which stops the recall (``server_recall``).

A node is asked for few prefixes at a time, in the order in which their turns came. A turn that was
granted its lease before it came to that is not recalled any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from controller.conversation_ports import (
    KVOrders,
    RecallCounts,
    RecallOutcome,
    Records,
    RecordsUnavailable,
)
from controller.core.commands import Command, StartEngine, WakeEngine
from controller.core.events import Event
from controller.core.fleet import Fleet
from controller.core.lifecycle import RISING, Replica
from controller.core.names import Depth, ModelName, NodeId, ReplicaId
from controller.core.recall import Rates, is_computed_sooner, is_worth_fetching
from controller.drivers.conversation_entries import Entry
from controller.drivers.live import LiveDriver
from kv_store.conversations import KVPlace
from kv_store.found import PromptFound
from kv_store.lmcache_client import Placed
from kv_store.placing import KVOrder
from workers.engine import EngineError, KVExport, Report

log = logging.getLogger("torpor.recalls")

_AT_ONCE = 2
"""Of one node. LMCache loads eight things at a time, and each recall orders two slices ahead."""
_OWN_TIERS = ("none", "engine")
"""A prompt of which nothing was loaded: what passed until its first token was computing."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A turn that has no lease yet."""

    entry: Entry
    model: ModelName
    is_recalled: bool = False


class Recalls:
    """Also an observer of the driver."""

    def __init__(
        self, driver: LiveDriver, records: Records, orders: KVOrders, counts: RecallCounts
    ) -> None:
        self._driver = driver
        self._records = records
        self._orders = orders
        self._counts = counts
        self._rates = Rates()
        self._waiting: dict[Waiting, None] = {}
        self._tasks: dict[asyncio.Task[None], Entry] = {}
        self._few: defaultdict[NodeId, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_AT_ONCE)
        )

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # turns

    def wait(self, entry: Entry, model: str) -> Waiting:
        """From here until ``leave``; its KV may be fetched meanwhile."""
        waiting = Waiting(entry, ModelName(model))
        self._waiting[waiting] = None
        record = self._driver.fleet.models.get(waiting.model)
        for replica in record.replicas if record is not None else ():
            if replica.phase in RISING and not replica.is_retiring:
                self._recall_soon(waiting, replica)
        return waiting

    def leave(self, waiting: Waiting) -> None:
        self._waiting.pop(waiting, None)

    async def settled(self, entry: Entry) -> None:
        """No recall of that conversation is under way any more."""
        under_way = [task for task, whose in self._tasks.items() if whose is entry]
        if under_way:
            await asyncio.wait(under_way)

    def stays_near(self, entry: Entry, model: str, replica: str) -> bool:
        """Whether computing what the host tier of its node lacks is sooner than fetching it."""
        known = self._driver.fleet.replicas.get(ReplicaId(replica))
        if known is None or known.place is None:
            return False
        is_sooner = is_computed_sooner(*self._seconds(entry, ModelName(model), known.place.node))
        if is_sooner:
            self._counts.recalled(model, RecallOutcome.COMPUTED, 0, 0.0)
        return is_sooner

    def began(self, model: str, found: bytes, seconds: float) -> None:
        """The first of a stream came ``seconds`` after it was asked for."""
        told = PromptFound.parse(found)
        if told is not None and told.tier in _OWN_TIERS:
            self._rates.computed(ModelName(model), told.computed, seconds, self._driver.now())

    # the fleet

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        for command in commands:
            if isinstance(command, WakeEngine | StartEngine):
                replica = fleet.replicas[command.replica]
                for waiting in [w for w in self._waiting if w.model == replica.model]:
                    self._recall_soon(waiting, replica)

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        return None

    def exported(self, model: str, export: KVExport) -> None:
        return None

    # recalls

    def _recall_soon(self, waiting: Waiting, replica: Replica) -> None:
        place = self._place(waiting, replica)
        if place is None or waiting.is_recalled:
            return
        head_start_s = self._driver.fleet.outlook(waiting.model).estimate_s
        fetch_s, compute_s = self._seconds(waiting.entry, waiting.model, NodeId(place.node))
        if is_worth_fetching(fetch_s, compute_s, head_start_s):
            waiting.is_recalled = True
            task = asyncio.get_running_loop().create_task(self._recall(waiting, place))
            self._tasks[task] = waiting.entry
            task.add_done_callback(self._tasks.pop)

    def _place(self, waiting: Waiting, replica: Replica) -> KVPlace | None:
        """Where its engine will look; None: no KV on record is of use to it."""
        spec = self._driver.engines.get(waiting.model)
        place = waiting.entry.record.place
        if place is None or replica.place is None or spec is None or place.path != spec.path:
            return None
        return replace(place, node=replica.place.node)

    async def _recall(self, waiting: Waiting, place: KVPlace) -> None:
        outcome, placed = RecallOutcome.FAILED, None
        try:
            async with self._few[NodeId(place.node)]:
                if waiting in self._waiting:
                    placed = await self._carry_out(waiting, place)
                    is_whole = placed is not None and placed.in_host == placed.objects
                    outcome = RecallOutcome.FETCHED if is_whole else RecallOutcome.PARTLY
                else:
                    outcome = RecallOutcome.LATE
        except (EngineError, RecordsUnavailable) as error:
            log.info("the KV of a waiting turn: %s", error)
        except Exception:
            log.exception("the KV of a waiting turn")
        moved = (placed.moved_bytes, placed.moved_s) if placed is not None else (0, 0.0)
        self._counts.recalled(waiting.model, outcome, *moved)

    async def _carry_out(self, waiting: Waiting, place: KVPlace) -> Placed | None:
        prefix = await self._records.prefix(waiting.entry.record)
        if prefix is None:
            return None
        placed = await self._orders.carry_out(place, KVOrder.RECALL, prefix)
        at, size = self._driver.now(), placed.objects * placed.object_bytes
        self._rates.fetched(NodeId(place.node), placed.moved_bytes, placed.moved_s, at)
        self._rates.sized(waiting.model, size, len(prefix.tokens))
        return placed

    def _seconds(
        self, entry: Entry, model: ModelName, node: NodeId
    ) -> tuple[float | None, float | None]:
        """To fetch all of its KV, and to compute it."""
        at, tokens = self._driver.now(), entry.record.tokens
        fetch_s = self._rates.fetch_s(node, model, tokens, at)
        return fetch_s, self._rates.compute_s(model, tokens, at)
