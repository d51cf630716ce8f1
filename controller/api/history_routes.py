"""OpenAI's Conversations API, and its Responses that were kept: as its official client speaks them.

Whatever changes a history waits in its conversation's line, as requests do. Another tenant's does
not exist for a caller.
"""

from __future__ import annotations

from secrets import token_hex
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from controller.api.audit import audited
from controller.api.errors import ApiError
from controller.api.history_lists import (
    After,
    Json,
    Kept,
    Limit,
    Order,
    conversation_view,
    fresh_items,
    item_of,
    list_of,
    metadata_of,
    page_of,
)
from controller.api.history_responses import response_routes
from controller.api.history_room import NO_MODEL, Room, key_of, tenant_of
from controller.conversation_ports import Conversations
from controller.history_ports import Histories
from kv_store.conversations import ConversationKey


class CreateBody(BaseModel):
    model_config = ConfigDict(extra="ignore")

    items: list[Any] | None = None
    metadata: dict[str, Any] | None = None


class UpdateBody(BaseModel):
    model_config = ConfigDict(extra="ignore")

    metadata: dict[str, Any] | None = None


class ItemsBody(BaseModel):
    model_config = ConfigDict(extra="ignore")

    items: Annotated[list[Any], Field(min_length=1)]


def history_routes(conversations: Conversations, histories: Histories | None) -> APIRouter:
    router = APIRouter(tags=["history"], default_response_class=Kept)
    room = Room(conversations, histories)
    _conversations(router, room)
    _items(router, room)
    response_routes(router, room)
    return router


def _conversations(router: APIRouter, room: Room) -> None:
    @router.post("/v1/conversations")
    async def create(request: Request, body: CreateBody | None = None) -> Json:
        """Of the caller's tenant; its id is made here."""
        asked = body or CreateBody()
        key = ConversationKey(tenant_of(request), f"conv_{token_hex(24)}")
        metadata, items = metadata_of(asked.metadata), fresh_items(asked.items or [], ())
        histories = room.histories
        async with room.conversations.turn(key, NO_MODEL):
            made = await histories.append(key, None, items, metadata=metadata)
        return conversation_view(key, made)

    @router.get("/v1/conversations/{conversation}")
    async def retrieve(conversation: str, request: Request) -> Json:
        key = key_of(request, conversation)
        return conversation_view(key, await room.load(key))

    @router.post("/v1/conversations/{conversation}")
    async def update(conversation: str, request: Request, body: UpdateBody) -> Json:
        key, metadata = key_of(request, conversation), metadata_of(body.metadata)
        async with room.turn(key) as history:
            return conversation_view(key, await room.histories.describe(key, history, metadata))

    @router.delete("/v1/conversations/{conversation}")
    async def delete(conversation: str, request: Request) -> Json:
        """With its items, its responses and its KV."""
        key = key_of(request, conversation)
        with audited(request.scope, "conversation.delete", "") as act:
            act.seen["conversation"] = str(key)
            done = await room.conversations.wait(room.conversations.delete(key))
            if done.status != "done":
                raise ApiError("operation_failed", f"It was not deleted: {done.error}")
        return {"id": conversation, "object": "conversation.deleted", "deleted": True}


def _items(router: APIRouter, room: Room) -> None:
    @router.get("/v1/conversations/{conversation}/items")
    async def listed(
        conversation: str,
        request: Request,
        after: After = None,
        limit: Limit = 20,
        order: Order = "desc",
    ) -> Json:
        history = await room.load(key_of(request, conversation))
        return page_of(history.items, after, limit, order)

    @router.post("/v1/conversations/{conversation}/items")
    async def add(conversation: str, request: Request, body: ItemsBody) -> Json:
        """Behind what was said so far."""
        key = key_of(request, conversation)
        async with room.turn(key) as history:
            room.check_room(history)
            items = fresh_items(body.items, history.items)
            await room.histories.append(key, history, items)
        return list_of(items, has_more=False)

    @router.get("/v1/conversations/{conversation}/items/{item}")
    async def one(conversation: str, item: str, request: Request) -> Json:
        history = await room.load(key_of(request, conversation))
        return item_of(history, item)

    @router.delete("/v1/conversations/{conversation}/items/{item}")
    async def remove(conversation: str, item: str, request: Request) -> Json:
        key = key_of(request, conversation)
        async with room.turn(key) as history:
            item_of(history, item)
            return conversation_view(key, await room.histories.remove(key, history, item))
