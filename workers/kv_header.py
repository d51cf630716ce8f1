"""The response header ``x-torpor-kv``: how much of the prompt was found, and where.

``hit=1792 of 1834 tier=redis``. It is known when the first token comes, so the response's head is
held back until its first body; nobody loses by it, since a head without a body says nothing.
A stream of the Responses API begins with two events that are made before the prompt is looked at:
they wait for the third, or for what was found.
``engine`` is the engine's own prefix cache; ``unknown``, that the KV server did not say in a
moment which of its tiers it was, or named one that the engine was not told of. Behind it stands
``why=slow``, or another of ``kv_store.found.Why``, where KV was computed that may lie in a tier. A
response whose request asked for no KV has no such header.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kv_store.found import PromptFound
from kv_store.lmcache_client import LMCacheClient, Looked, TierUnavailable
from kv_store.reports import Found, Reports
from workers.openai_server import ASGIApp, Receive, Scope, Send

NAME = b"x-torpor-kv"
_REQUEST_ID = b"x-request-id"
_RESPONSES = "/v1/responses"
_EARLY_EVENTS = 2
"""``response.created`` and ``response.in_progress``."""


class KVHeader:
    """ASGI, around vLLM's app. ``durable`` is what the durable tier of each destination is called;
    ``look_s``, how long a head waits to be told its tier."""

    def __init__(
        self,
        app: ASGIApp,
        reports: Reports,
        *,
        tier: LMCacheClient | None,
        durable: Mapping[str, str],
        look_s: float = 0.2,
    ) -> None:
        self._app = app
        self._reports = reports
        self._tier = tier
        self._durable = durable
        self._look_s = look_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        request = _request_id(scope)
        early = _EARLY_EVENTS if scope["path"] == _RESPONSES else 0
        beginning: list[Any] | None = []

        async def held(message: Any) -> None:
            nonlocal beginning
            if beginning is None:
                return await send(message)
            beginning.append(message)
            found = self._reports.found(request)
            if _may_wait(beginning, early, found):
                return None
            whole, beginning = beginning, None
            whole[0]["headers"] = [*whole[0]["headers"], *await self._headers(found)]
            for each in whole:
                await send(each)
            return None

        await self._app(scope, receive, held)

    async def _headers(self, found: Found | None) -> list[tuple[bytes, bytes]]:
        if found is None:
            return []
        looked = await self._looked(found)
        hit = max(found.engine_tokens, found.tier_tokens)
        told = PromptFound(hit, found.prompt_tokens, self._where(found, looked), found.why)
        return [(NAME, told.told())]

    async def _looked(self, found: Found) -> Looked | None:
        if self._tier is not None and found.tier_tokens > found.engine_tokens:
            with suppress(TierUnavailable, TimeoutError):
                async with asyncio.timeout(self._look_s):
                    return await self._tier.looked(found.request)
        return None

    def _where(self, found: Found, looked: Looked | None) -> str:
        """The deepest tier that had a part in it."""
        if found.tier_tokens <= found.engine_tokens:
            return "engine" if found.engine_tokens else "none"
        if looked is None:
            return "unknown"
        if not looked.durable_tokens:
            return "host"
        return self._durable.get(looked.destination, "unknown")


def _may_wait(beginning: list[Any], early: int, found: Found | None) -> bool:
    """Of an answer: its head and what has come of its body."""
    if len(beginning) == 1:
        return True
    is_early = len(beginning) <= 1 + early and bool(beginning[-1].get("more_body"))
    return is_early and found is None


def _request_id(scope: Scope) -> str:
    """vLLM builds its own id around this one; without one, it is given one."""
    for name, value in scope["headers"]:
        if name == _REQUEST_ID:
            return str(value.decode("latin-1"))
    request = uuid.uuid4().hex
    scope["headers"] = [*scope["headers"], (_REQUEST_ID, request.encode())]
    return request
