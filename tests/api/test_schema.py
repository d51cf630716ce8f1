"""``/openapi.json`` names every route there is, in a form that tools accept."""

from __future__ import annotations

from typing import Any

from fastapi.openapi.models import OpenAPI
from jsonschema import Draft202012Validator

from controller.api.routes import ROUTES
from tests.api.conftest import Stand


async def schema(stand: Stand) -> dict[str, Any]:
    client = await stand.open()
    first, again = await client.get("/openapi.json"), await client.get("/openapi.json")
    assert first.json() == again.json()
    shown: dict[str, Any] = first.json()
    return shown


def operations(shown: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in shown["paths"].values() for operation in path.values()]


async def test_every_route_is_named(stand: Stand) -> None:
    paths = (await schema(stand))["paths"]
    assert {path for path in ROUTES if "post" in paths[path]} == set(ROUTES)
    assert all(paths[path]["post"]["summary"] for path in ROUTES)
    assert {"/v1/models", "/fleet", "/healthz", "/metrics"} <= paths.keys()


async def test_what_streams_and_what_is_a_form_is_told(stand: Stand) -> None:
    paths = (await schema(stand))["paths"]
    for path, route in ROUTES.items():
        post = paths[path]["post"]
        assert ("text/event-stream" in post["responses"]["200"]["content"]) is route.streams
        assert ("multipart/form-data" in post["requestBody"]["content"]) is route.is_form


async def test_the_schema_is_valid(stand: Stand) -> None:
    shown = await schema(stand)
    OpenAPI.model_validate(shown)
    names = [operation["operationId"] for operation in operations(shown)]
    assert len(set(names)) == len(names)
    for operation in operations(shown):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            Draft202012Validator.check_schema(content["schema"])
        for parameter in operation.get("parameters", []):
            Draft202012Validator.check_schema(parameter["schema"])
    for component in shown["components"]["schemas"].values():
        Draft202012Validator.check_schema(component)


async def test_the_docs_page_reads_it(stand: Stand) -> None:
    client = await stand.open()
    assert "/openapi.json" in (await client.get("/docs")).text
