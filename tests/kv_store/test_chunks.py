"""Export, verify, delete, recall and the guard, against a real server over each durable tier.

An engine's hand stores random chunks; no engine is started.
"""

from __future__ import annotations

import asyncio

import pytest

from kv_store.lmcache_client import Deleted, TierUnavailable
from kv_store.placing import KVOrder, place
from kv_store.server_command import segment_path
from kv_store.settings import MIB
from tests.kv_store.conftest import Tier
from tests.kv_store.decay import chunks_of, flip
from tests.kv_store.hand import tokens
from tests.workers.stand import eventually
from workers.host_memory import file_bytes

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

LIMIT_S = 10.0
CHUNK_BYTES = 32 * 1024
SMALL_BYTES = 8 * MIB


async def test_export_says_where_every_chunk_stands(tier: Tier) -> None:
    hand, turn = tier.hand(), tokens(5, seed=1)
    hand.store(turn[: 3 * 128])

    half = await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)

    assert (half.chunks, half.written + half.already, half.absent) == (5, 3, 2)
    assert (half.failed, half.is_complete) == (0, False)
    hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    whole = await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    assert (whole.already, whole.written, whole.is_complete) == (5, 0, True)
    verified = await tier.server.client.verify(hand.prefix(turn), limit_s=LIMIT_S)
    assert (verified.in_host, verified.in_durable, verified.sound, verified.unsound) == (5, 5, 5, 0)


async def test_export_writes_again_what_the_durable_tier_has_lost(tier: Tier) -> None:
    hand, turn = tier.hand("forgetful"), tokens(4, seed=2)
    hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    chunks_of(tier.place, hand.model)[0].remove()

    again = await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)

    assert (again.already, again.written, again.is_complete) == (3, 1, True)
    found = await tier.server.client.verify(hand.prefix(turn), limit_s=LIMIT_S)
    assert found.sound == 4


async def test_what_left_the_host_tier_comes_back_from_the_durable_one(tier: Tier) -> None:
    hand, turn = tier.hand(), tokens(4, seed=3)
    stored = hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    hand.clear_as_stock_does()

    recalled = await tier.server.client.recall(hand.prefix(turn), limit_s=LIMIT_S)

    assert (recalled.found, recalled.wanted) == (4, 4)
    assert recalled.bytes == sum(map(len, stored))
    assert hand.load(turn) == stored
    assert hand.lookup(turn, request="cmpl-one-0-abc") == 4
    looked = await tier.server.client.looked("cmpl-one")
    assert looked is not None
    assert (looked.host_tokens, looked.durable_tokens) == (512, 0)
    assert await tier.server.client.looked("never-asked") is None
    assert hand.lookup(turn, request="cmpl-team/7?-0-abc") == 4
    assert await tier.server.client.looked("cmpl-team/7?") == looked


async def test_a_recall_in_slices_ends_at_a_gap(tier: Tier) -> None:
    hand, turn = tier.hand("gappy"), tokens(100, seed=31)
    hand.store(turn[: 70 * 128])
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    hand.clear_as_stock_does()

    recalled = await tier.server.client.recall(hand.prefix(turn), limit_s=LIMIT_S)

    assert (recalled.found, recalled.wanted) == (70, 100)
    again = await tier.server.client.recall(hand.prefix(turn), limit_s=LIMIT_S)
    assert (again.found, again.bytes) == (70, 0), "it lies in the host tier already"


async def test_of_a_prefix_larger_than_its_part_of_the_host_tier_the_beginning_is_recalled(
    tier: Tier,
) -> None:
    hand, halves = tier.hand("large"), tokens(1100, seed=32)
    hand.store(halves[: 550 * 128])
    await tier.server.client.export(hand.prefix(halves), limit_s=LIMIT_S)
    hand.store(halves)
    await tier.server.client.export(hand.prefix(halves), limit_s=LIMIT_S)
    hand.clear_as_stock_does()

    recalled = await tier.server.client.recall(hand.prefix(halves), limit_s=LIMIT_S)

    assert (recalled.found, recalled.wanted) == (1024, 1100)


