"""``POST /torpor/turn``: the tokens of a turn that has ended, to the controller.

What it is for stands in ``kv_store.turns``. The body is the request's id. Who asks before the
engine has told waits, for at most ``limit_s``: an answer ends a moment before its KV is stored. A
turn is told once and then forgotten; of turns that nobody asks for the last ``_KEPT`` are kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from kv_store.reports import Reports, Stored
from kv_store.turns import PATH, TurnTold
from workers.openai_server import ASGIApp, Receive, Scope, Send

_KEPT = 64
_LIMIT_S = 5.0


class KVTurns:
    """ASGI, around vLLM's app and inside the key gate."""

    def __init__(
        self, app: ASGIApp, reports: Reports, *, chunk_tokens: int, limit_s: float = _LIMIT_S
    ) -> None:
        self._app = app
        self._reports = reports
        self._chunk_tokens = chunk_tokens
        self._limit_s = limit_s
        self._ended: OrderedDict[str, Stored] = OrderedDict()
        self._more = asyncio.Event()
        reports.on_tokens = self._tell

    def _tell(self, ended: Stored) -> None:
        self._ended[ended.request] = ended
        while len(self._ended) > _KEPT:
            self._ended.popitem(last=False)
        self._more.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        message = await receive()
        told = await self._told(message.get("body", b"").decode("latin-1"))
        status, body = (200, told.packed()) if told else (404, b"")
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return None

    async def _told(self, request: str) -> TurnTold | None:
        try:
            async with asyncio.timeout(self._limit_s):
                while (ended := self._take(request)) is None:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            return None
        return TurnTold(ended.stored_tokens // self._chunk_tokens, ended.token_ids, ended.ranks)

    def _take(self, request: str) -> Stored | None:
        """vLLM builds its own id around the one it is given."""
        self._reports.receive()
        found = [name for name in self._ended if request and request in name]
        return self._ended.pop(found[-1]) if found else None
