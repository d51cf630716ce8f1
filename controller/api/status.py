"""What may be asked about the server itself: models, health, version, metrics."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Response

from controller.api.errors import ApiError
from controller.metrics import CONTENT_TYPE, Metrics
from controller.ports import FleetControl, ModelView


@dataclass(slots=True)
class Readiness:
    """Whether clients may be sent here."""

    is_leaving: bool = False
    """This process was told to stop."""


def torpor_version() -> str:
    try:
        return version("torpor")
    except PackageNotFoundError:
        return "0+unknown"


def status_routes(control: FleetControl, metrics: Metrics, readiness: Readiness) -> APIRouter:
    router = APIRouter(tags=["status"])

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Every configured model, whatever its state."""
        return {"object": "list", "data": [_card(view) for view in control.view().models]}

    @router.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        return _card(control.model(model))

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @router.get("/health")
    async def health() -> Response:
        """As vLLM's: 200 and nothing."""
        return Response()

    @router.get("/readyz")
    async def readyz() -> dict[str, Any]:
        """There is a node to place engines on, and this process goes on."""
        if readiness.is_leaving:
            raise ApiError("not_ready", "This controller was told to stop.")
        view = control.view()
        if not view.nodes:
            raise ApiError("not_ready", "No node has joined the pool.")
        return {"status": "ready", "models": len(view.models), "nodes": len(view.nodes)}

    @router.get("/version")
    async def server_version() -> dict[str, str]:
        return {"version": torpor_version()}

    @router.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.render(control.view()), media_type=CONTENT_TYPE)

    return router


def _card(view: ModelView) -> dict[str, Any]:
    return {
        "id": view.model,
        "object": "model",
        "created": view.created,
        "owned_by": "torpor",
        "root": view.model,
        "parent": None,
        "max_model_len": view.max_model_len,
        "state": view.state,
    }
