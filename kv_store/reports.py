"""What the connector tells about each request: datagrams from vLLM's core to the engine's host.

vLLM's own way, ``kv_transfer_params`` in the response, is missing from streams and would show in
clients' answers. The core may be a thread of the receiver's process or a process of its own; a
Unix datagram reaches both. Nobody waits: a report that finds no reader is dropped.
"""

from __future__ import annotations

import json
import socket
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_LARGEST_BYTES = 4096
_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """Before a request runs: how much of its prompt the engine holds itself, how much the tier."""

    request: str
    prompt_tokens: int
    engine_tokens: int
    tier_tokens: int


@dataclass(frozen=True, slots=True)
class Stored:
    """After a request: of its ``tokens``, the first ``stored_tokens`` lie in the host tier;
    ``already_tokens`` of them lay there before."""

    request: str
    tokens: int
    stored_tokens: int
    already_tokens: int

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

    def send(self, report: Found | Stored) -> None:
        if self._address is not None:
            message = {"kind": type(report).__name__} | asdict(report)
            with suppress(OSError):
                self._socket.sendto(json.dumps(message).encode(), self._address)

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
                news.append(self._keep(json.loads(self._socket.recv(_LARGEST_BYTES))))
        return news

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _keep(self, message: dict[str, object]) -> Found | Stored:
        kind = message.pop("kind")
        if kind == "Found":
            found = Found(**message)  # type: ignore[arg-type]
            _put(self._found, found.request, found)
            return found
        stored = Stored(**message)  # type: ignore[arg-type]
        _put(self._stored, stored.request, stored)
        return stored


def _put(kept: OrderedDict[str, T], request: str, report: T) -> None:
    kept[request] = report
    while len(kept) > _KEPT:
        kept.popitem(last=False)


def _latest(kept: OrderedDict[str, T], request: str) -> T | None:
    if request in kept:
        return kept[request]
    return next((kept[name] for name in reversed(kept) if request in name), None)
