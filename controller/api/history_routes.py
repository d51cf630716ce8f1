"""OpenAI's Conversations API, and its Responses that were kept: as its official client speaks them.

Whatever changes a history waits in its conversation's line, as requests do. Another tenant's does
not exist for a caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from controller.api.audit import audited
from controller.api.auth import Caller
from controller.api.errors import ApiError
from controller.api.history import not_configured
from controller.api.history_contexts import chain_of, response_not_found, turn_of
from controller.api.history_items import identified, invalid, items_of_input
from controller.conversation_ports import Conversations, UnknownConversation
from controller.history_ports import Histories
from kv_store.conversations import ConversationKey
from kv_store.history import History, Item, KeptResponse

_AT_ONCE = 20
_PAIRS, _NAME_LENGTH, _VALUE_LENGTH = 16, 64, 512
_NO_MODEL = ""
Json = dict[str, Any]

After = Annotated[str | None, Query(description="The id of an item: begin behind it.")]
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Annotated[Literal["asc", "desc"], Query()]


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
    router = APIRouter(tags=["history"])
    room = _Room(conversations, histories)
    _conversations(router, room)
    _items(router, room)
    _responses(router, room)
    return router


class _Room:
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
        async with self.conversations.turn(key, _NO_MODEL):
            yield await self.load(key)

    async def load(self, key: ConversationKey) -> History:
        """Raises UnknownConversation."""
        found = await self.histories.load(key)
        if found is None:
            raise UnknownConversation(key.id)
        return found

    async def response(self, request: Request, id: str) -> KeptResponse:
        """Raises ApiError 404."""
        (found,) = await self.histories.responses(_tenant(request), [id])
        if found is None:
            raise response_not_found(id)
        return found

    def check_room(self, history: History) -> None:
        """Raises ApiError 413."""
        limits = self.histories.limits
        if history.sealed_bytes >= limits.sealed_bytes or len(history.items) >= limits.items:
            raise ApiError("history_full", "This conversation keeps as much as one may.")


def _conversations(router: APIRouter, room: _Room) -> None:
    @router.post("/v1/conversations")
    async def create(request: Request, body: CreateBody | None = None) -> Json:
        """Of the caller's tenant; its id is made here."""
        asked = body or CreateBody()
        key = ConversationKey(_tenant(request), f"conv_{token_hex(24)}")
        metadata, items = _metadata(asked.metadata), _fresh(asked.items or [], ())
        histories = room.histories
        async with room.conversations.turn(key, _NO_MODEL):
            made = await histories.append(key, None, items, metadata=metadata)
        return _conversation(key, made)

    @router.get("/v1/conversations/{conversation}")
    async def retrieve(conversation: str, request: Request) -> Json:
        key = _key(request, conversation)
        return _conversation(key, await room.load(key))

    @router.post("/v1/conversations/{conversation}")
    async def update(conversation: str, request: Request, body: UpdateBody) -> Json:
        key, metadata = _key(request, conversation), _metadata(body.metadata)
        async with room.turn(key) as history:
            return _conversation(key, await room.histories.describe(key, history, metadata))

    @router.delete("/v1/conversations/{conversation}")
    async def delete(conversation: str, request: Request) -> Json:
        """With its items, its responses and its KV."""
        key = _key(request, conversation)
        with audited(request.scope, "conversation.delete", "") as act:
            act.seen["conversation"] = str(key)
            done = await room.conversations.wait(room.conversations.delete(key))
            if done.status != "done":
                raise ApiError("operation_failed", f"It was not deleted: {done.error}")
        return {"id": conversation, "object": "conversation.deleted", "deleted": True}


def _items(router: APIRouter, room: _Room) -> None:
    @router.get("/v1/conversations/{conversation}/items")
    async def listed(
        conversation: str,
        request: Request,
        after: After = None,
        limit: Limit = 20,
        order: Order = "desc",
    ) -> Json:
        history = await room.load(_key(request, conversation))
        return _page(history.items, after, limit, order)

    @router.post("/v1/conversations/{conversation}/items")
    async def add(conversation: str, request: Request, body: ItemsBody) -> Json:
        """Behind what was said so far."""
        key = _key(request, conversation)
        async with room.turn(key) as history:
            room.check_room(history)
            items = _fresh(body.items, history.items)
            await room.histories.append(key, history, items)
        return _list(items, has_more=False)

    @router.get("/v1/conversations/{conversation}/items/{item}")
    async def one(conversation: str, item: str, request: Request) -> Json:
        history = await room.load(_key(request, conversation))
        return _item(history, item)

    @router.delete("/v1/conversations/{conversation}/items/{item}")
    async def remove(conversation: str, item: str, request: Request) -> Json:
        key = _key(request, conversation)
        async with room.turn(key) as history:
            _item(history, item)
            return _conversation(key, await room.histories.remove(key, history, item))


