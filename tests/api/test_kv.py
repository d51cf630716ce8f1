"""Salts are the controller's: whose KV a request may find, and what was found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.api.bodies import salted
from controller.keyring import new_key
from kv_store.keys import Isolation, destination_of
from tests.api.conftest import Stand
from tests.api.engine import ScriptedEngine, Seen, answer


async def given_up(engine: ScriptedEngine, seen: Seen, send: object) -> None:
    await answer(send, 200, b"{}", x_torpor_kv="hit=128 of 1834 tier=host why=slow")


async def restored(engine: ScriptedEngine, seen: Seen, send: object) -> None:
    await answer(send, 200, b"{}", x_torpor_kv="hit=1792 of 1834 tier=redis")


def body(**more: object) -> dict[str, object]:
    return {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **more}


def test_a_salt_goes_before_everything_else() -> None:
    assert salted(b'{"model":"m"}', "s") == b'{"cache_salt":"s","model":"m"}'


async def test_without_a_tier_the_engines_own_cache_is_salted(stand: Stand) -> None:
    engine = await stand.engine()
    client = await stand.open()
    await client.post("/v1/chat/completions", json=body(cache_salt="theirs"))
    got = engine.seen[0].json()
    assert got.pop("cache_salt") not in ("", "theirs")
    assert got == body()


async def test_a_clients_salt_is_replaced(stand: Stand) -> None:
    stand.leases.kv_identity = "weights"
    engine = await stand.engine()
    client = await stand.open()
    await client.post("/v1/chat/completions", json=body(cache_salt="somebody else's"))
    await client.post("/v1/chat/completions", json=body())
    first, second = (seen.json() for seen in engine.seen)
    assert first == second
    assert first["cache_salt"] not in ("", "somebody else's")
    assert engine.seen[0].body.count(b"cache_salt") == 1


async def test_other_weights_another_salt(stand: Stand) -> None:
    engine = await stand.engine()
    client = await stand.open()
    for identity in ("weights", "other weights"):
        stand.leases.kv_identity = identity
        await client.post("/v1/completions", json={"model": "chat", "prompt": "hi"})
    salts = [seen.json()["cache_salt"] for seen in engine.seen]
    assert len(set(salts)) == 2


async def test_kv_that_lost_precision_is_for_those_who_said_so(stand: Stand) -> None:
    stand.leases.kv_identity = "weights"
    engine = await stand.engine()
    salts = []
    for lossy in ("", "fp8"):
        stand.settings = replace(
            stand.settings, inference=replace(stand.settings.inference, kv_lossy=lossy)
        )
        client = await stand.open()
        await client.post("/v1/chat/completions", json=body())
        salts.append(engine.seen[-1].json()["cache_salt"])
    assert salts[0] != salts[1]


async def test_tenants_do_not_share(stand: Stand) -> None:
    stand.leases.kv_identity = "weights"
    keys = [
        new_key(name, tenant, ["inference"])
        for name, tenant in (("a", "one"), ("b", "one"), ("c", "two"))
    ]
    stand.settings = replace(stand.settings, keys=tuple(entry for _, entry in keys))
    engine = await stand.engine()
    client = await stand.open()
    for key, _ in keys:
        headers = {"authorization": f"Bearer {key}"}
        await client.post("/v1/chat/completions", json=body(), headers=headers)
    one, same, two = (seen.json()["cache_salt"] for seen in engine.seen)
    assert one == same != two


async def test_a_tenants_salt_tells_where_its_kv_goes(stand: Stand) -> None:
    stand.leases.kv_identity = "weights"
    keys = [new_key(tenant, tenant, ["inference"]) for tenant in ("acme", "other")]
    inference = replace(stand.settings.inference, kv_destinations={"acme": "vault"})
    entries = tuple(entry for _, entry in keys)
    stand.settings = replace(stand.settings, keys=entries, inference=inference)
    engine = await stand.engine()
    client = await stand.open()
    for key, _ in keys:
        headers = {"authorization": f"Bearer {key}"}
        await client.post("/v1/chat/completions", json=body(), headers=headers)
    salts = [seen.json()["cache_salt"] for seen in engine.seen]
    assert [destination_of(salt) for salt in salts] == ["vault", ""]


@pytest.mark.parametrize(
    ("isolation", "salts"),
    [(Isolation.NONE, 1), (Isolation.TENANT, 1), (Isolation.CONVERSATION, 3)],
)
async def test_conversations_share_as_configured(
    stand: Stand, isolation: Isolation, salts: int
) -> None:
    stand.leases.kv_identity = "weights"
    inference = replace(stand.settings.inference, kv_isolation=isolation)
    stand.settings = replace(stand.settings, inference=inference)
    engine = await stand.engine()
    client = await stand.open()
    for conversation in ({"x-conversation-id": "1"}, {"x-conversation-id": "2"}, {}):
        await client.post("/v1/chat/completions", json=body(), headers=conversation)
    assert len({seen.json()["cache_salt"] for seen in engine.seen}) == salts


async def test_routes_without_kv_get_no_salt(stand: Stand) -> None:
    stand.leases.kv_identity = "weights"
    engine = await stand.engine()
    client = await stand.open()
    await client.post("/v1/embeddings", json={"model": "chat", "input": "hi"})
    assert "cache_salt" not in engine.seen[0].json()


async def test_what_was_found_is_told_and_counted(stand: Stand) -> None:
    stand.leases.kv_identity = "weights"
    await stand.engine(restored)
    client = await stand.open()
    answered = await client.post("/v1/chat/completions", json=body())
    assert answered.headers["x-torpor-kv"] == "hit=1792 of 1834 tier=redis"
    text = (await client.get("/metrics")).text
    assert 'torpor_kv_prompt_tokens_total{model="chat",tier="redis"} 1792.0' in text
    assert 'torpor_kv_prompt_tokens_total{model="chat",tier="computed"} 42.0' in text
    assert 'torpor_kv_computed_tokens_total{model="chat",reason="absent"} 42.0' in text


async def test_why_kv_was_computed_is_counted(stand: Stand) -> None:
    stand.leases.kv_identity = "weights"
    await stand.engine(given_up)
    client = await stand.open()
    await client.post("/v1/chat/completions", json=body())
    text = (await client.get("/metrics")).text
    assert 'torpor_kv_prompt_tokens_total{model="chat",tier="host"} 128.0' in text
    assert 'torpor_kv_computed_tokens_total{model="chat",reason="slow"} 1706.0' in text


async def test_the_engine_is_given_an_id_that_nobody_can_guess(stand: Stand) -> None:
    """It tells what it found by request id, and callers choose theirs."""
    stand.leases.kv_identity = "weights"
    engine = await stand.engine()
    client = await stand.open()
    for _ in range(2):
        answered = await client.post(
            "/v1/chat/completions", json=body(), headers={"x-request-id": "mine"}
        )
        assert answered.headers["x-request-id"] == "mine"
    first, second = (seen.headers["x-request-id"] for seen in engine.seen)
    assert first.startswith("mine-")
    assert first != second


async def test_a_response_is_asked_for_by_the_engines_id(stand: Stand) -> None:
    """vLLM takes that route's id from the body, and tells what it found by it."""
    stand.leases.kv_identity = "weights"
    engine = await stand.engine()
    client = await stand.open()
    asked = {"model": "chat", "input": "hi", "request_id": "somebody else's"}
    await client.post("/v1/responses", json=asked)
    await client.post("/v1/chat/completions", json=body(request_id=None))
    response, chat = engine.seen
    assert response.body.count(b"request_id") == 1
    assert response.json()["request_id"] == "resp_" + response.headers["x-request-id"]
    assert "request_id" not in chat.json()


async def test_without_kv_a_response_is_given_no_id(stand: Stand) -> None:
    engine = await stand.engine()
    client = await stand.open()
    await client.post("/v1/responses", json={"model": "chat", "input": "hi"})
    assert "request_id" not in engine.seen[0].json()


async def test_requests_that_begin_alike_say_so_to_the_fleet(stand: Stand) -> None:
    await stand.engine()
    client = await stand.open()
    for question in ("Who?", "Why?"):
        said = [{"role": "user", "content": "Once upon a time. " * 40 + question}]
        sent = {"model": "chat", "messages": said}
        await client.post("/v1/chat/completions", json=sent)
    await client.post("/v1/embeddings", json={"model": "chat", "input": "a word " * 200})
    first, second, embedding = (wait.affinity for wait in stand.leases.waits)
    assert first.prefix
    assert first.prefix == second.prefix
    assert embedding == first.__class__()
