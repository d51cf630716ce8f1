"""The OpenAPI schema: FastAPI's own, and the inference routes, which FastAPI never sees.

Their bodies are vLLM's: the schema says only what torpor itself reads of them.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from controller.api.routes import ROUTES, Route

_BODY = {
    "type": "object",
    "required": ["model"],
    "properties": {"model": {"type": "string", "description": "A name of `GET /v1/models`."}},
    "additionalProperties": True,
}
_MAX_WAIT = {
    "name": "x-torpor-max-wait-s",
    "in": "header",
    "required": False,
    "description": "Longest wait for an engine, in seconds; else the model's own.",
    "schema": {"type": "number", "minimum": 0},
}
_CONVERSATION = {
    "name": "x-conversation-id",
    "in": "header",
    "required": False,
    "description": "The conversation that it belongs to.",
    "schema": {"type": "string", "maxLength": 128},
}


def name_inference_routes(app: FastAPI) -> None:
    """In ``/openapi.json`` and ``/docs``."""
    own = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = own()
            schema["paths"] = {p: {"post": _operation(p, ROUTES[p])} for p in ROUTES} | schema[
                "paths"
            ]
        return own()

    app.openapi = openapi  # type: ignore[method-assign]


def _operation(path: str, route: Route) -> dict[str, Any]:
    body = "multipart/form-data" if route.is_form else "application/json"
    answers = ["application/json", *(["text/event-stream"] if route.streams else [])]
    return {
        "tags": ["inference"],
        "summary": route.summary,
        "description": f"Passed through to vLLM's `{route.upstream}`.",
        "operationId": path.strip("/").replace("/", "_"),
        "parameters": [_MAX_WAIT, *([_CONVERSATION] if route.is_salted else [])],
        "requestBody": {"required": True, "content": {body: {"schema": _BODY}}},
        "responses": {
            "200": {"description": "vLLM's answer", "content": {kind: {} for kind in answers}},
            "default": {"description": "An error", "content": {"application/json": {}}},
        },
    }
