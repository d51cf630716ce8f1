"""The fleet routes: look, order, follow an order, listen.

An order answers 202 with its operation at once, or with ``?wait=true`` when it has ended: 200
with seconds by phase, or 503 with why it failed. Model names may hold slashes: their routes take
a path, and the longest name that fits is meant.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from controller.api.audit import Act, audited
from controller.api.errors import ApiError
from controller.ports import FleetControl, FleetEvent, FleetView, ModelView, OperationView

_OPERATION = TypeAdapter(OperationView)
_EVENT_SILENCE_S = 15.0
"""A comment after so long without an event, for proxies that close what is quiet."""

Level = Annotated[int, Field(ge=0, le=2)]
"""vLLM's sleep levels; 0 gives back KV memory only."""


class SleepBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    level: Level = 1


class SwitchBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    to: Annotated[str, Field(min_length=1)]
    source: Annotated[str | None, Field(alias="from", min_length=1)] = None
    level: Level = 1


Wait = Annotated[bool, Query(description="Answer when the order has ended.")]


def fleet_routes(control: FleetControl, wait_limit_s: float) -> APIRouter:
    """``wait_limit_s``: after so long ``?wait=true`` answers 202 after all."""
    router = APIRouter(prefix="/fleet", tags=["fleet"])
    orders = Orders(control, wait_limit_s)
    _looking(router, control)
    _ordering(router, control, orders)
    _configuring(router, control, orders)
    return router


class OperationRegister(Protocol):
    def operation(self, operation: str) -> OperationView: ...

    async def wait(self, operation: str) -> OperationView: ...


class Orders:
    """Answers for operations."""

    def __init__(self, control: OperationRegister, limit_s: float) -> None:
        self._control = control
        self._limit_s = limit_s

    async def answer(self, operation: str, wait: bool, act: Act) -> JSONResponse:
        act.seen["operation"] = operation
        view = await self._ended(operation) if wait else self._control.operation(operation)
        act.outcome = view.status if wait else "accepted"
        shown = _OPERATION.dump_python(view, mode="json")
        if wait and view.status == "failed":
            raise ApiError("operation_failed", view.error, extra={"operation": shown})
        return JSONResponse(shown, 200 if view.status == "done" else 202)

    async def _ended(self, operation: str) -> OperationView:
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._control.wait(operation)
        except TimeoutError:
            return self._control.operation(operation)


def _looking(router: APIRouter, control: FleetControl) -> None:
    @router.get("")
    async def fleet() -> FleetView:
        return control.view()

    @router.get("/operations/{operation}")
    async def operation(operation: str) -> OperationView:
        return control.operation(operation)

    @router.get("/events")
    async def events(
        last_event_id: Annotated[int | None, Header()] = None,
    ) -> StreamingResponse:
        """What happens, as server-sent events; resumed by ``Last-Event-ID``."""
        stream = _sse(control.events(last_event_id))
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    @router.get("/models/{model:path}/why")
    async def why(model: str) -> dict[str, Any]:
        """The model's story, oldest first."""
        if any(view.model == f"{model}/why" for view in control.view().models):
            return {"model": f"{model}/why", **_plain(control.model(f"{model}/why"))}
        return {"model": model, "story": control.why(model)}

    @router.get("/models/{model:path}")
    async def model(model: str) -> ModelView:
        return control.model(model)


def _ordering(router: APIRouter, control: FleetControl, orders: Orders) -> None:
    @router.post("/models/{model:path}/wake")
    async def wake(model: str, request: Request, wait: Wait = False) -> JSONResponse:
        with audited(request.scope, "wake", model) as act:
            return await orders.answer(control.wake(model), wait, act)

    @router.post("/models/{model:path}/sleep")
    async def sleep(
        model: str,
        request: Request,
        body: Annotated[SleepBody | None, Body()] = None,
        wait: Wait = False,
    ) -> JSONResponse:
        level = (body or SleepBody()).level
        with audited(request.scope, "sleep", model) as act:
            act.seen["level"] = level
            return await orders.answer(control.sleep(model, level), wait, act)

    @router.post("/models/{model:path}/stop")
    async def stop(model: str, request: Request, wait: Wait = False) -> JSONResponse:
        with audited(request.scope, "stop", model) as act:
            return await orders.answer(control.stop(model), wait, act)

    @router.post("/models/{model:path}/pin")
    async def pin(model: str, request: Request) -> ModelView:
        with audited(request.scope, "pin", model):
            control.pin(model, True)
            return control.model(model)

    @router.post("/models/{model:path}/unpin")
    async def unpin(model: str, request: Request) -> ModelView:
        with audited(request.scope, "unpin", model):
            control.pin(model, False)
            return control.model(model)

    @router.post("/switch")
    async def switch(body: SwitchBody, request: Request, wait: Wait = False) -> JSONResponse:
        with audited(request.scope, "switch", body.to) as act:
            act.seen |= {"from": body.source, "level": body.level}
            operation = control.switch(body.to, body.source, body.level)
            return await orders.answer(operation, wait, act)


def _configuring(router: APIRouter, control: FleetControl, orders: Orders) -> None:
    @router.post("/models")
    async def add(
        body: Annotated[dict[str, Any], Body()], request: Request, wait: Wait = False
    ) -> JSONResponse:
        """One entry of fleet.yaml's ``models``."""
        with audited(request.scope, "add", str(body.get("name", ""))) as act:
            return await orders.answer(control.add_model(body), wait, act)

    @router.delete("/models/{model:path}")
    async def remove(model: str, request: Request, wait: Wait = False) -> JSONResponse:
        with audited(request.scope, "remove", model) as act:
            return await orders.answer(control.remove_model(model), wait, act)


async def _sse(events: AsyncIterator[FleetEvent]) -> AsyncIterator[bytes]:
    """Each event with its id; a comment at once, and whenever it was quiet for long."""
    yield b": torpor\n\n"
    coming: asyncio.Future[FleetEvent] = asyncio.ensure_future(_next(events))
    try:
        while True:
            await asyncio.wait({coming}, timeout=_EVENT_SILENCE_S)
            if not coming.done():
                yield b": torpor\n\n"
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            data = json.dumps(event.payload, separators=(",", ":"), default=str)
            yield f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n".encode()
            coming = asyncio.ensure_future(_next(events))
    finally:
        coming.cancel()
        await asyncio.wait({coming})


async def _next(events: AsyncIterator[FleetEvent]) -> FleetEvent:
    return await anext(events)


def _plain(view: ModelView) -> dict[str, Any]:
    shown: dict[str, Any] = TypeAdapter(ModelView).dump_python(view, mode="json")
    return shown
