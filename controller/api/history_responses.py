"""OpenAI's routes of responses that were kept."""

from __future__ import annotations

from fastapi import APIRouter, Request

from controller.api.history_contexts import chain_of, turn_of
from controller.api.history_items import invalid
from controller.api.history_lists import After, Json, Limit, Order, page_of
from controller.api.history_room import Room, tenant_of
from kv_store.conversations import ConversationKey
from kv_store.history import Item, KeptResponse


def response_routes(router: APIRouter, room: Room) -> None:
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
        await room.histories.forget_response(tenant_of(request), found)
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
        before = await _before(room, tenant_of(request), found)
        return page_of([*before, *found.input], after, limit, order)


async def _before(room: Room, tenant: str, response: KeptResponse) -> list[Item]:
    if response.is_chained:
        earlier = await chain_of(room.histories, tenant, response.ancestors)
        return [item for one in earlier for item in turn_of(one)]
    history = await room.histories.load(ConversationKey(tenant, response.conversation))
    if history is None:
        return []
    numbered = zip(history.items, history.numbers, strict=True)
    return [item for item, number in numbered if number < response.first_number]
