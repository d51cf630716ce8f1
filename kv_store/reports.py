"""What the connector tells about each request: datagrams from vLLM's core to the engine's host.

vLLM's own way, ``kv_transfer_params`` in the response, is missing from streams and would show in
clients' answers. The core may be a thread of the receiver's process or a process of its own; a
Unix datagram reaches both. Nobody waits: a report that finds no reader is dropped.

A request whose id has ``WITH_TOKENS`` in it also tells its tokens, as they are, behind the JSON of
``Stored``: whoever serves conversations cannot prefetch or delete KV without them, and only the
engine knows them. Of a longer one the first ``MOST_TOKENS`` are told: they still name the KV of
its beginning, and a datagram has a bound.
"""

from __future__ import annotations

import json
import socket
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

WITH_TOKENS = "-turn-"
NEAR = "-near-"
"""In a request's id: what is not in the host tier is computed (``kv_store.server_recall``)."""
MOST_TOKENS = 65_536
_UINT32 = "I"
_HEADER_BYTES = 4096
_LARGEST_BYTES = _HEADER_BYTES + MOST_TOKENS * array(_UINT32).itemsize
_SEND_BUFFER_BYTES = 1 << 20
_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """Before a request runs: how much of its prompt the engine holds itself, how much the tier, and
    ``why`` (``kv_store.found``) the rest is computed that may lie there."""

    request: str
    prompt_tokens: int
    engine_tokens: int
    tier_tokens: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """After a request: of its ``tokens``, the first ``stored_tokens`` lie in the host tier;
    ``already_tokens`` of them lay there before."""

    request: str
    tokens: int
    stored_tokens: int
    already_tokens: int
    ranks: int = 1
    """Each of which stored a part of every token's KV."""
    token_ids: Sequence[int] = field(default=(), repr=False)
    """Of the whole request, answer included, where it was to tell them."""

    def up_to(self, first_not_stored: int | None) -> Stored:
        if first_not_stored is None:
            return self
        return replace(self, stored_tokens=min(self.stored_tokens, first_not_stored))


class Reporter:
    """Sends; ``address`` is the receiver's path, None for nobody."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def send(self, report: Found | Stored) -> None:
        if self._address is not None:
            with suppress(OSError):
                self._socket.sendto(_packed(report), self._address)

    def close(self) -> None:
        self._socket.close()


class Reports:
    """Receives at ``path``. ``found`` and ``stored`` answer by vLLM's request id or by a part of
    it: vLLM builds its ids around the ``X-Request-Id`` that it is given."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        self.on_tokens: Callable[[Stored], None] = lambda stored: None
        """Told of each report that has tokens, which are not kept here."""

    def found(self, request: str) -> Found | None:
        self.receive()
        return _latest(self._found, request)

    def stored(self, request: str) -> Stored | None:
        self.receive()
        return _latest(self._stored, request)

    def fileno(self) -> int:
        """Readable when there is something to ``receive``."""
        return self._socket.fileno()

    def receive(self) -> list[Found | Stored]:
        """What has come since; it is also kept for ``found`` and ``stored``."""
        news: list[Found | Stored] = []
        with suppress(BlockingIOError):
            while True:
                news.append(self._keep(_unpacked(self._socket.recv(_LARGEST_BYTES))))
        return news

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _keep(self, report: Found | Stored) -> Found | Stored:
        if isinstance(report, Found):
            _put(self._found, report.request, report)
        else:
            if report.token_ids:
                self.on_tokens(report)
            _put(self._stored, report.request, replace(report, token_ids=()))
        return report


def _packed(report: Found | Stored) -> bytes:
    """One line of JSON, then the tokens, four bytes each: both ends are on one machine."""
    ids: Sequence[int] = ()
    if isinstance(report, Stored):
        ids, report = report.token_ids[:MOST_TOKENS], replace(report, token_ids=())
    message = {"kind": type(report).__name__} | asdict(report)
    message.pop("token_ids", None)
    return json.dumps(message).encode() + b"\n" + array(_UINT32, ids).tobytes()


def _unpacked(datagram: bytes) -> Found | Stored:
    header, _, packed = datagram.partition(b"\n")
    message = json.loads(header)
    if message.pop("kind") == "Found":
        return Found(**message)
    return Stored(**message, token_ids=tuple(array(_UINT32, packed)))


def _put(kept: OrderedDict[str, T], request: str, report: T) -> None:
    kept[request] = report
    while len(kept) > _KEPT:
        kept.popitem(last=False)


def _latest(kept: OrderedDict[str, T], request: str) -> T | None:
    if request in kept:
        return kept[request]
    return next((kept[name] for name in reversed(kept) if request in name), None)
