"""Token records in a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis as Client

from kv_store.history import KEY_BYTES
from kv_store.history_seal import Seal
from kv_store.records import RecordsUnavailable, TokenRecord, TokenRecords
from kv_store.settings import Redis
from tests.kv_store.hand import tokens

TURN = TokenRecord(
    id="conversation-1",
    model="/models/m",
    salt="salt",
    tokens=[0, 1, 49_151, 2**32 - 1],
    turns=(2, 4),
    chunks=3,
    world_size=2,
)


@pytest.fixture
async def client(valkey: Redis) -> AsyncIterator[Client]:
    found = Client(host=valkey.host, port=valkey.port, password=valkey.password)
    await found.flushall()
    yield found
    await found.aclose()


@pytest.fixture
def records(client: Client) -> TokenRecords:
    return TokenRecords(client, kept_s=3600)


async def test_a_record_comes_back_as_it_was(records: TokenRecords) -> None:
    await records.put(TURN)

    found = await records.get("salt", "conversation-1")

    assert found is not None
    assert replace(found, tokens=list(found.tokens)) == TURN
    assert list(found.prefix.tokens) == TURN.tokens
    assert (found.prefix.model, found.prefix.salt, found.prefix.world_size) == (
        "/models/m",
        "salt",
        2,
    )


async def test_a_token_takes_four_bytes(records: TokenRecords, client: Client) -> None:
    await records.put(replace(TURN, tokens=tokens(8)))

    assert await client.hstrlen("torpor:kv:record:salt:conversation-1", "tokens") == 4 * 8 * 128  # type: ignore[misc]


async def test_its_turns_are_told_without_its_tokens(records: TokenRecords) -> None:
    await records.put(TURN)

    assert await records.turns("salt", "conversation-1") == (2, 4)
    assert await records.turns("salt", "gone") == ()


async def test_the_next_turn_replaces_the_record(records: TokenRecords) -> None:
    await records.put(TURN)
    await records.put(replace(TURN, tokens=[*TURN.tokens, 5], turns=(2, 4, 5)))

    found = await records.get("salt", "conversation-1")

    assert found is not None
    assert (len(found.tokens), found.turns) == (5, (2, 4, 5))
    assert await records.ids("salt") == ["conversation-1"]


async def test_another_salt_sees_nothing_of_it(records: TokenRecords) -> None:
    await records.put(TURN)

    assert await records.get("another", "conversation-1") is None
    assert await records.ids("another") == []


async def test_what_is_forgotten_is_gone(records: TokenRecords) -> None:
    await records.put(TURN)

    assert await records.forget("salt", "conversation-1") is True
    assert await records.forget("salt", "conversation-1") is False
    assert await records.get("salt", "conversation-1") is None
    assert await records.ids("salt") == []


async def test_the_index_forgets_what_has_expired(records: TokenRecords, client: Client) -> None:
    for number in range(3):
        await records.put(replace(TURN, id=f"c{number}", written_at_s=float(number)))
    await client.delete("torpor:kv:record:salt:c1")

    assert await records.ids("salt") == ["c0", "c2"]
    assert await client.zcard("torpor:kv:records:salt") == 2


async def test_a_record_lives_on_when_it_is_used(records: TokenRecords, client: Client) -> None:
    await records.put(TURN)
    key = "torpor:kv:record:salt:conversation-1"
    await client.expire(key, 10)

    await records.get("salt", "conversation-1")

    assert await client.ttl(key) > 3000


async def test_a_full_store_is_unavailable_and_no_crash(
    records: TokenRecords, client: Client
) -> None:
    await client.config_set("maxmemory", "1")
    try:
        with pytest.raises(RecordsUnavailable, match="OutOfMemory"):
            await records.put(TURN)
    finally:
        await client.config_set("maxmemory", "0")


async def test_an_absent_store_is_unavailable() -> None:
    absent = Client(port=1)
    with pytest.raises(RecordsUnavailable):
        await TokenRecords(absent, kept_s=1).get("salt", "id")
    await absent.aclose()


async def test_tokens_are_sealed_where_there_is_a_key(client: Client) -> None:
    plain = b"".join(number.to_bytes(4, "little") for number in TURN.tokens)
    name = "torpor:kv:record:salt:conversation-1"
    seal = Seal([bytes(KEY_BYTES)])
    sealed = TokenRecords(client, kept_s=3600, seal=seal)

    await TokenRecords(client, kept_s=3600).put(TURN)
    assert plain in await client.dump(name)
    found = await sealed.get("salt", "conversation-1")
    assert found is not None, "one from before there was a key"

    await sealed.put(TURN)
    assert plain not in await client.dump(name)
    found = await sealed.get("salt", "conversation-1")
    assert found is not None
    assert list(found.tokens) == TURN.tokens

    for other in (None, Seal([b"x" * KEY_BYTES])):
        records = TokenRecords(client, kept_s=3600, seal=other)
        assert await records.get("salt", "conversation-1") is None
    await client.copy(name, "torpor:kv:record:salt:conversation-2")
    assert await sealed.get("salt", "conversation-2") is None
