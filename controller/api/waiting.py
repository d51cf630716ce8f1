"""While a request waits or runs: tell a streaming client how it stands, notice when it leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from controller.api.client_exchange import ClientExchange
from controller.api.reply import Reply, Stage
from controller.ports import Outlook, UnknownModel

log = logging.getLogger("torpor.api")


class Heartbeat:
    """Comments to a waiting stream: the first after ``every_s``, then at that interval.

    A request that is granted sooner costs one timer and no task. ``every_s`` None: say nothing.
    """

    def __init__(self, reply: Reply, outlook: Callable[[], Outlook], every_s: float | None) -> None:
        self._reply = reply
        self._outlook = outlook
        self._every_s = every_s
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._every_s is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._every_s, self._spawn, self._every_s)

    async def stop(self) -> None:
        """Returns when nothing more will be sent from here."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            # wait() leaves a cancellation of the caller alone, which awaiting the task would not.
            await asyncio.wait({self._task})
            if not self._task.cancelled() and (error := self._task.exception()) is not None:
                log.warning("a waiting stream could not be told how it stands: %r", error)
        self._timer = self._task = None

    def _spawn(self, every_s: float) -> None:
        self._task = asyncio.get_running_loop().create_task(self._beat(every_s))

    async def _beat(self, every_s: float) -> None:
        while True:
            try:
                outlook = self._outlook()
            except UnknownModel:
                outlook = Outlook("queued", 0.0)
            await self._reply.comment(outlook)
            await asyncio.sleep(every_s)


class ClientWatch:
    """Cancels what runs inside it when the client leaves, and then swallows the cancellation;
    ``is_gone`` tells. After the response has ended, leaving does not matter any more."""

    def __init__(self, client: ClientExchange, reply: Reply) -> None:
        self.is_gone = False
        self._client = client
        self._reply = reply

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._client.when_gone = self._leave
        if self._client.is_gone:
            self._leave()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._client.when_gone = None
        if not self.is_gone:
            return False
        self._task.uncancel()
        return kind is not None and issubclass(kind, asyncio.CancelledError)

    def _leave(self) -> None:
        if self._reply.stage is not Stage.ENDED and not self.is_gone:
            self.is_gone = True
            self._task.cancel()
