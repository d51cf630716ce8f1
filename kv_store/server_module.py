"""Our module inside LMCache's server, loaded by its ``--server-module`` hook.

It adds routes to LMCache's HTTP server, on the same loopback port: ``POST /torpor/export``,
``/torpor/settle``, ``/torpor/verify``, ``/torpor/where``, ``/torpor/release``,
``/torpor/withdraw`` and ``/torpor/delete`` (``kv_store.server_chunks``), ``/torpor/recall``
(``kv_store.server_recall``), ``/torpor/resize`` (``kv_store.server_room``), and
``GET /torpor/lookups/{request}``, which says from which tier a request's KV came.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, HTTPException
from lmcache.v1.mp_observability.event import Event, EventType
from lmcache.v1.multiprocess.engine_context import MPCacheServerContext
from lmcache.v1.multiprocess.ext_server_module import ExtServerModuleBuildContext

from kv_store.keys import destination_of
from kv_store.lmcache_client import Looked, Prefix
from kv_store.server_chunks import Chunks
from kv_store.server_recall import NotAttached, Recalls
from kv_store.server_room import HostRoom, NotShared

_REMEMBERED_LOOKUPS = 10_000


@dataclass(frozen=True)
class Order:
    model: str
    salt: str
    tokens: list[int]
    limit_s: float
    world_size: int = 1
    begin: int = 0

    @property
    def prefix(self) -> Prefix:
        return Prefix(self.model, self.salt, self.tokens, self.world_size, self.begin)


@dataclass(frozen=True)
class Recalling(Order):
    attach_s: float = 0.0


@dataclass(frozen=True)
class Settling:
    model: str
    limit_s: float


@dataclass(frozen=True)
class Resizing:
    to_bytes: int
    limit_s: float


class TorporModule:
    def __init__(self, context: MPCacheServerContext) -> None:
        self._context = context
        self._chunks = Chunks(context)
        self._recalls = Recalls(context)
        self._room = HostRoom(context, self._chunks)
        self._looked: OrderedDict[str, Looked] = OrderedDict()
        context.event_bus.subscribe(EventType.MP_LOOKUP_PREFETCH_END, self._remember)

    @property
    def context(self) -> MPCacheServerContext:
        return self._context

    def report_status(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing is open."""

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/torpor")
        router.post("/export")(self.export)
        router.post("/settle")(self.settle)
        router.post("/verify")(self.verify)
        router.post("/recall")(self.recall)
        router.post("/where")(self.where)
        router.post("/release")(self.release)
        router.post("/withdraw")(self.withdraw)
        router.post("/delete")(self.delete)
        router.post("/resize")(self.resize)
        router.get("/lookups/{request:path}")(self.looked)
        return router

    async def export(self, order: Order) -> dict[str, Any]:
        return asdict(await self._chunks.export(order.prefix, order.limit_s))

    async def settle(self, order: Settling) -> dict[str, Any]:
        return asdict(await self._chunks.settle(order.model, order.limit_s))

    async def verify(self, order: Order) -> dict[str, Any]:
        return asdict(await self._chunks.verify(order.prefix, order.limit_s))

    async def recall(self, order: Recalling) -> dict[str, Any]:
        try:
            done = await self._recalls.recall(order.prefix, order.limit_s, order.attach_s)
        except NotAttached as error:
            raise HTTPException(503, f"no engine of {error} is attached") from error
        return asdict(done)

    async def where(self, order: Order) -> dict[str, Any]:
        return asdict(await self._chunks.where(order.prefix, order.limit_s))

    async def release(self, order: Order) -> dict[str, Any]:
        return asdict(await self._chunks.release(order.prefix, order.limit_s))

    async def withdraw(self, order: Order) -> dict[str, Any]:
        return asdict(await self._chunks.withdraw(order.prefix, order.limit_s))

    async def delete(self, order: Order) -> dict[str, Any]:
        return asdict(await self._chunks.delete(order.prefix, order.limit_s))

    async def resize(self, order: Resizing) -> dict[str, Any]:
        try:
            return asdict(await self._room.resize(order.to_bytes, order.limit_s))
        except NotShared as error:
            raise HTTPException(409, "the host tier lies in no shared memory") from error

    async def looked(self, request: str) -> dict[str, Any]:
        """vLLM lengthens the ids that it is given, so their beginning will do."""
        known = self._looked.copy()
        found = next((known[name] for name in reversed(known) if name.startswith(request)), None)
        return {"looked": asdict(found) if found is not None else None}

    def _remember(self, event: Event) -> None:
        told = event.metadata
        self._looked[event.session_id] = Looked(
            told["requested_tokens"],
            told["l1_hit_tokens"],
            told["l2_hit_tokens"],
            destination_of(told["cache_salt"]),
        )
        while len(self._looked) > _REMEMBERED_LOOKUPS:
            self._looked.popitem(last=False)


def build_server_modules(built: ExtServerModuleBuildContext) -> TorporModule:
    from lmcache.v1.multiprocess.http_server import app

    module = TorporModule(built.server_context)
    app.include_router(module.router())
    return module