async def test_a_recall_waits_for_an_engine_of_the_model_as_long_as_it_was_told(
    tier: Tier,
) -> None:
    client, early, turn = tier.server.client, tier.hand("late"), tokens(2, seed=33)
    early.store(turn)
    await client.export(early.prefix(turn), limit_s=LIMIT_S)
    early.clear_as_stock_does()
    tier.hands.remove(early)
    early.close()

    with pytest.raises(TierUnavailable, match="no engine"):
        await client.recall(early.prefix(turn), limit_s=LIMIT_S)
    waiting = asyncio.create_task(
        client.recall(early.prefix(turn), limit_s=LIMIT_S, attach_s=LIMIT_S)
    )
    await asyncio.to_thread(tier.hand, "late")

    assert (await waiting).found == 2


async def test_a_request_that_is_told_to_stay_near_asks_the_host_tier_only(tier: Tier) -> None:
    hand, turn = tier.hand("near"), tokens(4, seed=34)
    hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    assert hand.lookup(turn, request="cmpl-a-near-turn-1") == 4
    hand.clear_as_stock_does()

    assert hand.lookup(turn, request="cmpl-b-near-turn-1") == 0
    assert hand.lookup(turn, request="cmpl-b-turn-1") == 4


async def test_a_host_tier_that_shrinks_hands_its_memory_back_and_loses_nothing(tier: Tier) -> None:
    client, hand = tier.server.client, tier.hand("shrinking")
    hand.clear_as_stock_does()
    old, young = tokens(800, seed=35), tokens(100, seed=36)
    stored_old, stored_young = hand.store(old), hand.store(young)
    for each in (old, young):
        await client.export(hand.prefix(each), limit_s=60)
    assert taken_bytes(tier) >= 900 * CHUNK_BYTES

    shrunk = await client.resize(SMALL_BYTES, limit_s=60)

    assert shrunk.bytes == SMALL_BYTES
    assert shrunk.evicted > 0
    assert taken_bytes(tier) <= SMALL_BYTES
    assert hand.lookup(young, request="cmpl-c-near-turn-1") == 100
    assert hand.load(young) == stored_young
    told = await client.where(hand.prefix(old), limit_s=LIMIT_S)
    assert told.in_durable == 800
    assert len(hand.store(tokens(30, seed=37))) == 30
    grown = await client.resize(tier.settings.host_bytes, limit_s=LIMIT_S)
    assert (grown.bytes, grown.evicted) == (tier.settings.host_bytes, 0)
    recalled = await client.recall(hand.prefix(old), limit_s=LIMIT_S)
    assert recalled.found == 800
    assert hand.load(old) == stored_old


async def test_what_the_host_tier_has_no_room_for_is_not_stored(tier: Tier) -> None:
    client, hand, long = tier.server.client, tier.hand("crowded"), tokens(400, seed=45)
    hand.clear_as_stock_does()
    await client.resize(SMALL_BYTES, limit_s=60)

    assert hand.store(long) == []

    exported = await client.export(hand.prefix(long), limit_s=LIMIT_S)
    assert (exported.absent, exported.failed, hand.lookup(long)) == (400, 0, 0)
    fitting = hand.store(long[: 100 * 128])
    assert len(fitting) == 100
    assert hand.load(long) == fitting
    await client.resize(tier.settings.host_bytes, limit_s=LIMIT_S)


def taken_bytes(tier: Tier) -> int:
    return file_bytes([segment_path(tier.settings)])


async def test_another_salt_or_model_finds_nothing(tier: Tier) -> None:
    hand, other, turn = tier.hand(), tier.hand("another"), tokens(2, seed=4)
    hand.store(turn, salt="tenant-one")

    assert hand.lookup(turn, salt="tenant-one") == 2
    assert hand.lookup(turn, salt="tenant-two") == 0
    assert other.lookup(turn, salt="tenant-one") == 0


