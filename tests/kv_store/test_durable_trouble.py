"""A Valkey that is full, stands still, dies and comes back: an export says so, and mends it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from kv_store.settings import MIB, Redis, TierSettings
from tests.kv_store.conftest import Tier, serving
from tests.kv_store.hand import tokens
from tests.kv_store.proxy import Proxy
from tests.kv_store.valkey import Valkey

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

LIMIT_S = 10.0
"""The proxy runs in the tests' loop, so hands that wait for the store work in threads."""


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    valkey = Valkey(tmp_path_factory.mktemp("valkey"))
    yield valkey
    valkey.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(own_valkey: Valkey) -> AsyncIterator[tuple[Proxy, int]]:
    between = Proxy("127.0.0.1", own_valkey.port)
    yield between, await between.start()
    await between.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tier(
    proxy: tuple[Proxy, int], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Tier]:
    settings = TierSettings(f"t-{uuid.uuid4().hex[:8]}", 64 * MIB, Redis("127.0.0.1", proxy[1]))
    async for running in serving(settings, tmp_path_factory.mktemp("log") / "server.log"):
        yield running


async def test_a_full_store_fails_the_export_and_nothing_else(
    tier: Tier, own_valkey: Valkey
) -> None:
    hand, turn = tier.hand("full"), tokens(3, seed=1)
    with own_valkey.client() as client:
        client.config_set("maxmemory", "1")
        await asyncio.to_thread(hand.store, turn)
        full = await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
        assert (full.written, full.already, full.failed) == (0, 0, 3)
        assert await asyncio.to_thread(hand.lookup, turn) == 3, "the host tier serves on"
        client.config_set("maxmemory", "0")

    mended = await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    assert (mended.written, mended.is_complete) == (3, True)


async def test_a_store_that_stands_still_costs_an_export_its_limit(
    tier: Tier, proxy: tuple[Proxy, int]
) -> None:
    hand, turn = tier.hand("still"), tokens(3, seed=2)
    proxy[0].stand_still()
    await asyncio.to_thread(hand.store, turn)

    still = await tier.server.client.export(hand.prefix(turn), limit_s=0.5)
    assert (still.written, still.failed, still.seconds < LIMIT_S) == (0, 3, True)

    proxy[0].flow()
    flowing = await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    assert flowing.is_complete


async def test_a_slow_store_is_waited_for_within_the_limit(
    tier: Tier, proxy: tuple[Proxy, int]
) -> None:
    client, hand, turn = tier.server.client, tier.hand("slow"), tokens(3, seed=5)
    proxy[0].slow_down(0.05)
    stored = await asyncio.to_thread(hand.store, turn)

    slow = await client.export(hand.prefix(turn), limit_s=6 * LIMIT_S)
    assert slow.is_complete
    await asyncio.to_thread(hand.clear_as_stock_does)
    recalled = await client.recall(hand.prefix(turn), limit_s=6 * LIMIT_S)
    assert (recalled.found, recalled.bytes) == (3, sum(map(len, stored)))
    assert recalled.seconds > 0.05, "so that it is known to be slow"

    proxy[0].slow_down(0.0)
    assert await asyncio.to_thread(hand.load, turn) == stored


async def test_a_store_that_comes_back_empty_is_filled_again(
    tier: Tier, own_valkey: Valkey
) -> None:
    hand, turn = tier.hand("back"), tokens(3, seed=3)
    await asyncio.to_thread(hand.store, turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)

    own_valkey.kill()
    dead = await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    assert dead.failed == 3
    own_valkey.restart()

    async with asyncio.timeout(LIMIT_S):
        # For a moment after it was not reached, the store is not even asked.
        while not (await tier.server.client.export(hand.prefix(turn), limit_s=1)).is_complete:
            continue
    verified = await tier.server.client.verify(hand.prefix(turn), limit_s=LIMIT_S)
    assert verified.sound == 3
