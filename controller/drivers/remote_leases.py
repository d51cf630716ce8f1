"""The Leases port in a carrier: leases are the deciding process's, asked for over its socket.

A carrier outlives the deciding process. While there is none, the responses that run go on, since
the engines send them straight to the carrier, and who waits goes on waiting: as soon as the next
one listens it is told which leases are still in use, and asked again for those that are not
granted. Who has waited in vain for ``patience_s`` by then (or for its own limit) is refused, and
may try again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from controller.core.names import NO_AFFINITY, Affinity, ModelState, Priority, RejectReason
from controller.drivers.lease_wire import (
    Ask,
    Began,
    Broken,
    Counted,
    End,
    Ended,
    FoundKV,
    FromDesk,
    Frozen,
    Granted,
    Keep,
    Link,
    Prospect,
    Rejected,
    Retried,
    Said,
    Waited,
    from_desk,
)
from controller.ports import Lease, Outlook, Refused
from workers.engine import Endpoint

_AGAIN_S = 0.1
"""Between two looks for a deciding process."""
_COUNTS_KEPT = 10_000
"""While there is none; the oldest go first."""


@dataclass(slots=True)
class _Wait:
    ask: Ask
    since: float
    asked_at: float
    """Later than ``since`` where it had to be asked again."""
    granted: asyncio.Future[Lease]


@dataclass(slots=True)
class RemoteLeases:
    """Looks for the deciding process while its context lasts."""

    socket: Path
    patience_s: float = 30.0
    known: tuple[str, ...] = ()
    """The models there are, as told with the last refusal that was about that."""
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _waits: dict[int, _Wait] = field(default_factory=dict)
    _held: dict[int, Keep] = field(default_factory=dict)
    """Each lease in use, as the next deciding process will be told of it."""
    _prospects: dict[str, Outlook] = field(default_factory=dict)
    _uncounted: deque[Counted] = field(default_factory=lambda: deque(maxlen=_COUNTS_KEPT))
    _frozen: tuple[Endpoint, ...] = ()
    _link: Link[FromDesk] | None = None
    _lost_at: float = 0.0
    _connecting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._lost_at = loop.time()
        self._connecting = loop.create_task(self._keep_connected())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._connecting is not None
        self._connecting.cancel()
        with suppress(asyncio.CancelledError):
            await self._connecting
        if self._link is not None:
            self._link.close()
        self._refuse(list(self._waits))

    # the port

    def acquire(
        self,
        model: str,
        *,
        request_id: str,
        tenant: str = "",
        max_wait_s: float | None = None,
        priority: Priority = Priority.DEFAULT,
        affinity: Affinity = NO_AFFINITY,
        can_freeze: bool = True,
    ) -> _Acquired:
        number = next(self._numbers)
        ask = Ask(number, model, request_id, tenant, max_wait_s, priority, affinity, can_freeze)
        return _Acquired(self, ask)

    def outlook(self, model: str) -> Outlook:
        """As it was told last, which is not long ago."""
        return self._prospects.get(model, Outlook("queued", 0.0))

    def frozen(self) -> Collection[Endpoint]:
        """As it was told last; while there is no deciding process, nothing thaws."""
        return self._frozen

    def report_broken(self, lease: Lease, reason: str) -> None:
        self._say(Broken(lease, reason))

    # for its own

    def begin(self, ask: Ask) -> asyncio.Future[Lease]:
        loop = asyncio.get_running_loop()
        wait = _Wait(ask, loop.time(), loop.time(), loop.create_future())
        self._waits[ask.number] = wait
        self._say(ask)
        return wait.granted

    def end(self, number: int) -> None:
        """Whether it waits or was granted; one that was refused has ended."""
        if self._waits.pop(number, None) or self._held.pop(number, None) is not None:
            self._say(End(number))

    def count(self, counted: Counted) -> None:
        if self._link is None:
            self._uncounted.append(counted)
        else:
            self._link.say(counted)

    # inside

    def _say(self, what: Said) -> None:
        """What is not heard is said anew by ``_connected``, or has no meaning any more."""
        if self._link is not None:
            self._link.say(what)

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            lost = asyncio.Event()
            try:
                link = await self._connect(lost.set)
            except OSError:
                self._refuse_overdue()
                await asyncio.sleep(_AGAIN_S)
                continue
            self._connected(link)
            await lost.wait()
            self._link, self._lost_at = None, loop.time()
            self._prospects.clear()

    async def _connect(self, lost: Callable[[], None]) -> Link[FromDesk]:
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(
            lambda: Link(from_desk, self._heard, lost), str(self.socket)
        )
        return link

    def _connected(self, link: Link[FromDesk]) -> None:
        now = asyncio.get_running_loop().time()
        self._link = link
        for held in self._held.values():
            link.say(held)
        for wait in self._waits.values():
            wait.asked_at = now
            link.say(_with_what_is_left(wait.ask, now - wait.since))
        while self._uncounted:
            link.say(self._uncounted.popleft())

    def _heard(self, message: Sequence[FromDesk]) -> None:
        for said in message:
            match said:
                case Granted(number=number, lease=lease):
                    self._granted(number, lease)
                case Rejected(number=number):
                    self.known = said.known or self.known
                    wait = self._waits.pop(number, None)
                    if wait is not None and not wait.granted.done():
                        refused = Refused(said.reason, said.detail, said.retry_after_s)
                        wait.granted.set_exception(refused)
                case Frozen(engines=engines):
                    self._frozen = engines
                case Prospect():
                    self._prospects[said.model] = Outlook(said.phase, said.estimate_s)

    def _granted(self, number: int, lease: Lease) -> None:
        wait = self._waits.pop(number, None)
        if wait is None:
            return
        self._held[number] = Keep(number, lease.replica, wait.ask.can_freeze)
        if wait.asked_at > wait.since:
            queued_s = lease.queued_s + wait.asked_at - wait.since
            lease = replace(lease, queued_s=queued_s)
        if not wait.granted.done():
            wait.granted.set_result(lease)

    def _refuse_overdue(self) -> None:
        now = asyncio.get_running_loop().time()
        overdue = [n for n, wait in self._waits.items() if now >= self._waits_until(wait)]
        self._refuse(overdue)

    def _waits_until(self, wait: _Wait) -> float:
        patient_until = max(wait.since, self._lost_at) + self.patience_s
        if wait.ask.max_wait_s is None:
            return patient_until
        return min(patient_until, wait.since + wait.ask.max_wait_s)

    def _refuse(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            granted = self._waits.pop(number).granted
            if not granted.done():
                detail = "The process that decides does not answer; it is being started."
                granted.set_exception(Refused(RejectReason.STOPPING, detail))


def _with_what_is_left(ask: Ask, waited_s: float) -> Ask:
    if ask.max_wait_s is None:
        return ask
    return msgspec.structs.replace(ask, max_wait_s=max(0.0, ask.max_wait_s - waited_s))


class _Acquired:
    """The lease of one request, while its context lasts."""

    __slots__ = ("_ask", "_leases")

    def __init__(self, leases: RemoteLeases, ask: Ask) -> None:
        self._leases = leases
        self._ask = ask

    async def __aenter__(self) -> Lease:
        try:
            return await self._leases.begin(self._ask)
        except BaseException:
            self._leases.end(self._ask.number)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leases.end(self._ask.number)


class RemoteCounts:
    """RequestCounts that are added up in the deciding process."""

    def __init__(self, leases: RemoteLeases) -> None:
        self._count = leases.count

    def request(self, model: str, route: str, status: int) -> None:
        self._count(Ended(model, route, status))

    def granted(self, model: str, state: ModelState, queued_s: float) -> None:
        self._count(Waited(model, state, queued_s))

    def first_byte(self, model: str, state: ModelState, seconds: float) -> None:
        self._count(Began(model, state, seconds))

    def retried(self, model: str) -> None:
        self._count(Retried(model))

    def kv_found(self, model: str, told: bytes) -> None:
        self._count(FoundKV(model, told))
