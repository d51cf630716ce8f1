"""Nothing is leaked: files and keys are counted over a thousand lives of conversations.

Turns, hibernations, rehydrations, changed histories, resets and deletions, by the controller's own
hands, against a real LMCache server over a directory, with the records in a real Valkey. No
engine: a hand stores the chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from redis.asyncio import Redis as Client

from controller.core.conversations import ConversationLimits
from controller.core.fleet import Fleet
from controller.core.names import FleetPolicy
from controller.drivers.conversation_entries import Entries
from controller.drivers.conversation_keeping import Keeping
from controller.drivers.conversations import LiveConversations
from controller.drivers.live import LiveDriver
from controller.drivers.operations import Operations
from controller.drivers.recalls import Recalls
from controller.metrics import Metrics
from kv_store.conversation_records import ConversationRecords
from kv_store.conversations import ConversationKey, KVPlace
from kv_store.lmcache_client import Placed, Prefix, TierUnavailable
from kv_store.placing import KVOrder, place
from kv_store.settings import Redis
from kv_store.turns import TurnTold
from tests.kv_store.conftest import Tier
from tests.kv_store.decay import chunks_of
from tests.kv_store.hand import Hand, tokens
from workers.engine import EngineError
from workers.local_pool import LocalPool

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
    pytest.mark.parametrize("place", ["directory"], indirect=True, scope="module"),
]

CYCLES, ROUNDS, LANES = 1000, 5, 8
CHUNK, CHUNK_BYTES = 128, 32 * 1024
MODEL = "lives"
TEXTS = [tokens(4, seed=seed) for seed in range(8)]


@dataclass
class Orders:
    """The KVOrders port, right to the tier."""

    tier: Tier

    def place(self, replica: str, salt: str) -> KVPlace | None:
        return KVPlace("node", MODEL, salt)

    async def carry_out(self, place_: KVPlace, order: KVOrder, prefix: Prefix) -> Placed:
        try:
            return await place(self.tier.server.client, order, prefix, 20.0)
        except TierUnavailable as error:
            raise EngineError(str(error)) from error


@dataclass
class Life:
    conversations: LiveConversations
    hand: Hand
    store: Client
    tier: Tier

    async def turn(self, name: str, said: list[int], salt: str = "s") -> None:
        key = ConversationKey("t", name)
        async with self.conversations.turn(key, "m") as turn:
            turn.reaches()
            self.hand.store(said, salt)
            await turn.spoke("m#0", salt, b"", TurnTold(len(said) // CHUNK, said))

    async def order(self, what: str, name: str) -> None:
        operation = getattr(self.conversations, what)(ConversationKey("t", name))
        ended = await self.conversations.wait(operation)
        assert (ended.status, ended.error) == ("done", "")

    async def keys(self) -> int:
        """Of records alone."""
        found = [key async for key in self.store.scan_iter("torpor:conversation*", count=1000)]
        return len(found) + len([k async for k in self.store.scan_iter("torpor:kv:record*")])

    def files(self) -> int:
        return len(chunks_of(self.tier.place, MODEL))

    async def where(self, said: list[int]) -> Placed:
        return await place(self.tier.server.client, KVOrder.WHERE, self.hand.prefix(said), 20.0)


@pytest_asyncio.fixture(loop_scope="module", params=[True, False], ids=["keep", "drop"])
async def life(request: pytest.FixtureRequest, tier: Tier, valkey: Redis) -> AsyncIterator[Life]:
    records = ConversationRecords.at(valkey)
    entries = Entries(ConversationLimits(keeps_copies=request.param), "run")
    orders = Orders(tier)
    keeping = Keeping(entries, records, orders)
    driver = LiveDriver(Fleet(FleetPolicy()), LocalPool(), [])
    recalls = Recalls(driver, records, orders, Metrics().kv)
    conversations = LiveConversations(entries, keeping, recalls, Operations(), lambda *_: None)
    store = Client(host=valkey.host, port=valkey.port, password=valkey.password)
    await store.flushall()
    await conversations.open()
    yield Life(conversations, tier.hand(MODEL), store, tier)
    await conversations.close()
    await store.aclose()


async def test_a_changed_history_leaves_nothing_of_its_old_end(life: Life) -> None:
    said, changed = TEXTS[0], TEXTS[0][: 2 * CHUNK] + TEXTS[1][2 * CHUNK :]
    await life.turn("c", said)
    await life.order("hibernate", "c")
    assert life.files() == 4
    await life.turn("c", changed)
    assert (await life.where(said)).in_durable <= 2
    await life.order("hibernate", "c")
    assert life.files() == 4
    assert (await life.where(changed)).in_durable == 4
    await life.order("delete", "c")
    assert life.files() == 0


async def test_only_what_was_added_is_written_again(life: Life) -> None:
    said = TEXTS[0]
    await life.turn("c", said[: 3 * CHUNK])
    await life.order("hibernate", "c")
    await life.order("rehydrate", "c")
    kept = life.conversations.entries.limits.keeps_copies
    assert life.files() == (3 if kept else 0)
    await life.turn("c", said)
    exported = await life.tier.server.client.export(life.hand.prefix(said), limit_s=20.0)
    assert exported.is_complete
    assert exported.already >= (3 if kept else 0)
    await life.order("hibernate", "c")
    assert life.files() == 4
    await life.order("delete", "c")


async def test_every_ranks_part_of_a_conversation_goes_with_it(life: Life) -> None:
    said, key = TEXTS[2], ConversationKey("t", "wide")
    ranks = life.tier.ranks(MODEL, 2)
    async with life.conversations.turn(key, "m") as turn:
        turn.reaches()
        for rank in ranks:
            rank.store(said)
        await turn.spoke("m#0", "s", b"", TurnTold(4, said, ranks=2))

    await life.order("hibernate", "wide")
    assert life.files() == 8
    assert life.conversations.view(key).durable_bytes == 8 * CHUNK_BYTES
    await life.order("rehydrate", "wide")
    assert ranks[1].lookup(said, request="cmpl-wide-near-turn-1") == 4
    await life.order("delete", "wide")
    assert life.files() == 0
    assert ranks[0].lookup(said) == 0


@pytest.mark.parametrize("life", [True], ids=["keep"], indirect=True)
async def test_a_thousand_lives_leave_no_file_and_no_key(life: Life) -> None:
    for _ in range(ROUNDS):
        await asyncio.gather(*(_lives(life, lane) for lane in range(LANES)))
        assert life.files() <= LANES * 4
        assert await life.keys() <= 1 + LANES * 3  # an index; of each: record, tokens, their index
        for left in life.conversations.entries:
            await life.order("delete", left.key.id)
        assert (life.files(), await life.keys()) == (0, 0)


async def _lives(life: Life, lane: int) -> None:
    """A lane's texts are its own: what conversations share goes when one of them is deleted."""
    name, texts = f"c{lane}", [tokens(4, seed=10 * lane + text) for text in range(3)]
    for number in range(CYCLES // (ROUNDS * LANES)):
        await life.turn(name, texts[number % len(texts)][: (1 + number % 4) * CHUNK])
        match (number + lane) % 5:
            case 0 | 1:
                await life.order("hibernate", name)
            case 2:
                await life.order("rehydrate", name)
            case 3:
                await life.order("reset", name)
            case _:
                await life.order("delete", name)
