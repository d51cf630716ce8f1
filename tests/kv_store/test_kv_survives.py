"""KV outlives sleep, and the deaths of server, store and engine: real vLLM, LMCache, Valkey.

Two engine starts for the whole file; for a while both are awake, replicas of one model. Prompts
are this project's own documents, and answers are greedy: where KV was restored they must be equal
to the letter to those of an undisturbed turn.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kv_store.lmcache_client import Prefix
from kv_store.settings import MIB, Redis, TierSettings
from tests.conftest import count_engine_starts
from tests.kv_store.conftest import Tier, serving
from tests.kv_store.hand import tokens
from tests.kv_store.life import Engine, engine
from tests.kv_store.proxy import Proxy
from tests.kv_store.valkey import Valkey
from workers import demo_models

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(1200),
]

ROOT = Path(__file__).parents[2]
PROMPT_TOKENS, HIT_TOKENS = 1834, 1792
LIMIT_S = 20.0
IMPATIENT_S, PATIENT_S = 3.0, 60.0
"""How long engines wait for what the store has: one for a store that stands still, and one for
all that it kept."""


@pytest.fixture(scope="module")
def model(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a description of its own, which is changed in the end."""
    count_engine_starts(pytestconfig, 2)
    models = Path(os.environ.get("TORPOR_MODELS", ROOT / ".torpor/models"))
    own = tmp_path_factory.mktemp("model")
    for file in demo_models.prepare(models)[demo_models.CHAT].iterdir():
        if file.name == "config.json":
            (own / file.name).write_bytes(file.read_bytes())
        else:
            (own / file.name).symlink_to(file)
    return own


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    valkey = Valkey(tmp_path_factory.mktemp("valkey"), keeps=True)
    yield valkey
    valkey.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(store: Valkey) -> AsyncIterator[Proxy]:
    between = Proxy("127.0.0.1", store.port)
    yield between
    await between.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tier(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tier]:
    durable = Redis("127.0.0.1", await proxy.start())
    settings = TierSettings(f"t-{uuid.uuid4().hex[:8]}", 512 * MIB, durable)
    async for running in serving(settings, tmp_path_factory.mktemp("log") / "server.log"):
        yield running


async def ask(asked: Engine, prompt: list[int], request: str, **told: Any) -> dict[str, Any]:
    return await asked.order("ask", prompt=prompt, request=request, **told)


async def attached(asked: Engine, prompt: list[int]) -> None:
    """Until a lookup hits again: the engine has found its way back to the tier."""
    async with asyncio.timeout(LIMIT_S):
        for number in range(1000):
            again = await ask(asked, prompt, f"attached-{number}", most=1)
            if again["tier"]:
                return


async def test_kv_survives_sleep_and_a_restart_of_everything(
    model: Path, tier: Tier, store: Valkey, proxy: Proxy
) -> None:
    text, attachment = (ROOT / "docs/architecture.md").read_text(), tier.server.attachment
    async with engine(model, attachment, lookup_limit_s=IMPATIENT_S) as first_engine:
        everything = (await first_engine.order("tokenize", text=text))["tokens"]
        prompt = everything[:PROMPT_TOKENS]
        before = await asleep_and_awake(first_engine, prompt)
        await what_was_frozen_is_not_recomputed(first_engine, prompt, before["text"])
        turn = await the_answer_is_stored_too(first_engine, everything[-300:])
        await sleep_spares_other_models(first_engine, tier, prompt)
        await the_server_dies_in_a_store(first_engine, tier, Prefix(str(model), "dying", turn))
        await attached(first_engine, prompt[:300])
        await what_comes_then_is_stored(first_engine, everything[500:900])
        await exported(tier, str(model), prompt)
        await the_store_stands_still(first_engine, tier, proxy, prompt, before["text"])
        await first_engine.order("sleep", rest="level_1")
        await tier.server.stop()
        store.restart()
        async with engine(model, attachment, lookup_limit_s=PATIENT_S) as second_engine:
            absent = await ask(second_engine, everything[500:800], "absent")
            assert (absent["cached"], absent["tier"]) == (0, 0), "it starts, and answers, without"
            assert absent["header"] == "hit=0 of 300 tier=none why=away"
            await tier.server.start()
            await attached(second_engine, turn[:300])
            after = await ask(second_engine, prompt, "another-process")
            assert (after["cached"], after["text"]) == (HIT_TOKENS, before["text"])
            assert after["header"] == "hit=1792 of 1834 tier=redis", "the host tier was new"
            stranger = await ask(second_engine, prompt, "stranger", salt="another-tenant", most=1)
            assert stranger["tier"] == 0
            await engines_attached(tier, 2)
            await first_engine.order("wake")
            await attached(first_engine, turn[:300])
            await replicas_take_turns(first_engine, second_engine, everything[700:])
            await first_engine.kill()
            await the_server_dies_in_a_load(second_engine, tier, proxy, turn[:300])
            await what_lies_under_its_path_is_looked_at_with_each_reload(second_engine, model)


