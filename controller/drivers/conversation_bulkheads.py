"""Waiting at the bulkheads (``core.bulkheads``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from controller.conversation_ports import ConversationRefused
from controller.core.bulkheads import Answer, Bulkheads
from controller.drivers.conversation_entries import RETRY_AFTER_S


class LiveBulkheads:
    def __init__(self, bulkheads: Bulkheads) -> None:
        self._bulkheads = bulkheads
        self._waiting: dict[int, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def passed(self, ticket: int, model: str, tenant: str) -> AsyncIterator[None]:
        """Once there is room. Raises ConversationRefused: too many wait already."""
        answer = self._bulkheads.enter(ticket, model, tenant)
        if answer is Answer.REFUSED:
            message = f"{self._bulkheads.waiting()} conversations wait for others to end."
            raise ConversationRefused("conversations_busy", message, RETRY_AFTER_S)
        try:
            if answer is Answer.WAITS:
                await self._admitted(ticket)
            yield
        finally:
            for other in self._bulkheads.leave(ticket):
                self._let_in(other)

    async def _admitted(self, ticket: int) -> None:
        admitted = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        try:
            await admitted
        finally:
            del self._waiting[ticket]

    def _let_in(self, ticket: int) -> None:
        """One whose client has just left gives its place on when it leaves, too."""
        admitted = self._waiting.get(ticket)
        if admitted is not None and not admitted.done():
            admitted.set_result(None)
