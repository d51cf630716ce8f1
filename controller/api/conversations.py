"""The routes of conversations: look, hibernate, rehydrate, reset, delete.

A key with the role ``admin`` sees every tenant's, and names the tenant where an id is not enough;
any other key sees its own tenant's, and another's conversation does not exist for it.

``/v1/conversations/end`` and ``/list`` are thin aliases for clients that know no fleet: *end*
hibernates. ``/v1/conversations/{id}`` is left to OpenAI's own API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from controller.api.audit import audited
from controller.api.auth import CONVERSATIONS, Caller
from controller.api.errors import ApiError
from controller.api.fleet import Orders, Wait
from controller.conversation_ports import (
    ConversationFilter,
    ConversationPage,
    Conversations,
    ConversationView,
)
from kv_store.conversations import ConversationKey

ResidencyName = Literal["NOT_CREATED", "IN_MEMORY", "HIBERNATED"]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tenant = Annotated[str | None, Query(description="Another than the key's: `admin` only.")]


class IdleBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    idle_longer_than_s: Seconds
    model: str | None = None
    tenant: str | None = None


class EndBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    conversation_id: Annotated[str, Field(min_length=1)]


class ListBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    after: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


def conversation_routes(conversations: Conversations, wait_limit_s: float) -> APIRouter:
    router = APIRouter(tags=["conversations"])
    _looking(router, conversations)
    _ordering(router, _Acts(conversations, Orders(conversations, wait_limit_s)))
    return router


@dataclass(frozen=True, slots=True)
class _Acts:
    conversations: Conversations
    orders: Orders

    async def carry_out(
        self, request: Request, what: str, key: ConversationKey, wait: bool
    ) -> JSONResponse:
        with audited(request.scope, f"conversation.{what}", "") as act:
            act.seen["conversation"] = str(key)
            operation: str = getattr(self.conversations, what)(key)
            return await self.orders.answer(operation, wait, act)


def _looking(router: APIRouter, conversations: Conversations) -> None:
    @router.get(CONVERSATIONS)
    async def page(
        request: Request,
        model: str | None = None,
        tenant: Tenant = None,
        residency: ResidencyName | None = None,
        idle_longer_than_s: Annotated[float | None, Query(ge=0)] = None,
        after: Annotated[int, Query(ge=0, description="Of the page before.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> ConversationPage:
        """In the order they began, with figures of all that may be seen."""
        of = ConversationFilter(_seen_by(request, tenant), model, residency, idle_longer_than_s)
        return await conversations.page(of, after=after, limit=limit)

    @router.get(CONVERSATIONS + "/{conversation}")
    async def one(conversation: str, request: Request, tenant: Tenant = None) -> ConversationView:
        """With its bytes by tier as they are at this moment, where the tier answers."""
        return await conversations.look(_key(request, conversation, tenant))

    @router.post("/v1/conversations/list")
    async def listed(
        request: Request, body: Annotated[ListBody | None, Body()] = None
    ) -> ConversationPage:
        """The caller's own."""
        asked = body or ListBody()
        of = ConversationFilter(_caller(request).tenant, asked.model)
        return await conversations.page(of, after=asked.after, limit=asked.limit)


def _ordering(router: APIRouter, acts: _Acts) -> None:
    @router.post(CONVERSATIONS + "/{conversation}/hibernate")
    async def hibernate(
        conversation: str, request: Request, tenant: Tenant = None, wait: Wait = False
    ) -> JSONResponse:
        """Its KV to the durable tier, and out of host memory."""
        key = _key(request, conversation, tenant)
        return await acts.carry_out(request, "hibernate", key, wait)

    @router.post(CONVERSATIONS + "/{conversation}/rehydrate")
    async def rehydrate(
        conversation: str, request: Request, tenant: Tenant = None, wait: Wait = False
    ) -> JSONResponse:
        """Its KV into host memory, before the next message asks for it."""
        key = _key(request, conversation, tenant)
        return await acts.carry_out(request, "rehydrate", key, wait)

    @router.post(CONVERSATIONS + "/{conversation}/reset")
    async def reset(
        conversation: str, request: Request, tenant: Tenant = None, wait: Wait = False
    ) -> JSONResponse:
        """Forget its KV everywhere; keep the conversation."""
        return await acts.carry_out(request, "reset", _key(request, conversation, tenant), wait)

    @router.delete(CONVERSATIONS + "/{conversation}")
    async def delete(
        conversation: str, request: Request, tenant: Tenant = None, wait: Wait = False
    ) -> JSONResponse:
        return await acts.carry_out(request, "delete", _key(request, conversation, tenant), wait)

    @router.post(CONVERSATIONS + "/hibernate")
    async def hibernate_idle(body: IdleBody, request: Request, wait: Wait = False) -> JSONResponse:
        """All that were not used for so long, as one operation."""
        with audited(request.scope, "conversation.hibernate_idle", body.model or "") as act:
            tenant = _seen_by(request, body.tenant)
            of = ConversationFilter(tenant, body.model, idle_longer_than_s=body.idle_longer_than_s)
            operation, act.seen["conversations"] = acts.conversations.hibernate_all(of)
            return await acts.orders.answer(operation, wait, act)

    @router.post("/v1/conversations/end")
    async def end(body: EndBody, request: Request) -> JSONResponse:
        """The caller is done with it for the time being."""
        key = _key(request, body.conversation_id, None)
        return await acts.carry_out(request, "hibernate", key, False)


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope["torpor.caller"]
    return caller


def _key(request: Request, conversation: str, tenant: str | None) -> ConversationKey:
    seen = _seen_by(request, tenant)
    return ConversationKey(_caller(request).tenant if seen is None else seen, conversation)


def _seen_by(request: Request, tenant: str | None) -> str | None:
    """The tenant that is meant; None: all, for who may. Raises ApiError 403."""
    caller = _caller(request)
    if "admin" in caller.roles:
        return tenant
    if tenant not in (None, caller.tenant):
        raise ApiError("permission_denied", "Another tenant's conversations need the role 'admin'.")
    return caller.tenant