async def engines_attached(tier: Tier, count: int) -> None:
    """Asleep or awake."""
    async with asyncio.timeout(PATIENT_S):
        while len((await tier.server.client.status())["registered_non_cuda_instance_ids"]) < count:
            pass


async def asleep_and_awake(asked: Engine, prompt: list[int]) -> dict[str, Any]:
    """The measure is an undisturbed warm turn: computing it cold rounds otherwise in bfloat16."""
    cold = await ask(asked, prompt, "cold")
    assert (cold["cached"], cold["tier"]) == (0, 0)
    assert (await asked.order("stored", request="cold"))["stored"] == HIT_TOKENS
    warm = await ask(asked, prompt, "warm")
    assert warm["header"] == "hit=1792 of 1834 tier=engine"
    for rest in ("level_1", "level_2"):
        await asked.order("nap", rest=rest)
        again = await ask(asked, prompt, rest)
        assert again["cached"] == again["tier"] == HIT_TOKENS
        assert again["header"] == "hit=1792 of 1834 tier=host"
        assert again["text"] == warm["text"]
    return warm


async def what_was_frozen_is_not_recomputed(asked: Engine, prompt: list[int], text: str) -> None:
    for rest in ("level_1", "level_2"):
        thawed = await asked.order("freeze", prompt=prompt, request=f"frozen-{rest}", rest=rest)
        assert (thawed["engine"], thawed["tier"]) == (0, HIT_TOKENS)
        assert thawed["text"][: len(text) // 4] == text[: len(text) // 4]


async def the_answer_is_stored_too(asked: Engine, prompt: list[int]) -> list[int]:
    """Turn N+1 finds the tokens that turn N made."""
    answer = await ask(asked, prompt, "turn", most=150)
    turn = [*prompt, *answer["tokens"]]
    whole = (len(turn) - 1) // 128 * 128
    assert whole > len(prompt)
    assert (await asked.order("stored", request="turn"))["stored"] == whole
    await asked.order("nap", rest="level_1")
    assert (await ask(asked, [*turn, *prompt[:20]], "next-turn", most=1))["cached"] == whole
    return turn


async def replicas_take_turns(one: Engine, other: Engine, said: list[int]) -> None:
    """Both awake. Each finds what the other computed, and answers as that one would have."""
    first = await ask(one, said[:370], "turn-1", most=16)
    assert (await one.order("stored", request="turn-1"))["stored"] == 384
    prompt = [*said[:370], *first["tokens"], *said[370:488]]
    second = await ask(other, prompt, "turn-2", most=16)
    assert (await other.order("stored", request="turn-2"))["stored"] == 512
    longer = [*prompt, *second["tokens"], *said[488:508]]
    third = await ask(one, longer, "turn-3", most=16)
    for turn, hit in ((second, "hit=384 of 504"), (third, "hit=512 of 540")):
        assert turn["header"] == f"{hit} tier=host"
    at_home = await ask(one, prompt, "turn-2-at-home", most=16)
    assert (at_home["header"], at_home["text"]) == ("hit=384 of 504 tier=engine", second["text"])
    at_home = await ask(other, longer, "turn-3-at-home", most=16)
    assert (at_home["header"], at_home["text"]) == ("hit=512 of 540 tier=engine", third["text"])


async def sleep_spares_other_models(asked: Engine, tier: Tier, prompt: list[int]) -> None:
    """Stock, the engine's sleep sends what ``clear_as_stock_does`` sends."""
    other, others = tier.hand("another-model"), tokens(3)
    other.store(others)
    await asked.order("nap", rest="level_1")
    spared = await tier.server.client.verify(other.prefix(others), limit_s=LIMIT_S)
    assert spared.in_host == 3

    other.clear_as_stock_does()
    wiped = await tier.server.client.verify(other.prefix(others), limit_s=LIMIT_S)
    assert wiped.in_host == 0


async def the_server_dies_in_a_store(asked: Engine, tier: Tier, turn: Prefix) -> None:
    """After KV of the prompt was stored, before that of the answer; ``turn`` is what comes out."""
    prompt, answer = list(turn.tokens[:300]), list(turn.tokens[300:])
    asking = asyncio.create_task(ask(asked, prompt, "dying", salt=turn.salt, most=len(answer)))
    while (await tier.server.client.where(turn, limit_s=LIMIT_S)).in_host < 2:
        assert not asking.done()
    assert tier.server.pid is not None
    os.kill(tier.server.pid, signal.SIGKILL)
    assert (await asking)["tokens"] == answer


async def the_server_dies_in_a_load(
    asked: Engine, tier: Tier, proxy: Proxy, known: list[int]
) -> None:
    """While a request waits for its KV to come from the store."""
    tier.hand("anybody").clear_as_stock_does()
    await asked.order("nap", rest="level_1")
    proxy.stand_still()
    asking = asyncio.create_task(ask(asked, known, "dying-load", most=4))
    while not await loads(tier):
        assert not asking.done()
    assert tier.server.pid is not None
    os.kill(tier.server.pid, signal.SIGKILL)
    proxy.flow()
    lost = await asking
    assert (lost["cached"], len(lost["tokens"])) == (0, 4)
    await attached(asked, known)


async def what_lies_under_its_path_is_looked_at_with_each_reload(
    asked: Engine, model: Path
) -> None:
    before = (await asked.order("nap", rest="level_2"))["kv_identity"]
    config = model / "config.json"
    config.write_text(config.read_text().replace("{", '{"another": "checkpoint",', 1))
    kept = (await asked.order("nap", rest="level_1"))["kv_identity"]
    after = (await asked.order("nap", rest="level_2"))["kv_identity"]
    assert before == kept != after, "weights that stayed in memory are those from before"


async def loads(tier: Tier) -> int:
    """How many prefixes the server is about to load."""
    status = await tier.server.client.status()
    return int(status["storage_manager"]["prefetch_controller"]["in_flight_request_count"])


async def what_comes_then_is_stored(asked: Engine, fresh: list[int]) -> None:
    assert (await ask(asked, [*fresh[:200], *fresh], "stored-again", most=1))["tier"] == 0
    assert (await asked.order("stored", request="stored-again"))["stored"] == 512


async def the_store_stands_still(
    asked: Engine, tier: Tier, proxy: Proxy, prompt: list[int], text: str
) -> None:
    """A request waits for its KV as long as it was told, and then computes it."""
    proxy.stand_still()
    tier.hand("anybody").clear_as_stock_does()
    await asked.order("nap", rest="level_1")
    still = await ask(asked, prompt, "still", most=1)
    assert (still["cached"], still["tier"]) == (0, 0)
    proxy.flow()
    await attached(asked, prompt)
    await asked.order("nap", rest="level_1")
    flowing = await ask(asked, prompt, "flowing")
    assert (flowing["tier"], flowing["text"]) == (HIT_TOKENS, text)


async def exported(tier: Tier, model: str, prompt: list[int]) -> None:
    done = await tier.server.client.export(Prefix(model, "s", prompt), limit_s=LIMIT_S)
    assert done.already + done.written == HIT_TOKENS // 128, done
