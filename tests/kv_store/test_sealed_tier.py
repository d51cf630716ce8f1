"""A real server that dies, over an object store that dies; what lies there is encrypted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from tests.kv_store.conftest import KEY, Tier, serving, settings_of
from tests.kv_store.decay import chunks_of
from tests.kv_store.hand import tokens
from tests.kv_store.object_store import SECRET, ObjectStore

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

LIMIT_S = 30.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own_store(
    weed: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ObjectStore]:
    store = ObjectStore(tmp_path_factory.mktemp("own-objects"))
    try:
        await store.start()
        yield store
    finally:
        store.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tier(
    own_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Tier]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    async for running in serving(settings_of(own_store, key=KEY), log, own_store):
        yield running


async def test_what_was_exported_outlives_the_server(tier: Tier) -> None:
    hand, turn = tier.hand("outliving"), tokens(3, seed=1)
    stored = hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    starts = tier.server.starts
    assert tier.server.pid is not None

    os.kill(tier.server.pid, signal.SIGKILL)
    await tier.healthy_again(starts)

    again = tier.hand(hand.model)
    came = await tier.server.client.recall(again.prefix(turn), limit_s=LIMIT_S)
    assert came.found == 3
    assert again.load(turn) == stored


async def test_nothing_that_was_computed_can_be_read_there(tier: Tier) -> None:
    hand, turn = tier.hand("secretive"), tokens(3, seed=2)
    stored = hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)

    lying = b"".join(chunk.read() for chunk in chunks_of(tier.place, hand.model))

    assert len(lying) > sum(map(len, stored))
    pieces = (chunk[at : at + 8] for chunk in stored for at in range(0, len(chunk), 1000))
    assert not any(piece in lying for piece in pieces)


async def test_keys_and_secrets_are_in_no_argument_and_no_log(tier: Tier) -> None:
    told = " ".join(psutil.Process(tier.server.pid).cmdline()) + tier.log.read_text()

    for secret in (KEY.hex(), SECRET):
        assert secret not in told


async def test_a_store_that_is_gone_is_a_miss_and_is_filled_when_it_is_back(
    tier: Tier, own_store: ObjectStore
) -> None:
    hand, turn, other = tier.hand("alone"), tokens(3, seed=3), tokens(3, seed=4)
    hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    hand.clear_as_stock_does()

    own_store.kill()
    assert hand.lookup(turn) == 0
    hand.store(other)
    dead = await tier.server.client.export(hand.prefix(other), limit_s=LIMIT_S)
    assert (dead.written, dead.failed) == (0, 3)
    await own_store.restart()

    async with asyncio.timeout(LIMIT_S):
        # For a moment after it was not reached, the store is not even asked.
        while not (await tier.server.client.export(hand.prefix(other), limit_s=5)).is_complete:
            continue
    assert hand.lookup(turn) == 3
