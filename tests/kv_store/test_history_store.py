"""Histories in a real Valkey, sealed: whole or not at all, and nothing to read for others."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from kv_store.conversations import ConversationKey, RecordsUnavailable
from kv_store.history import KEY_BYTES, History, HistoryUnreadable, KeptResponse
from kv_store.history_seal import Seal
from kv_store.history_store import HistoryStore
from kv_store.redis_client import client_at
from kv_store.settings import Redis

KEY = ConversationKey('ten"ant', "c:1")
OTHER = ConversationKey("other", "c:1")
SECRET = "what nobody shall read"
BEGUN = History(created_s=1.5, metadata={"topic": SECRET})
OLD, NEW = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)


def item(number: int, text: str = SECRET) -> dict[str, Any]:
    return {"id": f"msg_{number}", "type": "message", "role": "user", "content": f"{text} {number}"}


@pytest.fixture
async def client(valkey: Redis) -> AsyncIterator[Client]:
    found = client_at(valkey)
    await found.flushall()
    yield found
    await found.aclose()


@pytest.fixture
def store(client: Client) -> HistoryStore:
    return HistoryStore(client, Seal([OLD]))


async def test_what_was_appended_is_loaded_in_order(store: HistoryStore) -> None:
    first = await store.append(KEY, BEGUN, [item(n) for n in range(12)], 2.0)
    await store.append(KEY, first, [item(12)], 3.0)
    found = await store.load(KEY)
    assert found is not None
    assert found.items == tuple(item(n) for n in range(13))
    assert (found.created_s, found.metadata) == (1.5, {"topic": SECRET})
    assert (found.numbers, found.next_number) == (tuple(range(13)), 13)
    assert found.sealed_bytes > 13 * len(SECRET)
    assert await store.known() == [(KEY, 3.0)]
    assert await store.load(OTHER) is None


async def test_an_item_that_was_removed_leaves_its_number_unused(store: HistoryStore) -> None:
    three = await store.append(KEY, BEGUN, [item(n) for n in range(3)], 1.0)
    two = await store.remove(KEY, three, "msg_1", 2.0)
    await store.append(KEY, two, [item(9)], 3.0)
    found = await store.load(KEY)
    assert found is not None
    assert [one["id"] for one in found.items] == ["msg_0", "msg_2", "msg_9"]
    assert found.numbers == (0, 2, 3)


async def test_described_anew(store: HistoryStore) -> None:
    made = await store.append(KEY, BEGUN, [], 1.0)
    await store.describe(KEY, made, {"topic": "other"}, 2.0)
    found = await store.load(KEY)
    assert found is not None
    assert found.metadata == {"topic": "other"}


async def test_responses_are_found_by_tenant_and_id(store: HistoryStore) -> None:
    kept = KeptResponse(
        "resp_1", KEY.id, True, ("resp_0",), 0, (item(1),), {"id": "resp_1", "output": [item(2)]}
    )
    await store.keep_response(KEY, kept, 1.0)
    (found, missing) = await store.responses(KEY.tenant, ["resp_1", "resp_2"])
    assert found is not None
    assert replace(found, sealed_bytes=0) == kept
    assert missing is None
    assert await store.responses(OTHER.tenant, ["resp_1"]) == [None]
    await store.forget_response(KEY.tenant, kept)
    assert await store.responses(KEY.tenant, ["resp_1"]) == [None]


async def test_nothing_is_left_of_what_was_forgotten(store: HistoryStore, client: Client) -> None:
    kept = KeptResponse("resp_1", KEY.id, False, answer={"id": "resp_1", "output": []})
    await store.append(KEY, BEGUN, [item(1)], 1.0, kept)
    await store.keep_response(KEY, replace(kept, id="resp_2"), 2.0)
    await store.append(OTHER, BEGUN, [item(1)], 1.0)
    before = len(await client.keys("*"))
    await store.forget(KEY)
    assert await store.load(KEY) is None
    assert [key for key, _ in await store.known()] == [OTHER]
    assert len(await client.keys("*")) == before - 4
    await store.forget(OTHER)
    assert await client.keys("*") == []


async def test_the_store_holds_nothing_to_read(store: HistoryStore, client: Client) -> None:
    kept = KeptResponse("resp_1", KEY.id, True, input=(item(1),), answer={"output": [item(2)]})
    await store.append(KEY, BEGUN, [item(1)], 1.0, kept)
    dumps = [await client.dump(name) for name in await client.keys("*")]
    assert not [dump for dump in dumps if SECRET.encode() in dump]
    assert SECRET not in repr(await store.load(KEY))
    assert SECRET not in repr(await store.responses(KEY.tenant, ["resp_1"]))


async def test_a_key_in_front_seals_and_an_old_one_still_opens(client: Client) -> None:
    made = await HistoryStore(client, Seal([OLD])).append(KEY, BEGUN, [item(0)], 1.0)
    both = HistoryStore(client, Seal([NEW, OLD]))
    await both.append(KEY, made, [item(1)], 2.0)
    found = await both.load(KEY)
    assert found is not None
    assert found.items == (item(0), item(1))
    for seal in (Seal([OLD]), Seal([NEW])):
        with pytest.raises(HistoryUnreadable, match="key that is not configured"):
            await HistoryStore(client, seal).load(KEY)


def name_of(key: ConversationKey) -> str:
    return f"torpor:history:{key}"


async def moved_within(client: Client) -> None:
    one, two = await client.hmget(name_of(KEY), ["0", "1"])
    await client.hset(name_of(KEY), mapping={"0": two, "1": one})


async def moved_to_another_tenant(client: Client) -> None:
    await client.copy(name_of(OTHER), name_of(KEY), replace=True)


async def altered(client: Client) -> None:
    sealed = bytearray(await client.hget(name_of(KEY), "0"))
    sealed[-1] ^= 1
    await client.hset(name_of(KEY), "0", bytes(sealed))


async def lost(client: Client) -> None:
    await client.hdel(name_of(KEY), "1")


async def lost_the_head(client: Client) -> None:
    await client.hdel(name_of(KEY), "head")


async def swapped_for_text(client: Client) -> None:
    await client.hset(name_of(KEY), "0", b'{"role":"user"}')


@pytest.mark.parametrize(
    "harm",
    [moved_within, moved_to_another_tenant, altered, lost, lost_the_head, swapped_for_text],
)
async def test_what_is_not_as_it_was_kept_is_not_read(
    store: HistoryStore, client: Client, harm: Any
) -> None:
    for key in (KEY, OTHER):
        await store.append(key, BEGUN, [item(0), item(1)], 1.0)
    await harm(client)
    with pytest.raises(HistoryUnreadable):
        await store.load(KEY)
    await store.forget(KEY)
    assert await store.load(KEY) is None, "it can be deleted all the same"


async def test_an_absent_store_is_unavailable(tmp_path: Path) -> None:
    store = HistoryStore.at(tmp_path / "nobody", Seal([OLD]))
    for asked in (
        store.load(KEY),
        store.append(KEY, BEGUN, [item(1)], 1.0),
    ):
        with pytest.raises(RecordsUnavailable):
            await asked
    await store.close()
