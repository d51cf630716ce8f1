"""What clients get wrong, and what they hear: one table, never a stack trace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx

from controller.core.names import RejectReason
from controller.ports import Refused
from tests.api.conftest import Stand

CHAT = "/v1/chat/completions"
FORM = {"content-type": "multipart/form-data; boundary=b"}


def part(name: str, text: str) -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()


BAD: list[tuple[str, bytes, dict[str, str], int, str]] = [
    (CHAT, b"", {}, 400, "invalid_json"),
    (CHAT, b"{", {}, 400, "invalid_json"),
    (CHAT, b"[]", {}, 400, "invalid_json"),
    (CHAT, b"null", {}, 400, "invalid_json"),
    (CHAT, b"\xff\xfe", {}, 400, "invalid_json"),
    (CHAT, '\ufeff{"model": "chat"}'.encode(), {}, 400, "invalid_json"),
    (CHAT, '{"model": "chat"}'.encode("utf-16"), {}, 400, "invalid_json"),
    (CHAT, b'{"model": "chat", "x": NaN}', {}, 400, "invalid_json"),
    (CHAT, b'{"x": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", {}, 400, "invalid_json"),
    (CHAT, b'{"model": ' + b"9" * 5000 + b"}", {}, 400, "invalid_json"),
    (CHAT, b"{}", {}, 400, "invalid_model"),
    (CHAT, b'{"model": null}', {}, 400, "invalid_model"),
    (CHAT, b'{"model": 3}', {}, 400, "invalid_model"),
    (CHAT, b'{"model": ["chat"]}', {}, 400, "invalid_model"),
    (CHAT, b'{"model": ""}', {}, 400, "invalid_model"),
    (CHAT, b'{"model": "nobody"}', {}, 404, "model_not_found"),
    (CHAT, b'{"model": "../../etc/passwd"}', {}, 404, "model_not_found"),
    (CHAT, b'{"model": "\\ud800"}', {}, 400, "invalid_json"),
    (CHAT, b'{"model": "chat", "x": 1e400}', {}, 400, "invalid_json"),
    (CHAT, b" " * 100_001, {}, 413, "body_too_large"),
    (CHAT, b'{"model": "chat"}', {"x-torpor-max-wait-s": "soon"}, 400, "invalid_header"),
    (CHAT, b'{"model": "chat"}', {"x-torpor-max-wait-s": "nan"}, 400, "invalid_header"),
    (CHAT, b'{"model": "chat"}', {"x-torpor-max-wait-s": "inf"}, 400, "invalid_header"),
    (CHAT, b'{"model": "chat"}', {"x-torpor-max-wait-s": "-1"}, 400, "invalid_header"),
    ("/v1/audio/transcriptions", b"{}", {}, 400, "invalid_form"),
    ("/v1/audio/transcriptions", b"nonsense", FORM, 400, "invalid_form"),
    ("/v1/audio/transcriptions", part("model", "chat"), FORM, 400, "invalid_form"),
    (
        "/v1/audio/transcriptions",
        part("model", "chat") + part("model", "other") + b"--b--\r\n",
        FORM,
        400,
        "invalid_form",
    ),
    (
        "/v1/audio/translations",
        part("model", "chat") + part("cache_salt", "x") + b"--b--\r\n",
        FORM,
        400,
        "invalid_form",
    ),
    (
        "/v1/audio/translations",
        part("model", "x" * 2000) + b"--b--\r\n",
        FORM,
        400,
        "invalid_form",
    ),
    (
        "/v1/audio/translations",
        b"x",
        {"content-type": f"multipart/form-data; boundary={'b' * 300}"},
        400,
        "invalid_form",
    ),
    ("/v1/audio/translations", part("file", "x") + b"--b--\r\n", FORM, 400, "invalid_model"),
    ("/nowhere", b"", {}, 404, "unknown_route"),
    ("/v1/chat/completions/", b"{}", {}, 404, "unknown_route"),
    ("/sleep", b"", {}, 404, "unknown_route"),
    ("/wake_up", b"", {}, 404, "unknown_route"),
    ("/collective_rpc", b"", {}, 404, "unknown_route"),
    ("/reset_prefix_cache", b"", {}, 404, "unknown_route"),
    ("/v1/load_lora_adapter", b"{}", {}, 404, "unknown_route"),
    ("/fleet/../v1/load_lora_adapter", b"{}", {}, 404, "unknown_route"),
    ("/healthz", b"", {}, 405, "method_not_allowed"),
    ("/fleet/models/nobody/wake", b"", {}, 404, "model_not_found"),
    ("/fleet/models/chat/sleep", b"{", {}, 422, "invalid_fleet_body"),
    ("/fleet/models/chat/sleep", b'{"level": 3}', {}, 422, "invalid_fleet_body"),
    ("/fleet/models/chat/sleep", b'{"level": "1"}', {}, 422, "invalid_fleet_body"),
    ("/fleet/models/chat/sleep", b'{"level": true}', {}, 422, "invalid_fleet_body"),
    ("/fleet/models/chat/sleep", b'{"levle": 1}', {}, 422, "invalid_fleet_body"),
    ("/fleet/models/chat/sleep", b"[1]", {}, 422, "invalid_fleet_body"),
    ("/fleet/models/chat/wake?wait=perhaps", b"", {}, 422, "invalid_fleet_body"),
    ("/fleet/models/chat/dance", b"", {}, 405, "method_not_allowed"),
    ("/fleet/switch", b"{}", {}, 422, "invalid_fleet_body"),
    ("/fleet/switch", b'{"to": 3}', {}, 422, "invalid_fleet_body"),
    ("/fleet/switch", b'{"to": "nobody"}', {}, 404, "model_not_found"),
    ("/fleet/models", b"[]", {}, 422, "invalid_fleet_body"),
    ("/fleet/models", b"{}", {}, 422, "invalid_model_entry"),
    ("/fleet/models", b" " * 100_001, {}, 413, "body_too_large"),
]


async def test_bad_posts(stand: Stand) -> None:
    client = await stand.open()
    for path, body, headers, status, code in BAD:
        typed = {"content-type": "application/json", **headers}
        answer = await client.post(path, content=body, headers=typed)
        assert_error(answer, status, code, f"{path} {body[:40]!r}")


BAD_OTHERS = [
    ("GET", CHAT, 405, "method_not_allowed"),
    ("OPTIONS", CHAT, 405, "method_not_allowed"),
    ("GET", "/v1/models/nobody", 404, "model_not_found"),
    ("GET", "/fleet/models/nobody", 404, "model_not_found"),
    ("GET", "/fleet/models/nobody/why", 404, "model_not_found"),
    ("GET", "/fleet/operations/op-9", 404, "operation_not_found"),
    ("DELETE", "/fleet/models/nobody", 404, "model_not_found"),
    ("PUT", "/fleet", 405, "method_not_allowed"),
    ("GET", "/", 404, "unknown_route"),
    ("GET", "/%00", 404, "unknown_route"),
]


async def test_bad_others(stand: Stand) -> None:
    client = await stand.open()
    for method, path, status, code in BAD_OTHERS:
        answer = await client.request(method, path)
        assert_error(answer, status, code, f"{method} {path}")
        assert ("allow" in answer.headers) == (status == 405)


def assert_error(answer: httpx.Response, status: int, code: str, what: str = "") -> None:
    got = (answer.status_code, answer.json()["error"]["code"])
    assert got == (status, code), f"{what}: {answer.text}"
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"]


async def test_an_unknown_model_hears_the_known_ones(stand: Stand) -> None:
    client = await stand.open()
    for answer in (
        await client.post(CHAT, json={"model": "nobody"}),
        await client.get("/v1/models/nobody"),
    ):
        assert "chat, org/embed" in answer.json()["error"]["message"]


REFUSALS: list[tuple[RejectReason, int, str | None]] = [
    (RejectReason.NEVER_FITS, 503, None),
    (RejectReason.BACKLOG_FULL, 429, "4"),
    (RejectReason.WAIT_TOO_LONG, 503, "4"),
    (RejectReason.DEADLINE_PASSED, 504, None),
    (RejectReason.CANNOT_START, 503, "4"),
    (RejectReason.MODEL_REMOVED, 404, None),
    (RejectReason.STOPPING, 503, "4"),
]


async def test_each_refusal_has_its_status(stand: Stand) -> None:
    client = await stand.open()
    for reason, status, retry in REFUSALS:
        stand.leases.refusals["chat"] = Refused(reason, "needs 3.1 GiB, budget 2.0 GiB", 3.2)
        answer = await client.post(CHAT, json={"model": "chat"})
        assert answer.status_code == status
        assert "needs 3.1 GiB" in answer.json()["error"]["message"]
        assert answer.headers.get("retry-after") == retry
        assert "x-torpor-queue-ms" in answer.headers


async def test_a_chunked_body_is_bounded_too(stand: Stand) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 1000

    client = await stand.open()
    answer = await client.post(CHAT, content=endless())
    assert_error(answer, 413, "body_too_large")


async def test_a_failure_of_ours_is_told_without_its_trace(stand: Stand) -> None:
    secret = RuntimeError("a secret")

    class Broken(type(stand.leases)):  # type: ignore[misc]
        def acquire(self, *args: Any, **more: Any) -> Any:
            raise secret

    class Blind(type(stand.control)):  # type: ignore[misc]
        def view(self) -> Any:
            raise secret

    stand.leases, stand.control = Broken(), Blind()
    client = await stand.open()
    for answer in (await client.post(CHAT, json={"model": "chat"}), await client.get("/fleet")):
        assert_error(answer, 500, "internal_error")
        assert "secret" not in answer.text
