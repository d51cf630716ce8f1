"""The HTTP API as one ASGI application: who asks, which room answers, what an error looks like.

``_Gateway`` stands before everything: it gives each request an id, asks the guard, and hands the
inference routes to plain ASGI (``openai``) and all else to FastAPI. Whatever is raised becomes a
row of the table in ``errors``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from controller.api.audit import record
from controller.api.auth import Caller, Guard, is_administrative
from controller.api.bodies import too_large
from controller.api.client_exchange import ClientExchange
from controller.api.conversations import conversation_routes
from controller.api.errors import ApiError, Dialect, as_api_error
from controller.api.fleet import fleet_routes
from controller.api.forwarding import Forwarding
from controller.api.history_routes import history_routes
from controller.api.openai import Asked, Inference
from controller.api.reply import Reply
from controller.api.routes import ROUTES, InferenceLimits
from controller.api.schema import name_inference_routes
from controller.api.status import Readiness, status_routes, torpor_version
from controller.api.upstream import Upstream, UpstreamLimits
from controller.conversation_ports import (
    ConversationRefused,
    Conversations,
    RecordsUnavailable,
    UnknownConversation,
)
from controller.history_ports import Histories
from controller.keyring import ApiKey
from controller.metrics import Metrics
from controller.ports import (
    FleetControl,
    InvalidModel,
    Leases,
    Refused,
    RequestCounts,
    UnknownModel,
    UnknownOperation,
)
from kv_store.history import HistoryUnreadable

log = logging.getLogger("torpor.api")

Lifespan = Callable[[], AbstractAsyncContextManager[object]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_OURS: tuple[type[Exception], ...] = (
    ApiError,
    Refused,
    UnknownModel,
    UnknownOperation,
    UnknownConversation,
    ConversationRefused,
    RecordsUnavailable,
    HistoryUnreadable,
    InvalidModel,
    RequestValidationError,
    HTTPException,
    Exception,
)


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What the API may be told. No keys: loopback only, everybody there may do everything."""

    keys: tuple[ApiKey, ...] = ()
    inference: InferenceLimits = field(default_factory=InferenceLimits)
    upstream: UpstreamLimits = field(default_factory=UpstreamLimits)
    operation_wait_s: float = 900.0
    """Longest ``?wait=true``."""


def create_app(
    settings: ApiSettings,
    leases: Leases,
    control: FleetControl,
    metrics: Metrics,
    *,
    lifespan: Lifespan = nullcontext,
    readiness: Readiness | None = None,
    conversations: Conversations | None = None,
    histories: Histories | None = None,
) -> ASGIApp:
    """The application, for a server with ``lifespan="on"``. The given lifespan is entered
    before the first request and left after the last, around the API's own client."""
    upstream = Upstream(settings.upstream, leases.frozen)

    @asynccontextmanager
    async def whole(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(), upstream:
            yield

    def known() -> tuple[str, ...]:
        return tuple(view.model for view in control.view().models)

    fastapi = FastAPI(
        title="torpor",
        version=torpor_version(),
        lifespan=whole,
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    for kind in _OURS:
        fastapi.add_exception_handler(kind, _error_answer)
    fastapi.include_router(status_routes(control, metrics, readiness or Readiness()))
    fastapi.include_router(fleet_routes(control, settings.operation_wait_s))
    if conversations is not None:
        fastapi.include_router(conversation_routes(conversations, settings.operation_wait_s))
        fastapi.include_router(history_routes(conversations, histories))
    name_inference_routes(fastapi)
    inference = Inference(
        settings.inference, leases, upstream, metrics, conversations, histories=histories
    )
    return _Gateway(settings, fastapi, inference, known)


def create_carrier(
    settings: ApiSettings,
    leases: Leases,
    counts: RequestCounts,
    known: Callable[[], tuple[str, ...]],
    forwarding: Forwarding,
    *,
    lifespan: Lifespan = nullcontext,
) -> ASGIApp:
    """The application of a carrier: the inference path; all else is the deciding process's, and
    so are requests of conversations, which have an order. ``known``: the models there are."""
    upstream = Upstream(settings.upstream, leases.frozen)

    @asynccontextmanager
    async def whole(app: Starlette) -> AsyncIterator[None]:
        async with lifespan(), forwarding, upstream:
            yield

    handlers: dict[Any, ExceptionHandler] = dict.fromkeys(_OURS, _error_answer)
    routes = [Mount("/", app=forwarding)]
    rest = Starlette(routes=routes, exception_handlers=handlers, lifespan=whole)
    inference = Inference(settings.inference, leases, upstream, counts, elsewhere=forwarding)
    return _Gateway(settings, rest, inference, known)


async def _error_answer(request: Request, error: Exception) -> Response:
    found = as_api_error(error, tuple)
    answer = Response(found.body(), found.status, media_type="application/json")
    answer.raw_headers += found.headers()
    return answer


class _Gateway:
    """What every request passes first."""

    def __init__(
        self,
        settings: ApiSettings,
        fastapi: ASGIApp,
        inference: Inference,
        known: Callable[[], tuple[str, ...]],
    ) -> None:
        self._guard = Guard(settings.keys)
        self._limits = settings.inference
        self._fastapi = fastapi
        self._inference = inference
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._fastapi(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        scope["torpor.request_id"] = request_id
        route = ROUTES.get(path)
        client: ClientExchange = scope["torpor.exchange"]
        dialect = route.dialect if route else Dialect.OPENAI
        try:
            caller = self._guard.admit(method, path, headers)
        except ApiError as refused:
            if is_administrative(path):
                record(scope, Caller("", "", frozenset()), f"{method} {path}", "", refused.code)
            return await self._reply(client, request_id, dialect).fail(refused)
        if route is None:
            scope["torpor.caller"] = caller
            return await self._other(scope, receive, send, headers)
        if method != "POST":
            only = ApiError("method_not_allowed", "Only POST is answered.", allow="POST")
            return await self._reply(client, request_id, dialect).fail(only)
        asked = Asked(route, path, caller, request_id, headers)
        return await self._inference.serve(asked, client, self._known)

    def _reply(self, client: ClientExchange, request_id: str, dialect: Dialect) -> Reply:
        return Reply(client, request_id, dialect, self._limits.client_stall_s)

    async def _other(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]
    ) -> None:
        """FastAPI's part, with the request's id on every answer and bodies within bounds."""
        own = (b"x-request-id", scope["torpor.request_id"].encode())

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), own]
            await send(message)

        try:
            await self._fastapi(scope, _bounded(receive, self._limits.max_body_bytes), sent)
        except Exception:
            # The handler for Exception has answered; Starlette raises it again for the log.
            log.exception("request %s failed", scope["torpor.request_id"])


def _bounded(receive: Receive, max_bytes: int) -> Receive:
    seen = 0

    async def received() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise HTTPException(413, too_large(max_bytes).message)
        return message

    return received


def _request_id(given: bytes) -> str:
    """The caller's, if it is one that may stand in a header and a log; else ours."""
    if _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"req-{getrandbits(96):024x}"
