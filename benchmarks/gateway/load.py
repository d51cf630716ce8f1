"""The load generator's process: closed loops on many connections, or one by one in pairs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import uvloop
from pydantic import TypeAdapter

from benchmarks.gateway.children import tell
from benchmarks.gateway.client import Connection, Target


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """One target: a closed loop on it. Several: one request to each by turns, one at a time."""

    targets: tuple[Target, ...]
    connections: int = 1
    requests: int = 0
    """To each target; 0: as many as there is time for."""
    seconds: float = 0.0
    events: int = 0
    """Of each stream; 0: whole answers."""


@dataclass(slots=True)
class Heard:
    """What came back. Times in seconds."""

    took_s: float = 0.0
    answers_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    events: int = 0
    reads: int = 0

    def note(self, connection: Connection) -> None:
        self.answers_s.append(perf_counter() - connection.asked_at)
        self.first_s.append(connection.first_at - connection.asked_at)
        self.events += connection.events
        self.reads += connection.reads


class ClosedLoop:
    """Every connection asks again as soon as it was answered."""

    def __init__(self, order: LoadOrder) -> None:
        self._order = order
        self._heard = Heard()
        self._asked = self._running = order.connections
        self._ends = 0.0
        self._over = _over()

    async def run(self) -> list[Heard]:
        order, (target,) = self._order, self._order.targets
        open_ = [await _open(target, order, self._answered) for _ in range(order.connections)]
        began = perf_counter()
        self._ends = began + order.seconds
        for connection in open_:
            connection.ask()
        await self._over
        self._heard.took_s = perf_counter() - began
        for connection in open_:
            connection.close()
        return [self._heard]

    def _answered(self, connection: Connection) -> None:
        self._heard.note(connection)
        if self._wants_more():
            self._asked += 1
            return connection.ask()
        self._running -= 1
        if not self._running and not self._over.done():
            self._over.set_result(None)
        return None

    def _wants_more(self) -> bool:
        if self._order.requests:
            return self._asked < self._order.requests
        return perf_counter() < self._ends


async def by_turns(order: LoadOrder) -> list[Heard]:
    """One request at a time; the pairs stand at the same index."""
    heard = [Heard() for _ in order.targets]
    answered = _over()
    open_ = [
        await _open(target, order, lambda _: answered.set_result(None)) for target in order.targets
    ]
    for _ in range(order.requests):
        for connection, to in zip(open_, heard, strict=True):
            connection.ask()
            await answered
            to.note(connection)
            answered = _over()
    for connection in open_:
        connection.close()
    return heard


async def carry_out(order: LoadOrder) -> list[Heard]:
    return await (ClosedLoop(order).run() if len(order.targets) == 1 else by_turns(order))


async def _open(
    target: Target, order: LoadOrder, answered: Callable[[Connection], None]
) -> Connection:
    request = target.request(order.events > 0, max(1, order.events - 1))
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(request, answered), target.host, target.port
    )
    return connection


def _over() -> asyncio.Future[None]:
    """Fails with what a connection fails with."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not over.done():
            over.set_exception(context.get("exception") or RuntimeError(context["message"]))

    loop.set_exception_handler(failed)
    return over


if __name__ == "__main__":
    orders = TypeAdapter(LoadOrder)
    for line in sys.stdin:
        heard = uvloop.run(carry_out(orders.validate_json(line)))
        tell([asdict(one) for one in heard])
