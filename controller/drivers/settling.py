"""Turns whose clients have their answer, while the record of it is still being written.

An engine tells what a turn left behind once the answer has ended (``kv_store.turns``), so the
record comes some milliseconds later than the answer does. Who has read an answer and then looks
expects to see that turn; whoever looks waits here first, and for no longer than ``LIMIT_S``: an
engine that does not tell must not keep a page from being shown.
"""

from __future__ import annotations

import asyncio

from kv_store.conversations import ConversationKey

LIMIT_S = 2.0


class Settling:
    def __init__(self) -> None:
        self._under_way: dict[ConversationKey, asyncio.Future[None]] = {}

    def answered(self, key: ConversationKey) -> None:
        """Its client is about to have the end of the answer."""
        if key not in self._under_way:
            self._under_way[key] = asyncio.get_running_loop().create_future()

    def settled(self, key: ConversationKey) -> None:
        """The turn has ended, answered or not: more of it will never be on record."""
        if (settled := self._under_way.pop(key, None)) is not None:
            settled.set_result(None)

    async def one(self, key: ConversationKey) -> None:
        if (settled := self._under_way.get(key)) is not None:
            await asyncio.wait([settled], timeout=LIMIT_S)

    async def all_of(self, tenant: str | None) -> None:
        """None: of every tenant."""
        settled = [at for key, at in self._under_way.items() if tenant in (None, key.tenant)]
        if settled:
            await asyncio.wait(settled, timeout=LIMIT_S)
