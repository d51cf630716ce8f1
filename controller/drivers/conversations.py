"""The Conversations port: lines of ``core.conversations``, whose acts are carried out in tasks.

Nothing here fails a request: with the records or the tier away a turn is answered as ever, only
less is known of it afterwards. Residency is recorded before KV is touched and after it was, so
that a controller which is killed in between leaves no false promise.

Orders to the tier are few at a time: hibernating thousands of idle conversations must not keep
it from serving.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from itertools import count

from controller.conversation_ports import (
    ConversationFilter,
    ConversationPage,
    ConversationRefused,
    ConversationView,
)
from controller.core.conversations import Act, Begin, Finish, Job, Outcome, Residency, Step
from controller.drivers.conversation_bulkheads import LiveBulkheads
from controller.drivers.conversation_entries import RETRY_AFTER_S, Entries, Entry
from controller.drivers.conversation_keeping import Keeping
from controller.drivers.conversation_reaper import Reaper
from controller.drivers.operations import Operations
from controller.drivers.recalls import Recalls
from controller.drivers.settling import Settling
from controller.ports import OperationView
from kv_store.conversations import ConversationKey, RecordsUnavailable
from kv_store.turns import TurnTold
from workers.engine import EngineError

log = logging.getLogger("torpor.conversations")

_ORDERS_AT_ONCE = 8

Publish = Callable[[str, dict[str, object]], None]


class LiveConversations:
    def __init__(
        self,
        entries: Entries,
        keeping: Keeping,
        recalls: Recalls,
        operations: Operations,
        publish: Publish,
    ) -> None:
        self.entries = entries
        self.keeping = keeping
        self._recalls = recalls
        self._operations = operations
        self._publish = publish
        self._tickets = count(1)
        self._turns: dict[int, asyncio.Future[None]] = {}
        """Of those who wait for their turn, by ticket."""
        self._ends: dict[int, asyncio.Future[str]] = {}
        """Of acts that have not ended, by ticket: why it failed, or empty."""
        self._names: dict[int, str] = {}
        """Their operations."""
        self._bulkheads = LiveBulkheads(entries.bulkheads)
        self._few = asyncio.Semaphore(_ORDERS_AT_ONCE)
        self._settling = Settling()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        await self.keeping.open()
        reaper = Reaper(self.entries, lambda entry, act: self._ends[self._ask(entry, act)])
        self._spawn(reaper.reap())

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._recalls.close()
        await self.keeping.close()

    # turns

    @asynccontextmanager
    async def turn(self, key: ConversationKey, model: str) -> AsyncIterator[LiveTurn]:
        entry = self.entries.get_or_create(key, model)
        limit = self.entries.limits.waiting
        if entry.line.turns_waiting >= limit and entry.line.doing is not None:
            message = f"{limit} requests already wait in this conversation."
            raise ConversationRefused("conversation_busy", message, RETRY_AFTER_S)
        ticket = await self._begun(entry)
        turn = LiveTurn(self.keeping, self._recalls, self._settling, entry, model)
        try:
            async with self._admitted(ticket, model, key.tenant):
                yield turn
        finally:
            turn.leave()
            self._end(entry, ticket, turn.outcome)
            self._settling.settled(key)

    def _admitted(self, ticket: int, model: str, tenant: str) -> AbstractAsyncContextManager[None]:
        """What is done without a model (a history is edited) is no live conversation."""
        return self._bulkheads.passed(ticket, model, tenant) if model else nullcontext()

    async def _begun(self, entry: Entry) -> int:
        before = entry.line.residency
        job = Job(next(self._tickets), Act.TURN)
        began = self._turns[job.ticket] = asyncio.get_running_loop().create_future()
        self._follow(entry, entry.line.ask(job)[1])
        try:
            await began
            if entry.line.residency is not before:
                await self.keeping.save(entry)
        except BaseException:
            if not entry.line.withdraw(job.ticket):
                self._end(entry, job.ticket, Outcome.UNTOUCHED)
            raise
        finally:
            del self._turns[job.ticket]
        return job.ticket

    # orders

    def operation(self, operation: str) -> OperationView:
        return self._operations.view(operation, _now())

    async def wait(self, operation: str) -> OperationView:
        await self._operations.wait(operation)
        return self.operation(operation)

    def hibernate(self, key: ConversationKey) -> str:
        return self._order(key, Act.HIBERNATE)

    def rehydrate(self, key: ConversationKey) -> str:
        return self._order(key, Act.REHYDRATE)

    def reset(self, key: ConversationKey) -> str:
        return self._order(key, Act.RESET)

    def delete(self, key: ConversationKey) -> str:
        return self._order(key, Act.DELETE)

    def hibernate_all(self, of: ConversationFilter) -> tuple[str, int]:
        chosen = list(self.entries.seen(replace(of, residency=Residency.IN_MEMORY.name)))
        operation = self._operations.begin("hibernate", (of.model or "*",), _now())
        ends = [self._ends[self._ask(entry, Act.HIBERNATE)] for entry in chosen]
        self._spawn(self._await_all(operation, ends))
        return operation, len(chosen)

    async def _await_all(self, operation: str, ends: list[asyncio.Future[str]]) -> None:
        failed = [why for why in await asyncio.gather(*ends) if why]
        why = f"{len(failed)} of {len(ends)} failed: {failed[0]}" if failed else ""
        self._operations.finish(operation, why, _now())

    def _order(self, key: ConversationKey, act: Act) -> str:
        entry = self.entries.get(key)
        ticket = self._ask(entry, act)
        if ticket not in self._names:
            name = self._operations.begin(act.value, (entry.record.model,), _now())
            self._names[ticket] = name

            def ended(end: asyncio.Future[str]) -> None:
                del self._names[ticket]
                self._operations.finish(name, end.result(), _now())

            self._ends[ticket].add_done_callback(ended)
        return self._names[ticket]

    def _ask(self, entry: Entry, act: Act) -> int:
        """The ticket of the act that will do it; its end comes later than this returns."""
        job = Job(next(self._tickets), act)
        done_by, steps = entry.line.ask(job)
        if done_by is job:
            self._ends[job.ticket] = asyncio.get_running_loop().create_future()
        self._follow(entry, steps)
        return done_by.ticket

    async def _carry_out(self, entry: Entry, job: Job) -> None:
        why, outcome = "", Outcome.UNTOUCHED
        try:
            async with self._few:
                await self._recalls.settled(entry)
                prefix = await self.keeping.prefix(entry, job.act)
                outcome = Outcome.UNSURE
                await self.keeping.carry_out(entry, job.act, prefix)
            outcome = Outcome.DONE
        except (EngineError, RecordsUnavailable) as error:
            why = f"{type(error).__name__}: {error}"
        except Exception as error:
            log.exception("%s of a conversation", job.act.value)
            why = type(error).__name__
        self._end(entry, job.ticket, outcome)
        await self.keeping.save(entry)
        self._tell(entry, job.act, why)
        self._ends.pop(job.ticket).set_result(why)

    # lines

    def _follow(self, entry: Entry, steps: list[Step]) -> None:
        for step in steps:
            match step:
                case Begin(job) if job.act is Act.TURN:
                    began = self._turns[job.ticket]
                    if not began.done():
                        began.set_result(None)
                case Begin(job):
                    self._spawn(self._carry_out(entry, job))
                case Finish(job):
                    asyncio.get_running_loop().call_soon(self._nothing_to_do, job.ticket)

    def _nothing_to_do(self, ticket: int) -> None:
        self._ends.pop(ticket).set_result("")

    def _end(self, entry: Entry, ticket: int, outcome: Outcome) -> None:
        self._follow(entry, entry.line.ended(ticket, outcome))
        if entry.line.is_over or entry.is_blank:
            self.entries.remove(entry)
        elif entry.line.is_deleted:
            self.entries.renew(entry)

    # looking

    def view(self, key: ConversationKey) -> ConversationView:
        return self.entries.get(key).view(time.time())

    async def look(self, key: ConversationKey) -> ConversationView:
        await self._settling.one(key)
        entry = self.entries.get(key)
        await self.keeping.look(entry)
        return entry.view(time.time())

    async def page(self, of: ConversationFilter, *, after: int, limit: int) -> ConversationPage:
        await self._settling.all_of(of.tenant)
        return self.entries.page(of, after=after, limit=limit)

    def _tell(self, entry: Entry, act: Act, why: str) -> None:
        told: dict[str, object] = {
            "conversation": entry.key.id,
            "tenant": entry.key.tenant,
            "model": entry.record.model,
            "act": act.value,
            "residency": entry.line.residency.name,
            "error": why,
        }
        self._publish("conversation", told)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class LiveTurn:
    """One request's turn, while its context lasts."""

    def __init__(
        self, keeping: Keeping, recalls: Recalls, settling: Settling, entry: Entry, model: str
    ) -> None:
        self.outcome = Outcome.UNTOUCHED
        self._keeping = keeping
        self._recalls = recalls
        self._settling = settling
        self._entry = entry
        self._model = model
        self._waiting = recalls.wait(entry, model)
        self._reached = _now()

    def stays_near(self, replica: str) -> bool:
        return self._recalls.stays_near(self._entry, self._model, replica)

    @property
    def home(self) -> str:
        return self._entry.record.replica

    def reaches(self) -> None:
        self.outcome = Outcome.UNSURE
        self._reached = _now()
        self.leave()

    def began(self, found: bytes) -> None:
        self._recalls.began(self._model, found, _now() - self._reached)

    def leave(self) -> None:
        """It waits for no engine."""
        self._recalls.leave(self._waiting)

    def answered(self) -> None:
        self._settling.answered(self._entry.key)

    async def spoke(self, replica: str, salt: str, found: bytes, told: TurnTold | None) -> None:
        place = self._keeping.place(replica, salt) if told is not None else None
        if told is None or place is None:
            return await self._keeping.answered(self._entry, self._model, replica, found)
        place = replace(place, world_size=told.ranks)
        await self._keeping.took_place(self._entry, self._model, replica, found, place, told)
        self.outcome = Outcome.DONE
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
