"""What a carrier and the deciding process say to each other, and how it goes over their socket.

What either side says in one turn of its loop goes as one message: four bytes of length, then the
list of what was said, in its order, as MessagePack. Both sides are of one installation, so there
is no version in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

import msgspec

from controller.core.names import NO_AFFINITY, Affinity, ModelState, Priority, RejectReason
from controller.ports import Lease
from workers.engine import Endpoint

_LENGTH_BYTES = 4


class Said(msgspec.Struct, array_like=True, gc=False):
    """The common shape."""


# a carrier says


class Ask(Said, tag=0):
    """A request wants a lease. ``number``: the carrier's own, never given twice."""

    number: int
    model: str
    request_id: str
    tenant: str
    max_wait_s: float | None
    priority: Priority = Priority.DEFAULT
    affinity: Affinity = NO_AFFINITY
    can_freeze: bool = True


class End(Said, tag=1):
    """The request's claim ends, whether it waits or was granted."""

    number: int


class Keep(Said, tag=2):
    """A lease that another deciding process granted, or this one before the socket broke, is
    still in use."""

    number: int
    replica: str
    can_freeze: bool = True


class Broken(Said, tag=3):
    lease: Lease
    reason: str


class Ended(Said, tag=4):
    """To be counted, as are all that follow: see ``RequestCounts``."""

    model: str
    route: str
    status: int


class Waited(Said, tag=5):
    model: str
    state: ModelState
    queued_s: float


class Began(Said, tag=6):
    model: str
    state: ModelState
    seconds: float


class Retried(Said, tag=7):
    model: str


class FoundKV(Said, tag=8):
    model: str
    told: bytes


Counted = Ended | Waited | Began | Retried | FoundKV
FromCarrier = Ask | End | Keep | Broken | Counted


# the deciding process says


class Granted(Said, tag=0):
    number: int
    lease: Lease


class Rejected(Said, tag=1):
    number: int
    reason: RejectReason
    detail: str
    retry_after_s: float | None
    known: tuple[str, ...] = ()
    """The models there are, for who asked for another."""


class Prospect(Said, tag=2):
    """How it stands with a model that a request of this carrier waits for."""

    model: str
    phase: str
    estimate_s: float


class Frozen(Said, tag=3):
    """All engines whose requests are, whenever that changes and when a carrier comes."""

    engines: tuple[Endpoint, ...]


FromDesk = Granted | Rejected | Prospect | Frozen

from_carrier: msgspec.msgpack.Decoder[list[FromCarrier]] = msgspec.msgpack.Decoder(
    list[FromCarrier]
)
from_desk: msgspec.msgpack.Decoder[list[FromDesk]] = msgspec.msgpack.Decoder(list[FromDesk])
_encoder = msgspec.msgpack.Encoder()

Heard = TypeVar("Heard")


class Link(asyncio.Protocol, Generic[Heard]):
    """One end of the socket."""

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[list[Heard]],
        heard: Callable[[Sequence[Heard]], None],
        lost: Callable[[], None],
        met: Callable[[], None] = lambda: None,
    ) -> None:
        """``met`` is called once, when something can be said, ``heard`` with each message,
        ``lost`` once, at the end."""
        self._decoder = decoder
        self._heard = heard
        self._lost = lost
        self._met = met
        self._unsaid: list[Said] = []
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._met()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES], "big")
            if len(buffer) < end:
                return
            message = bytes(buffer[_LENGTH_BYTES:end])
            del buffer[:end]
            self._heard(self._decoder.decode(message))

    def say(self, what: Said) -> None:
        """With whatever else is said in this turn of the loop."""
        if not self._unsaid:
            self._loop.call_soon(self._flush)
        self._unsaid.append(what)

    def close(self) -> None:
        """After what was said."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        if unsaid and not self._transport.is_closing():
            message = _encoder.encode(unsaid)
            self._transport.write(len(message).to_bytes(_LENGTH_BYTES, "big") + message)
