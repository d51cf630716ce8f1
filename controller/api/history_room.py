"""Histories as routes see them: each in its conversation's line, of the caller's tenant alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from controller.api.auth import Caller
from controller.api.errors import ApiError
from controller.api.history import not_configured
from controller.api.history_contexts import response_not_found
from controller.conversation_ports import Conversations, UnknownConversation
from controller.history_ports import Histories
from kv_store.conversations import ConversationKey
from kv_store.history import History, KeptResponse

NO_MODEL = ""
"""Of what is done to a conversation without one."""


class Room:
    """Histories, each in its conversation's turn."""

    def __init__(self, conversations: Conversations, histories: Histories | None) -> None:
        self.conversations = conversations
        self._histories = histories

    @property
    def histories(self) -> Histories:
        """Raises ApiError 400."""
        if self._histories is None:
            raise not_configured()
        return self._histories

    @asynccontextmanager
    async def turn(self, key: ConversationKey) -> AsyncIterator[History]:
        """While nobody else changes it. Raises UnknownConversation."""
        if not await self.histories.has(key):
            raise UnknownConversation(key.id)
        async with self.conversations.turn(key, NO_MODEL):
            yield await self.load(key)

    async def load(self, key: ConversationKey) -> History:
        """Raises UnknownConversation."""
        found = await self.histories.load(key)
        if found is None:
            raise UnknownConversation(key.id)
        return found

    async def response(self, request: Request, id: str) -> KeptResponse:
        """Raises ApiError 404."""
        (found,) = await self.histories.responses(tenant_of(request), [id])
        if found is None:
            raise response_not_found(id)
        return found

    def check_room(self, history: History) -> None:
        """Raises ApiError 413."""
        limits = self.histories.limits
        if history.sealed_bytes >= limits.sealed_bytes or len(history.items) >= limits.items:
            raise ApiError("history_full", "This conversation keeps as much as one may.")


def tenant_of(request: Request) -> str:
    caller: Caller = request.scope["torpor.caller"]
    return caller.tenant


def key_of(request: Request, conversation: str) -> ConversationKey:
    return ConversationKey(tenant_of(request), conversation)