async def test_delete_leaves_nothing_of_the_prefix_and_all_of_others(tier: Tier) -> None:
    hand, turn, kept = tier.hand(), tokens(3, seed=5), tokens(3, seed=6)
    for each in (turn, kept):
        hand.store(each)
        await tier.server.client.export(hand.prefix(each), limit_s=LIMIT_S)

    assert await tier.server.client.delete(hand.prefix(turn)) == Deleted(3, 3, 0)

    assert hand.lookup(turn) == 0
    assert hand.lookup(kept) == 3
    left = await tier.server.client.verify(hand.prefix(kept), limit_s=LIMIT_S)
    assert (left.in_host, left.sound) == (3, 3)


@pytest.mark.parametrize("where", [0, 31, 32, 20_000, -1])
async def test_a_flipped_byte_is_a_miss_and_its_chunk_goes(tier: Tier, where: int) -> None:
    hand, turn = tier.hand(f"flipped-{where}"), tokens(3, seed=7)
    stored = hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    hand.clear_as_stock_does()
    flipped = chunks_of(tier.place, hand.model)[0]
    flip(flipped, where)

    verified = await tier.server.client.verify(hand.prefix(turn), limit_s=LIMIT_S)
    assert (verified.in_durable, verified.sound, verified.unsound) == (3, 2, 1)
    loaded = hand.load(turn)
    assert loaded == stored[: len(loaded)]
    assert len(loaded) < 3

    await eventually(lambda: not flipped.exists())
    hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    mended = await tier.server.client.verify(hand.prefix(turn), limit_s=LIMIT_S)
    assert (mended.sound, mended.unsound) == (3, 0)


async def test_a_chunk_under_another_chunks_name_is_refused(tier: Tier) -> None:
    hand, turn = tier.hand("swapped"), tokens(2, seed=8)
    hand.store(turn)
    await tier.server.client.export(hand.prefix(turn), limit_s=LIMIT_S)
    one, other = chunks_of(tier.place, hand.model)
    one.write(other.read())

    verified = await tier.server.client.verify(hand.prefix(turn), limit_s=LIMIT_S)

    assert (verified.sound, verified.unsound) == (1, 1)


async def test_a_conversation_hibernates_and_comes_back(tier: Tier) -> None:
    client, hand, turn = tier.server.client, tier.hand("sleepy"), tokens(4, seed=21)
    stored = hand.store(turn)
    prefix = hand.prefix(turn)

    slept = await place(client, KVOrder.HIBERNATE, prefix, LIMIT_S)

    assert (slept.objects, slept.in_host, slept.in_durable) == (4, 0, 4)
    assert slept.durable_bytes == sum(map(len, stored))
    awake = await place(client, KVOrder.REHYDRATE, prefix, LIMIT_S)
    assert (awake.in_host, awake.in_durable) == (4, 4)
    assert awake.host_bytes == slept.durable_bytes
    assert hand.load(turn) == stored


async def test_only_what_lies_in_the_durable_tier_is_released(tier: Tier) -> None:
    client, hand, turn = tier.server.client, tier.hand("careful"), tokens(3, seed=22)
    hand.store(turn)
    await client.export(hand.prefix(turn), limit_s=LIMIT_S)
    chunks_of(tier.place, hand.model)[0].remove()

    released = await client.release(hand.prefix(turn), limit_s=LIMIT_S)

    assert (released.in_host, released.in_durable) == (1, 2)


async def test_a_forgotten_conversation_leaves_nothing(tier: Tier) -> None:
    client, hand, turn = tier.server.client, tier.hand("gone"), tokens(3, seed=23)
    hand.store(turn)
    await place(client, KVOrder.HIBERNATE, hand.prefix(turn), LIMIT_S)
    await place(client, KVOrder.FORGET, hand.prefix(turn), LIMIT_S)

    left = await place(client, KVOrder.WHERE, hand.prefix(turn), LIMIT_S)

    assert (left.objects, left.in_host, left.in_durable) == (3, 0, 0)
    assert chunks_of(tier.place, hand.model) == []


