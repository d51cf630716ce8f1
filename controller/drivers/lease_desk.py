"""Where carriers take their leases: the other end of ``remote_leases``, in the deciding process.

A carrier is its connection: when that ends, its waits are withdrawn and its leases released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from controller.core.names import RejectReason
from controller.drivers.lease_wire import (
    Ask,
    Began,
    Broken,
    Counted,
    End,
    Ended,
    FoundKV,
    FromCarrier,
    Frozen,
    Granted,
    Keep,
    Link,
    Prospect,
    Rejected,
    Retried,
    Waited,
    from_carrier,
)
from controller.drivers.leases import Claim, LiveLeases
from controller.ports import Refused, RequestCounts

_TELL_S = 0.5
"""How old an outlook becomes. A waiting stream is told one every second."""

Known = Callable[[], tuple[str, ...]]


class LeaseDesk:
    """Listens from open() to close()."""

    def __init__(self, leases: LiveLeases, counts: RequestCounts, known: Known) -> None:
        """``known``: the models there are."""
        self.leases = leases
        self.counts = counts
        self.known = known
        self.carriers: set[_Carrier] = set()
        self._is_left = asyncio.Event()
        leases.when_frozen(self._tell_frozen)

    async def open(self, socket: Path) -> None:
        """Where nobody listens; a socket file that a dead process left there is replaced."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Carrier(self).link, str(socket))

    async def close(self, within_s: float) -> None:
        """Takes no more carriers, and returns when those that are there have gone."""
        self._server.close()
        self._look()
        try:
            async with asyncio.timeout(within_s):
                await self._is_left.wait()
        except TimeoutError:
            for carrier in list(self.carriers):
                carrier.link.close()

    def left(self, carrier: _Carrier) -> None:
        self.carriers.discard(carrier)
        self._look()

    def _tell_frozen(self) -> None:
        for carrier in self.carriers:
            carrier.tell_frozen()

    def _look(self) -> None:
        if not self.carriers:
            self._is_left.set()


class _Carrier:
    """What one carrier asked for and has not ended."""

    def __init__(self, desk: LeaseDesk) -> None:
        desk.carriers.add(self)
        self.link: Link[FromCarrier] = Link(from_carrier, self._heard, self._lost, self._met)
        self._desk = desk
        self._is_met = False
        self._claims: dict[int, Claim] = {}
        self._waiting: dict[int, str] = {}
        """The model that each claim waits for."""
        self._timer: asyncio.TimerHandle | None = None

    def tell_frozen(self) -> None:
        if self._is_met:
            self.link.say(Frozen(tuple(self._desk.leases.frozen())))

    def _met(self) -> None:
        self._is_met = True
        self.tell_frozen()

    def _heard(self, message: Sequence[FromCarrier]) -> None:
        new_waits = False
        for said in message:
            match said:
                case Ask():
                    new_waits |= self._asked(said)
                case End(number=number):
                    self._waiting.pop(number, None)
                    claim = self._claims.pop(number, None)
                    if claim is not None:
                        claim.end()
                case Keep():
                    request_id = f"kept-{said.number}"
                    self._claims[said.number] = self._desk.leases.kept(
                        said.replica, request_id, said.can_freeze
                    )
                case Broken():
                    self._desk.leases.report_broken(said.lease, said.reason)
                case _:
                    _add(self._desk.counts, said)
        if new_waits:
            self._tell()

    def _asked(self, ask: Ask) -> bool:
        """Whether it has to wait."""
        claim = self._desk.leases.acquire(
            ask.model,
            request_id=ask.request_id,
            tenant=ask.tenant,
            max_wait_s=ask.max_wait_s,
            priority=ask.priority,
            affinity=ask.affinity,
            can_freeze=ask.can_freeze,
        )
        self._claims[ask.number] = claim
        granted = claim.begin()
        if granted.done():
            self._answer(ask.number)
            return False
        self._waiting[ask.number] = ask.model
        granted.add_done_callback(lambda _: self._answer(ask.number))
        return True

    def _answer(self, number: int) -> None:
        self._waiting.pop(number, None)
        claim = self._claims.get(number)
        if claim is None:
            return
        try:
            lease = claim.lease()
        except Refused as refused:
            del self._claims[number]
            self.link.say(self._rejected(number, refused))
        else:
            self.link.say(Granted(number, lease))

    def _rejected(self, number: int, refused: Refused) -> Rejected:
        is_unknown = refused.reason is RejectReason.UNKNOWN_MODEL
        known = self._desk.known() if is_unknown else ()
        return Rejected(number, refused.reason, refused.detail, refused.retry_after_s, known)

    def _tell(self) -> None:
        """How it stands with all that is waited for; again and again while anything is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waits = [m for n, m in self._waiting.items() if not self._claims[n].granted.done()]
        for model in dict.fromkeys(waits):
            outlook = self._desk.leases.outlook(model)
            self.link.say(Prospect(model, outlook.phase, outlook.estimate_s))
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_TELL_S, self._tell)

    def _lost(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        claims = list(self._claims.values())
        self._claims.clear()
        self._waiting.clear()
        for claim in claims:
            claim.end()
        self._desk.left(self)


def _add(counts: RequestCounts, said: Counted) -> None:
    match said:
        case Ended():
            counts.request(said.model, said.route, said.status)
        case Waited():
            counts.granted(said.model, said.state, said.queued_s)
        case Began():
            counts.first_byte(said.model, said.state, said.seconds)
        case Retried():
            counts.retried(said.model)
        case FoundKV():
            counts.kv_found(said.model, said.told)
