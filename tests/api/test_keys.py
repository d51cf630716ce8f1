"""Who may ask: keys and roles, loopback without keys, and the audit."""

from __future__ import annotations

import json

import pytest

from controller.api.app import ApiSettings
from controller.keyring import new_key
from tests.api.conftest import Stand

CHAT = "/v1/chat/completions"


def keyed(stand: Stand) -> tuple[str, str]:
    """Give the stand two keys: one for inference, one for administration."""
    user, user_key = new_key("app", "acme", ["inference"])
    admin, admin_key = new_key("ops", "acme", ["admin"])
    stand.settings = ApiSettings(keys=(user_key, admin_key))
    return user, admin


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_roles(stand: Stand) -> None:
    user, admin = keyed(stand)
    await stand.engine()
    client = await stand.open()
    asked = {"model": "chat"}
    table: list[tuple[dict[str, str], int, int, int, int]] = [
        ({}, 401, 401, 401, 200),
        (bearer("torpor-wrong"), 401, 401, 401, 200),
        ({"authorization": f"Basic {user}"}, 401, 401, 401, 200),
        ({"authorization": "Bearer"}, 401, 401, 401, 200),
        ({"x-api-key": ""}, 401, 401, 401, 200),
        (bearer(user), 200, 403, 200, 200),
        ({"x-api-key": user}, 200, 403, 200, 200),
        (bearer(admin), 403, 200, 200, 200),
    ]
    for headers, inference, fleet, metrics, health in table:
        statuses = (
            (await client.post(CHAT, json=asked, headers=headers)).status_code,
            (await client.get("/fleet", headers=headers)).status_code,
            (await client.get("/metrics", headers=headers)).status_code,
            (await client.get("/healthz", headers=headers)).status_code,
        )
        assert statuses == (inference, fleet, metrics, health), headers


async def test_a_key_brings_its_tenant(stand: Stand) -> None:
    user, _ = keyed(stand)
    await stand.engine()
    client = await stand.open(**bearer(user))
    await client.post(CHAT, json={"model": "chat"})
    assert stand.leases.waits[0].tenant == "acme"


async def test_a_refused_key_is_never_said_again(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    user, _ = keyed(stand)
    client = await stand.open()
    answer = await client.get("/fleet", headers=bearer(user + "x"))
    assert answer.headers["www-authenticate"] == "Bearer"
    assert user not in answer.text + caplog.text


async def test_administrative_acts_are_audited(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "torpor.audit")
    user, admin = keyed(stand)
    client = await stand.open()
    await client.post("/fleet/models/chat/sleep", json={"level": 2}, headers=bearer(admin))
    await client.post("/fleet/models/nobody/wake?wait=true", headers=bearer(admin))
    await client.post("/fleet/models/chat/stop", headers=bearer(user))
    lines = [
        json.loads(record.getMessage())
        for record in caplog.records
        if record.name == "torpor.audit"
    ]
    told = [(line["who"], line["what"], line["model"], line["outcome"]) for line in lines]
    assert told == [
        ("ops", "sleep", "chat", "accepted"),
        ("ops", "wake", "nobody", "model_not_found"),
        ("", "POST /fleet/models/chat/stop", "", "permission_denied"),
    ]
    assert lines[0]["level"] == 2
    assert user not in caplog.text
    assert admin not in caplog.text


FROM_A_BROWSER: list[tuple[dict[str, str], int]] = [
    ({}, 202),
    ({"host": "localhost:8000"}, 202),
    ({"host": "[::1]:8000"}, 202),
    ({"host": "evil.example"}, 403),
    ({"host": "127.0.0.1.evil.example"}, 403),
    ({"host": "127.0.0.1@evil.example"}, 403),
    ({"host": "[::1"}, 403),
    ({"host": "localhost", "origin": "http://localhost"}, 202),
    ({"host": "localhost:8000", "origin": "http://localhost:3000"}, 403),
    ({"origin": "https://evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"sec-fetch-site": "same-origin"}, 202),
]


async def test_without_keys_other_sites_are_kept_out(stand: Stand) -> None:
    stand.control.is_slow = True
    client = await stand.open()
    for headers, status in FROM_A_BROWSER:
        answer = await client.post("/fleet/models/chat/stop", headers=headers)
        assert answer.status_code == status, headers