async def test_every_rank_of_an_engine_keeps_a_part_of_its_own(tier: Tier) -> None:
    client, turn = tier.server.client, tokens(3, seed=41)
    one, other = tier.ranks("wide", 2)
    stored = [*one.store(turn), *other.store(turn)]
    prefix = one.prefix(turn)

    exported = await client.export(prefix, limit_s=LIMIT_S)
    assert (exported.chunks, exported.written + exported.already) == (3, 6)
    assert exported.is_complete
    verified = await client.verify(prefix, limit_s=LIMIT_S)
    assert (verified.chunks, verified.in_host, verified.sound, verified.unsound) == (3, 6, 6, 0)

    slept = await place(client, KVOrder.HIBERNATE, prefix, LIMIT_S)
    assert (slept.objects, slept.in_host, slept.in_durable) == (6, 0, 6)
    assert slept.durable_bytes == sum(map(len, stored))
    assert one.lookup(turn, request="cmpl-d-near-turn-1") == 0
    recalled = await client.recall(prefix, limit_s=LIMIT_S)
    assert (recalled.found, recalled.wanted) == (6, 6)
    assert recalled.bytes == sum(map(len, stored))
    assert one.load(turn, others=[other]) == stored
    assert other.lookup(turn, request="cmpl-wide-0-abc") == 3
    looked = await client.looked("cmpl-wide")
    assert looked is not None
    assert (looked.wanted_tokens, looked.host_tokens, looked.durable_tokens) == (384, 384, 0)


async def test_an_engine_of_fewer_ranks_finds_nothing_of_one_of_more(tier: Tier) -> None:
    client, turn, (one, other) = tier.server.client, tokens(2, seed=42), tier.ranks("split", 2)
    alone = tier.hand("split")
    stored = [*one.store(turn), *other.store(turn)]
    await client.export(one.prefix(turn), limit_s=LIMIT_S)

    assert alone.lookup(turn) == 0
    placed = await client.where(alone.prefix(turn), limit_s=LIMIT_S)
    assert (placed.objects, placed.in_host, placed.in_durable) == (2, 0, 0)
    alone.store(turn)
    await client.export(alone.prefix(turn), limit_s=LIMIT_S)
    assert await client.delete(alone.prefix(turn)) == Deleted(2, 2, 0)
    assert one.load(turn, others=[other]) == stored
    assert await client.delete(one.prefix(turn)) == Deleted(4, 4, 0)
    assert one.lookup(turn) == 0
    assert chunks_of(tier.place, "split") == []


async def test_a_chunk_that_one_rank_lacks_is_a_miss_for_all(tier: Tier) -> None:
    client, turn, (one, other) = tier.server.client, tokens(4, seed=43), tier.ranks("uneven", 2)
    whole, part = one.store(turn), other.store(turn[: 3 * 128])
    prefix = one.prefix(turn)

    exported = await client.export(prefix, limit_s=LIMIT_S)
    assert (exported.written + exported.already, exported.failed, exported.absent) == (7, 0, 1)
    assert one.load(turn, others=[other]) == [*whole[:3], *part]
    slept = await place(client, KVOrder.HIBERNATE, prefix, LIMIT_S)
    assert (slept.objects, slept.in_host, slept.in_durable) == (8, 0, 7)
    assert one.load(turn, others=[other]) == [*whole[:3], *part]


async def test_a_flipped_byte_of_one_rank_is_a_miss_for_all(tier: Tier) -> None:
    client, turn, (one, other) = tier.server.client, tokens(3, seed=44), tier.ranks("decayed", 2)
    whole = [one.store(turn), other.store(turn)]
    await place(client, KVOrder.HIBERNATE, one.prefix(turn), LIMIT_S)
    flipped = chunks_of(tier.place, "decayed")[0]
    flip(flipped, -1)

    loaded = one.load(turn, others=[other])

    left = len(loaded) // 2
    assert left < 3
    assert loaded == [chunk for rank in whole for chunk in rank[:left]]
    await eventually(lambda: not flipped.exists())
    for each in (one, other):
        each.store(turn)
    await client.export(one.prefix(turn), limit_s=LIMIT_S)
    mended = await client.verify(one.prefix(turn), limit_s=LIMIT_S)
    assert (mended.sound, mended.unsound) == (6, 0)
