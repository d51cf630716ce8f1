"""Conversations through a whole controller: turns, orders, tenants, restarts, races."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controller.records_server import RecordsServer
from kv_store.redis_client import client_at
from tests.controller.conversing import Fleet, Talk, conversing, fake, hit, records_store
from workers.fake_tier import CHUNK_TOKENS

LONG = "one two three four five six seven eight"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with conversing(tmp_path) as running:
        yield running


@pytest.fixture
def store() -> Iterator[RecordsServer]:
    with records_store() as running:
        yield running


async def test_the_next_turn_finds_the_last_one_and_its_answer(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    first = await talk.send(LONG)
    second = await talk.send("and then")
    assert hit(first) == 0
    assert hit(second) >= 24
    view = await talk.view()
    assert (view["residency"], view["turns"], view["model"]) == ("IN_MEMORY", 2, "chat")
    assert view["tokens"] == 8 + 16 + 2 + 16
    assert view["host_bytes"] > 0


async def test_who_has_an_answer_and_looks_sees_its_turn(fleet: Fleet) -> None:
    talk, client = Talk(fleet.as_("one"), "c"), fleet.as_("boss")
    for turn, look in ((1, "/fleet/conversations/c?tenant=one"), (2, "/fleet/conversations")):
        fleet.tier.tells.clear()
        await talk.send(LONG)
        asyncio.get_running_loop().call_later(0.2, fleet.tier.tells.set)
        seen = (await client.get(look)).json()
        assert seen.get("conversations", [seen])[0]["turns"] == turn


async def test_an_engine_that_does_not_tell_of_a_turn_keeps_nobody_from_looking(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.drivers.settling.LIMIT_S", 0.05)
    talk = Talk(fleet.as_("one"), "c")
    fleet.tier.tells.clear()
    await talk.send(LONG)
    assert [(await talk.view())[name] for name in ("turns", "doing")] == [0, "turn"]
    (listed,) = (await talk.client.get("/fleet/conversations")).json()["conversations"]
    assert listed["doing"] == "turn"
    fleet.tier.tells.set()
    assert (await talk.order("hibernate")).json()["status"] == "done"
    assert (await talk.view())["turns"] == 1


async def test_hibernated_and_woken_by_the_next_message(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    done = await talk.order("hibernate")
    assert (done.status_code, done.json()["status"]) == (200, "done")
    view = await talk.view()
    assert (view["residency"], view["host_bytes"]) == ("HIBERNATED", 0)
    assert view["durable_bytes"] > 0
    assert fleet.tier.host == set()
    assert hit(await talk.send("and then")) >= 24
    assert (await talk.view())["residency"] == "IN_MEMORY"


async def test_rehydrated_before_it_is_asked(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    await talk.order("hibernate")
    await talk.order("rehydrate")
    view = await talk.view()
    assert (view["residency"], view["host_bytes"]) == ("IN_MEMORY", view["durable_bytes"])


async def test_reset_forgets_the_kv_and_keeps_the_conversation(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    await talk.order("hibernate")
    await talk.order("reset")
    view = await talk.view()
    assert (view["residency"], view["tokens"], view["turns"]) == ("NOT_CREATED", 0, 1)
    assert fleet.tier.host | fleet.tier.durable == set()
    assert hit(await talk.send("and then")) == 0


async def test_deleted_it_is_gone_from_every_tier(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    await talk.order("hibernate")
    gone = await talk.client.delete("/fleet/conversations/c", params={"wait": "true"})
    assert gone.json()["status"] == "done"
    assert fleet.tier.host | fleet.tier.durable == set()
    found = await talk.client.get("/fleet/conversations/c")
    assert (found.status_code, found.json()["error"]["code"]) == (404, "conversation_not_found")


async def test_tenants_with_one_id_see_nothing_of_each_other(fleet: Fleet) -> None:
    one, two = Talk(fleet.as_("one"), "same"), Talk(fleet.as_("two"), "same")
    await one.send(LONG)
    assert hit(await two.send(LONG)) == 0
    await one.send("and then")
    assert (await one.view())["turns"] == 2
    assert (await two.view())["turns"] == 1
    await one.client.delete("/fleet/conversations/same", params={"wait": "true"})
    assert hit(await two.send("and then")) > 0


async def test_a_tenant_sees_its_own_and_an_admin_all(fleet: Fleet) -> None:
    for who in ("one", "two"):
        await Talk(fleet.as_(who), "c").send(LONG)
    boss = fleet.as_("boss")
    own = (await fleet.as_("one").get("/fleet/conversations")).json()
    assert [c["tenant"] for c in own["conversations"]] == ["one"]
    assert own["statistics"]["total"] == 1
    every = (await boss.get("/fleet/conversations")).json()
    assert [c["tenant"] for c in every["conversations"]] == ["one", "two"]
    assert (await boss.get("/fleet/conversations/c")).status_code == 404
    assert (await boss.get("/fleet/conversations/c", params={"tenant": "two"})).status_code == 200
    foreign = await fleet.as_("one").get("/fleet/conversations", params={"tenant": "two"})
    assert foreign.status_code == 403
    hidden = await fleet.as_("one").post("/fleet/models/chat/sleep")
    assert hidden.status_code == 403


async def test_pages_and_filters(fleet: Fleet) -> None:
    client = fleet.as_("one")
    for number in range(5):
        await Talk(client, f"c{number}").send(LONG)
    await Talk(client, "c3").order("hibernate")

    async def ids(**query: object) -> list[str]:
        page = (await client.get("/fleet/conversations", params=query)).json()  # type: ignore[arg-type]
        return [c["conversation"] for c in page["conversations"]]

    first = (await client.get("/fleet/conversations", params={"limit": 3})).json()
    assert [c["conversation"] for c in first["conversations"]] == ["c0", "c1", "c2"]
    assert await ids(limit=3, after=first["after"]) == ["c3", "c4"]
    assert await ids(residency="HIBERNATED") == ["c3"]
    assert await ids(model="another") == []
    assert await ids(idle_longer_than_s=3600) == []
    assert first["statistics"]["by_residency"] == {
        "NOT_CREATED": 0,
        "IN_MEMORY": 4,
        "HIBERNATED": 1,
    }


@pytest.mark.parametrize("body", [{"conversation_id": "c"}, {"conversation": {"id": "c"}}])
async def test_the_body_may_name_it_and_the_engine_does_not_see_that(
    fleet: Fleet, body: dict[str, object]
) -> None:
    client = fleet.as_("one")
    asked = {"model": "chat", "messages": [{"role": "user", "content": LONG}], **body}
    answer = await client.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200
    assert (await client.get("/fleet/conversations/c")).json()["turns"] == 1


async def test_without_an_id_there_is_no_conversation(fleet: Fleet) -> None:
    client = fleet.as_("one")
    asked = {"model": "chat", "messages": [{"role": "user", "content": LONG}]}
    await client.post("/v1/chat/completions", json=asked)
    page = (await client.get("/fleet/conversations")).json()
    assert page["conversations"] == []


@pytest.mark.parametrize(
    ("header", "body"),
    [("not / one", {}), ("a", {"conversation_id": "b"}), ("", {"conversation_id": 7})],
)
async def test_bad_ids_are_refused(fleet: Fleet, header: str, body: dict[str, object]) -> None:
    headers = {"x-conversation-id": header} if header else {}
    asked = {"model": "chat", "messages": [{"role": "user", "content": "x"}], **body}
    answer = await fleet.as_("one").post("/v1/chat/completions", json=asked, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_conversation")


async def test_a_refused_request_leaves_no_conversation(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c", model="nobody")
    assert (await talk.send(LONG)).status_code == 404
    assert (await talk.client.get("/fleet/conversations/c")).status_code == 404


async def test_idle_ones_are_hibernated_together(fleet: Fleet) -> None:
    client = fleet.as_("one")
    for number in range(3):
        await Talk(client, f"c{number}").send(f"{number} {LONG}")
    await Talk(fleet.as_("two"), "c").send(LONG)
    done = await client.post(
        "/fleet/conversations/hibernate", json={"idle_longer_than_s": 0}, params={"wait": "true"}
    )
    assert done.json()["status"] == "done"
    every = (await fleet.as_("boss").get("/fleet/conversations")).json()
    assert every["statistics"]["by_residency"]["HIBERNATED"] == 3


async def test_the_aliases(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    ended = await talk.client.post("/v1/conversations/end", json={"conversation_id": "c"})
    assert ended.status_code in (200, 202)
    listed = await talk.client.post("/v1/conversations/list", json={"limit": 1})
    assert [c["conversation"] for c in listed.json()["conversations"]] == ["c"]


async def test_a_tier_that_is_away_fails_the_order_and_no_request(fleet: Fleet) -> None:
    talk = Talk(fleet.as_("one"), "c")
    await talk.send(LONG)
    fleet.tier.is_away = True
    failed = await talk.order("hibernate")
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "operation_failed")
    assert (await talk.view())["residency"] == "IN_MEMORY"
    assert (await talk.send("and then")).status_code == 200
    fleet.tier.is_away = False
    assert (await talk.order("hibernate")).status_code == 200


async def test_turns_run_one_after_another_and_orders_between_them(tmp_path: Path) -> None:
    async with conversing(tmp_path, models=(fake("chat", token_delay_s=0.003),)) as fleet:
        client = fleet.as_("one")
        body = {"model": "chat", "max_tokens": 40, "conversation_id": "c", "prompt": LONG}
        turns = [
            asyncio.create_task(client.post("/v1/completions", json=body | {"user": str(n)}))
            for n in range(5)
        ]
        await turns[0]
        running = (await client.get("/fleet/conversations/c")).json()
        assert running["doing"] == "turn"
        hibernations = await asyncio.gather(
            *(client.post("/fleet/conversations/c/hibernate") for _ in range(3))
        )
        assert len({h.json()["operation"] for h in hibernations}) == 1, "they join"
        assert {h.status_code for h in hibernations} == {202}, "and wait for the inference"
        assert [turn.status_code for turn in await asyncio.gather(*turns)] == [200] * 5
        await client.post("/fleet/conversations/c/hibernate", params={"wait": "true"})
        last = (await client.get("/fleet/conversations/c")).json()
        assert (last["turns"], last["residency"]) == (5, "HIBERNATED")


async def test_a_full_line_is_refused_with_a_time_to_come_back(tmp_path: Path) -> None:
    slow = (fake("chat", token_delay_s=0.01),)
    async with conversing(tmp_path, models=slow, conversations={"waiting": 1}) as fleet:
        client = fleet.as_("one")
        body = {"model": "chat", "max_tokens": 30, "conversation_id": "c", "prompt": LONG}
        answers = await asyncio.gather(
            *(client.post("/v1/completions", json=body) for _ in range(4))
        )
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) == 2
        assert refused[0].json()["error"]["code"] == "conversation_busy"
        assert int(refused[0].headers["retry-after"]) >= 1


async def test_the_reaper_hibernates_and_expires(tmp_path: Path) -> None:
    times = {"hibernate_after_s": 0.1, "expire_after_s": 0.6}
    async with conversing(tmp_path, conversations=times) as fleet:
        talk = Talk(fleet.as_("one"), "c")
        boss = fleet.as_("boss")
        seen = set()
        async with boss.stream("GET", "/fleet/events") as events:
            lines = events.aiter_lines()
            await anext(lines)
            await talk.send(LONG)
            async for line in lines:
                if '"act":"hibernate"' in line:
                    seen.add("hibernated")
                if '"act":"delete"' in line:
                    break
        assert seen == {"hibernated"}
        assert (await talk.client.get("/fleet/conversations/c")).status_code == 404
        assert fleet.tier.host | fleet.tier.durable == set()
        told = (await boss.get("/metrics")).text
        assert 'torpor_conversations_reaped_total{outcome="expired"} 1.0' in told


async def test_all_of_it_survives_a_full_restart(
    tmp_path: Path, store: RecordsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORPOR_RECORDS_SOCKET", str(store.socket))
    monkeypatch.setenv("TORPOR_RUN", "first")
    async with conversing(tmp_path) as fleet:
        asleep, awake = Talk(fleet.as_("one"), "asleep"), Talk(fleet.as_("one"), "awake")
        await asleep.send(LONG)
        await asleep.order("hibernate")
        await awake.send(f"another {LONG}")
        before = await asleep.view()
    store.stop()
    store.start()
    monkeypatch.setenv("TORPOR_RUN", "second")
    async with conversing(tmp_path) as fleet:
        page = (await fleet.as_("one").get("/fleet/conversations")).json()
        found = {c["conversation"]: c for c in page["conversations"]}
        assert set(found) == {"asleep", "awake"}
        assert found["awake"]["residency"] == "HIBERNATED", "its host tier ended with its run"
        for name in ("turns", "tokens", "durable_bytes", "created", "last_use", "residency"):
            assert found["asleep"][name] == before[name]
        assert (await Talk(fleet.as_("one"), "asleep").order("rehydrate")).status_code == 200


async def test_where_its_turns_ended_and_how_many_chunks_they_left_is_on_record(
    tmp_path: Path, store: RecordsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORPOR_RECORDS_SOCKET", str(store.socket))
    async with conversing(tmp_path) as fleet:
        talk = Talk(fleet.as_("one"), "c")
        for text in (LONG, "and then", "and after that"):
            await talk.send(text)
        del talk.said[2:]
        await talk.send("or rather")
        tokens = (await talk.view())["tokens"]
    async with client_at(store.socket) as records:
        (name,) = [key async for key in records.scan_iter("torpor:kv:record:*")]
        packed = await records.hgetall(name)
    assert list(memoryview(packed[b"turns"]).cast("I")) == [8 + 16, 8 + 16 + 2 + 16]
    assert (tokens, int(packed[b"chunks"])) == (42, 42 // CHUNK_TOKENS)


async def test_the_records_store_may_go_and_come_back(
    tmp_path: Path, store: RecordsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORPOR_RECORDS_SOCKET", str(store.socket))
    monkeypatch.setenv("TORPOR_RUN", "run")
    async with conversing(tmp_path) as fleet:
        before, meanwhile = Talk(fleet.as_("one"), "before"), Talk(fleet.as_("one"), "meanwhile")
        await before.send(LONG)
        await before.order("hibernate")
        store.stop()
        assert (await meanwhile.send(f"another {LONG}")).status_code == 200
        failed = await before.order("rehydrate")
        assert "RecordsUnavailable" in failed.json()["error"]["message"]
        store.start()
        for talk in (before, meanwhile):
            assert (await talk.send("and then")).status_code == 200
            assert (await talk.order("hibernate")).json()["status"] == "done"
    async with conversing(tmp_path) as fleet:
        page = (await fleet.as_("one").get("/fleet/conversations")).json()
        found = {c["conversation"]: (c["turns"], c["residency"]) for c in page["conversations"]}
        assert found == {"before": (2, "HIBERNATED"), "meanwhile": (2, "HIBERNATED")}


async def test_nothing_is_left_of_many_lives(fleet: Fleet) -> None:
    client = fleet.as_("one")
    for number in range(50):
        talk = Talk(client, f"c{number % 5}")
        await talk.send(f"{number} {LONG}")
        await talk.order(("hibernate", "rehydrate", "reset")[number % 3])
        await client.delete(f"/fleet/conversations/{talk.id}", params={"wait": "true"})
    assert fleet.tier.host | fleet.tier.durable == set()
    assert (await client.get("/fleet/conversations")).json()["conversations"] == []


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_races_every_request_is_answered_and_residency_is_true(
    tmp_path: Path, seed: int
) -> None:
    """Requests, orders about conversations, sleeps of the model and a tier that comes and goes."""
    luck = random.Random(seed)
    async with conversing(tmp_path, models=(fake("chat", token_delay_s=0.001),)) as fleet:
        client, boss = fleet.as_("one"), fleet.as_("boss")
        talks = [Talk(client, f"c{number}") for number in range(4)]

        async def live(talk: Talk) -> None:
            for _ in range(12):
                what = luck.choice(["send", "send", "hibernate", "rehydrate", "reset", "delete"])
                if what == "send":
                    assert (await talk.send(LONG)).status_code == 200
                elif what == "delete":
                    await client.delete(f"/fleet/conversations/{talk.id}")
                else:
                    await talk.order(what, wait=luck.choice(["true", "false"]))

        async def disturb() -> None:
            for _ in range(6):
                await boss.post("/fleet/models/chat/sleep", params={"wait": "true"})
                fleet.tier.is_away = not fleet.tier.is_away

        await asyncio.gather(*(live(talk) for talk in talks), *(live(t) for t in talks), disturb())
        assert fleet.tier.is_away is False
        page = (await client.get("/fleet/conversations")).json()["conversations"]
        for found in page:
            await Talk(client, found["conversation"]).order("rehydrate")
            view = (await client.get(f"/fleet/conversations/{found['conversation']}")).json()
            assert view["doing"] is None
            await Talk(client, found["conversation"]).order("hibernate")
            view = (await client.get(f"/fleet/conversations/{found['conversation']}")).json()
            assert view["residency"] == ("HIBERNATED" if view["tokens"] else "NOT_CREATED")
            assert view["host_bytes"] == 0


async def test_two_hundred_conversations_over_three_models_with_room_for_one(
    tmp_path: Path,
) -> None:
    models = tuple(fake(f"m{number}", sleep_s=0.001, wake_s=0.001) for number in range(3))
    memory = {"device_budget_gib": 0.25}
    async with conversing(tmp_path, models=models, memory=memory) as fleet:
        client = fleet.as_("one")
        talks = [Talk(client, f"c{n}", f"m{n % 3}") for n in range(200)]
        firsts = await asyncio.gather(*(t.send(f"{t.id} {LONG}") for t in talks))
        seconds = await asyncio.gather(*(t.send("and then") for t in talks))
        assert {answer.status_code for answer in firsts + seconds} == {200}
        assert all(hit(answer) >= 24 for answer in seconds)
        for talk in talks:
            words = " ".join(m["content"] for m in talk.said)
            assert talk.said[1]["content"].split()[1] == talk.id, "its own words come back"
            assert "and then" in words
        page = (await client.get("/fleet/conversations", params={"limit": 1000})).json()
        assert [c["turns"] for c in page["conversations"]] == [2] * 200
        assert page["statistics"]["hits"] == 200