def _responses(router: APIRouter, room: _Room) -> None:
    @router.get("/v1/responses/{response}")
    async def retrieve(response: str, request: Request, stream: bool = False) -> Json:
        """As it was answered."""
        if stream:
            raise invalid("A response that was kept is not streamed again.", "stream")
        return dict((await room.response(request, response)).answer)

    @router.delete("/v1/responses/{response}")
    async def delete(response: str, request: Request) -> Json:
        """Responses that go on from it cannot be gone on from any more; a conversation that it is
        part of keeps what was said."""
        found = await room.response(request, response)
        await room.histories.forget_response(_tenant(request), found)
        return {"id": response, "object": "response", "deleted": True}

    @router.get("/v1/responses/{response}/input_items")
    async def input_items(
        response: str,
        request: Request,
        after: After = None,
        limit: Limit = 20,
        order: Order = "desc",
    ) -> Json:
        """All that it answered, with what was said before."""
        found = await room.response(request, response)
        before = await _before(room, _tenant(request), found)
        return _page([*before, *found.input], after, limit, order)


async def _before(room: _Room, tenant: str, response: KeptResponse) -> list[Item]:
    if response.is_chained:
        *earlier, _ = await chain_of(room.histories, tenant, response)
        return [item for one in earlier for item in turn_of(one)]
    history = await room.histories.load(ConversationKey(tenant, response.conversation))
    if history is None:
        return []
    numbered = zip(history.items, history.numbers, strict=True)
    return [item for item, number in numbered if number < response.first_number]


def _tenant(request: Request) -> str:
    caller: Caller = request.scope["torpor.caller"]
    return caller.tenant


def _key(request: Request, conversation: str) -> ConversationKey:
    return ConversationKey(_tenant(request), conversation)


def _fresh(said: list[Any], before: Sequence[Item]) -> list[Item]:
    """Raises ApiError 400."""
    if len(said) > _AT_ONCE:
        raise invalid(f"At most {_AT_ONCE} items at a time.", "items")
    return identified(items_of_input(said), (item["id"] for item in before))


def _metadata(said: Mapping[str, Any] | None) -> dict[str, str]:
    """Raises ApiError 400."""
    pairs = dict(said or {})
    is_fit = len(pairs) <= _PAIRS and all(
        len(name) <= _NAME_LENGTH and isinstance(value, str) and len(value) <= _VALUE_LENGTH
        for name, value in pairs.items()
    )
    if not is_fit:
        raise invalid(
            f"At most {_PAIRS} pairs, of names up to {_NAME_LENGTH} and strings up to "
            f"{_VALUE_LENGTH} characters.",
            "metadata",
        )
    return pairs


def _item(history: History, id: str) -> Item:
    for item in history.items:
        if item["id"] == id:
            return item
    raise ApiError("item_not_found", f"There is no item {id[:128]!r} in this conversation.")


def _page(items: Sequence[Item], after: str | None, limit: int, order: str) -> Json:
    """Raises ApiError 404: there is nothing behind an item that is not there."""
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        ids = [item.get("id") for item in ordered]
        if after not in ids:
            raise ApiError("item_not_found", f"There is no item {after[:128]!r}.", param="after")
        ordered = ordered[ids.index(after) + 1 :]
    return _list(ordered[:limit], has_more=len(ordered) > limit)


def _list(items: Sequence[Item], *, has_more: bool) -> Json:
    ends = (items[0].get("id"), items[-1].get("id")) if items else (None, None)
    return {
        "object": "list",
        "data": list(items),
        "first_id": ends[0],
        "last_id": ends[1],
        "has_more": has_more,
    }


def _conversation(key: ConversationKey, history: History) -> Json:
    return {
        "id": key.id,
        "object": "conversation",
        "created_at": int(history.created_s),
        "metadata": dict(history.metadata),
    }
