"""Server-side history through a whole controller, as OpenAI's official client speaks it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import openai.types.responses
import pytest

from controller.client import FleetClient
from controller.records_server import RecordsServer
from kv_store.redis_client import client_at
from tests.controller.conversing import Fleet, conversing, fake, records_store
from tests.controller.test_conversation_client import torpor
from tests.controller.test_conversation_limits import statistics

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def store() -> Iterator[RecordsServer]:
    with records_store() as running:
        yield running


@pytest.fixture
def keys(store: RecordsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORPOR_RECORDS_SOCKET", str(store.socket))
    file = tmp_path / "history.keys"
    file.write_text(KEY)
    return file


@asynccontextmanager
async def remembering(directory: Path, **more: Any) -> AsyncIterator[Fleet]:
    history = {"keys_file": str(directory / "history.keys"), **more.pop("history", {})}
    conversations = {"history": history, **more.pop("conversations", {})}
    async with conversing(directory, conversations=conversations, **more) as fleet:
        yield fleet


@pytest.fixture
async def fleet(keys: Path, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with remembering(tmp_path) as running:
        yield running


async def chat(client: openai.AsyncOpenAI, id: str, text: str, tokens: int = 4) -> str:
    """The fake engine answers a digest of all that it heard, then what it heard, word by word."""
    said = await client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": text}],
        max_tokens=tokens,
        store=True,
        extra_headers={"x-conversation-id": id},
    )
    return said.choices[0].message.content or ""


OTHER_KEY = bytes(range(32, 64)).hex()


def named(id: str) -> dict[str, str]:
    return {"x-conversation-id": id}


def heard(said: str | None, words: int) -> str:
    """What the engine heard, by its answer: the words behind its mark."""
    assert said is not None
    return " ".join(said.split()[1 : words + 1])


def written_below(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def put_keys(file: Path, text: str) -> None:
    file.write_text(text)


async def items(client: openai.AsyncOpenAI, id: str) -> list[dict[str, Any]]:
    """Oldest first."""
    return [item.to_dict() async for item in client.conversations.items.list(id, order="asc")]


async def respond(
    client: openai.AsyncOpenAI, text: str, tokens: int = 4, **more: Any
) -> openai.types.responses.Response:
    made = await client.responses.create(model="chat", input=text, max_output_tokens=tokens, **more)
    assert isinstance(made, openai.types.responses.Response)
    return made


async def streamed(client: openai.AsyncOpenAI, route: str, id: str, text: str) -> str:
    if route == "responses":
        events = await client.responses.create(
            model="chat", input=text, stream=True, store=True, conversation=id
        )
        told = [event.delta async for event in events if event.type.endswith("text.delta")]
        return "".join(told)
    chunks = await client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": text}],
        stream=True,
        store=True,
        extra_headers=named(id),
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


async def test_the_new_turn_alone_is_sent(fleet: Fleet) -> None:
    client = fleet.openai("one")
    first = await chat(client, "c", "apples are red")
    second = await chat(client, "c", "and pears", 20)
    assert heard(second, 9) == f"apples are red {first} and pears"
    told = (await fleet.as_("boss").get("/metrics")).text
    assert "torpor_history_items_total 4.0" in told
    assert "torpor_conversations_with_history 1.0" in told


async def test_a_client_that_says_everything_again_is_not_doubled(fleet: Fleet) -> None:
    client = fleet.openai("one")
    first = await chat(client, "c", "apples are red")
    said: list[Any] = [
        {"role": "user", "content": "apples are red"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "and pears"},
    ]
    second = await client.chat.completions.create(
        model="chat", messages=said, max_tokens=20, store=True, extra_headers=named("c")
    )
    assert heard(second.choices[0].message.content, 9) == f"apples are red {first} and pears"
    assert len(await items(client, "c")) == 4
    said[1] = {"role": "assistant", "content": "another"}
    with pytest.raises(openai.ConflictError, match="not the one kept"):
        await client.chat.completions.create(
            model="chat", messages=said, store=True, extra_headers=named("c")
        )
    assert len(await items(client, "c")) == 4


async def test_without_store_or_a_name_nothing_is_kept(fleet: Fleet) -> None:
    client = fleet.openai("one")
    ask: Any = {"model": "chat", "messages": [{"role": "user", "content": "apples"}]}
    await client.chat.completions.create(**ask, store=True)
    await client.chat.completions.create(**ask, extra_headers=named("c"))
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve("c")
    answer = await client.responses.create(model="chat", input="apples")
    with pytest.raises(openai.NotFoundError, match="store: true"):
        await client.responses.create(model="chat", input="pears", previous_response_id=answer.id)


async def test_tools_are_called_over_two_turns(fleet: Fleet) -> None:
    client = fleet.openai("one")
    made = await client.conversations.create(
        items=[
            {"role": "user", "content": "weather in Paris?"},
            {"type": "function_call", "call_id": "call_1", "name": "w", "arguments": "{}"},
        ]
    )
    told = await client.chat.completions.create(
        model="chat",
        messages=[{"role": "tool", "tool_call_id": "call_1", "content": "sunny"}],
        max_tokens=20,
        store=True,
        extra_body={"conversation_id": made.id},
    )
    assert heard(told.choices[0].message.content, 4) == "weather in Paris? sunny"
    kinds = [item["type"] for item in await items(client, made.id)]
    assert kinds == ["message", "function_call", "function_call_output", "message"]


@pytest.mark.parametrize("route", ["chat", "responses"])
async def test_streams_are_kept_too(fleet: Fleet, route: str) -> None:
    client = fleet.openai("one")
    said = await streamed(client, route, "c", "apples are red")
    kept = await items(client, "c")
    assert [item["content"][0]["text"] for item in kept] == ["apples are red", said]
    assert heard(await chat(client, "c", "and pears", 20), 9).startswith("apples are red")


@pytest.mark.parametrize("fault", ["drop", "die"])
async def test_of_a_stream_that_broke_nothing_is_kept(
    keys: Path, tmp_path: Path, fault: str
) -> None:
    broken = (fake("chat", faults={"request": ["ok", fault]}),)
    async with remembering(tmp_path, models=broken) as fleet:
        client = fleet.openai("one")
        await chat(client, "c", "apples are red")
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            await streamed(client, "chat", "c", "and pears")
        assert len(await items(client, "c")) == 2
        assert "pears" not in await chat(client, "c", "and plums", 20)


async def test_of_a_turn_whose_client_left_nothing_is_kept(keys: Path, tmp_path: Path) -> None:
    async with remembering(tmp_path, models=(fake("chat", token_delay_s=0.01),)) as fleet:
        client = fleet.openai("one")
        stream = await client.chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": "apples"}],
            max_tokens=5000,
            stream=True,
            store=True,
            extra_headers=named("c"),
        )
        await anext(aiter(stream))
        await stream.close()
        assert heard(await chat(client, "c", "pears"), 1) == "pears"
        assert len(await items(client, "c")) == 2


async def test_an_answer_that_cannot_be_kept_is_not_given_as_a_whole_one(
    keys: Path, tmp_path: Path, store: RecordsServer
) -> None:
    async with remembering(tmp_path, models=(fake("chat", token_delay_s=0.002),)) as fleet:
        client = fleet.openai("one")
        await chat(client, "c", "apples are red")
        stream = await client.chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": "and pears"}],
            max_tokens=400,
            stream=True,
            store=True,
            extra_headers=named("c"),
        )
        await anext(aiter(stream))
        store.stop()
        with pytest.raises(openai.APIError, match="cannot be read or written"):
            async for _ in stream:
                pass
        with pytest.raises(openai.InternalServerError, match="cannot be read or written"):
            await chat(client, "c", "and plums")
        answer = await client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "apples"}]
        )
        assert answer.choices, "whoever needs no history is served"
        told = (await fleet.as_("boss").get("/metrics")).text
        assert 'torpor_history_failures_total{act="append"} 1.0' in told
        assert 'torpor_history_failures_total{act="load"} 1.0' in told
        store.start()
        assert len(await items(client, "c")) == 2
        assert "pears" not in await chat(client, "c", "and plums", 20)


async def test_conversations_as_the_official_client_speaks_them(fleet: Fleet) -> None:
    client = fleet.openai("one")
    made = await client.conversations.create(
        metadata={"topic": "fruit"}, items=[{"role": "user", "content": "apples"}]
    )
    assert (made.object, made.metadata) == ("conversation", {"topic": "fruit"})
    assert await client.conversations.retrieve(made.id) == made
    updated = await client.conversations.update(made.id, metadata={"topic": "pears"})
    assert updated.metadata == {"topic": "pears"}
    assert updated.created_at == made.created_at
    added = await client.conversations.items.create(
        made.id,
        items=[
            {"role": "assistant", "content": f"answer {n}", "type": "message"} for n in range(6)
        ],
    )
    assert [type(item).__name__ for item in added.data] == ["Message"] * 6
    assert added.first_id == added.data[0].id

    newest = await client.conversations.items.list(made.id, limit=2)
    assert newest.has_more
    assert [item.id for item in newest.data] == [added.data[5].id, added.data[4].id]
    listed = client.conversations.items.list(made.id, limit=2, order="asc")
    every = [item.id async for item in listed]
    assert every[1:] == [item.id for item in added.data]
    one = await client.conversations.items.retrieve(
        added.data[2].id, conversation_id=made.id, include=["message.output_text.logprobs"]
    )
    assert one == added.data[2]
    left = await client.conversations.items.delete(one.id, conversation_id=made.id)
    assert left.id == made.id
    with pytest.raises(openai.NotFoundError, match="There is no item"):
        await client.conversations.items.retrieve(one.id, conversation_id=made.id)
    assert len(await items(client, made.id)) == 6

    gone = await client.conversations.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    for asked in (
        client.conversations.retrieve(made.id),
        client.conversations.delete(made.id),
        client.conversations.update(made.id, metadata={}),
        client.conversations.items.create(made.id, items=[{"role": "user", "content": "x"}]),
    ):
        with pytest.raises(openai.NotFoundError):
            await asked


async def test_half_a_character_is_kept_as_it_was_said(fleet: Fleet) -> None:
    own = fleet.as_("one")
    body = b'{"items": [{"role": "user", "content": "\\ud83d"}], "metadata": {"of": "\\ud83d"}}'
    headers = {"content-type": "application/json"}
    made = await own.post("/v1/conversations", content=body, headers=headers)
    assert made.status_code == 200, made.text
    listed = await own.get(f"/v1/conversations/{made.json()['id']}/items")
    assert listed.json()["data"][0]["content"][0]["text"] == "\ud83d"


async def test_an_empty_conversation_can_be_begun(fleet: Fleet) -> None:
    client = fleet.openai("one")
    made = await client.conversations.create()
    assert made.metadata == {}
    assert (await client.conversations.items.list(made.id)).data == []
    assert heard(await chat(client, made.id, "apples"), 1) == "apples"


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"name": 7}},
        {"metadata": {"n" * 65: "x"}},
        {"metadata": {str(n): "x" for n in range(17)}},
        {"items": [{"role": "user", "content": "x"}] * 21},
        {"items": ["x"]},
    ],
)
async def test_a_conversation_that_cannot_be_is_refused(fleet: Fleet, body: dict[str, Any]) -> None:
    answer = await fleet.as_("one").post("/v1/conversations", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_history")


async def test_responses_in_a_conversation(fleet: Fleet) -> None:
    client = fleet.openai("one")
    made = await client.conversations.create(items=[{"role": "user", "content": "hello"}])
    first = await respond(client, "apples", conversation=made.id, tokens=3)
    assert first.conversation is not None
    assert first.conversation.id == made.id
    second = await respond(client, "pears", conversation={"id": made.id}, tokens=20)
    assert heard(second.output_text, 6) == f"hello apples {first.output_text} pears"
    kept = await items(client, made.id)
    assert [item["role"] for item in kept] == ["user", "user", "assistant", "user", "assistant"]
    inputs = [item.id async for item in client.responses.input_items.list(second.id, order="asc")]
    assert inputs == [item["id"] for item in kept[:4]]
    with pytest.raises(openai.BadRequestError, match="name it instead"):
        await respond(client, "plums", previous_response_id=second.id)
    with pytest.raises(openai.BadRequestError, match="not from both"):
        await respond(client, "plums", previous_response_id=second.id, conversation=made.id)
    await client.conversations.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(second.id)


async def test_responses_go_on_from_one_another(fleet: Fleet) -> None:
    client = fleet.openai("one")
    first = await respond(client, "apples", store=True, tokens=2)
    second = await respond(client, "pears", previous_response_id=first.id, tokens=20)
    assert second.previous_response_id == first.id
    assert heard(second.output_text, 4) == f"apples {first.output_text} pears"
    branch = await respond(client, "plums", previous_response_id=first.id, tokens=20)
    assert heard(branch.output_text, 4) == f"apples {first.output_text} plums"
    third = await respond(client, "figs", previous_response_id=second.id, tokens=40)
    assert "pears" in third.output_text
    assert "plums" not in third.output_text

    got = await client.responses.retrieve(second.id)
    assert (got.output_text, got.status) == (second.output_text, "completed")
    inputs = [item async for item in client.responses.input_items.list(second.id, limit=1)]
    assert [item.type for item in inputs] == ["message"] * 3
    (line,) = (await fleet.as_("one").get("/fleet/conversations")).json()["conversations"]
    assert line["turns"] == 4, "all of them are one conversation"

    await client.responses.delete(second.id)
    for asked in (
        client.responses.retrieve(second.id),
        respond(client, "x", previous_response_id=second.id),
        respond(client, "x", previous_response_id=third.id),
    ):
        with pytest.raises(openai.NotFoundError, match=second.id):
            await asked
    assert (await client.responses.retrieve(third.id)).output_text == third.output_text


async def test_a_streamed_response_can_be_gone_on_from(fleet: Fleet) -> None:
    client = fleet.openai("one")
    stream = await client.responses.create(
        model="chat", input="apples", store=True, stream=True, max_output_tokens=2
    )
    last = [event async for event in stream][-1]
    assert last.type == "response.completed"
    second = await respond(client, "pears", previous_response_id=last.response.id, tokens=20)
    assert heard(second.output_text, 1) == "apples"


async def test_what_is_only_looked_at_is_not_kept(fleet: Fleet) -> None:
    client = fleet.openai("one")
    made = await client.conversations.create(items=[{"role": "user", "content": "apples"}])
    seen = await respond(client, "pears", conversation=made.id, store=False, tokens=20)
    assert heard(seen.output_text, 2) == "apples pears"
    assert len(await items(client, made.id)) == 1
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(seen.id)


async def test_instructions_are_of_one_request(fleet: Fleet) -> None:
    client = fleet.openai("one")
    first = await respond(client, "apples", store=True, instructions="be brief", tokens=2)
    second = await respond(client, "pears", previous_response_id=first.id, tokens=20)
    assert "brief" not in second.output_text


async def test_two_tenants_see_nothing_of_each_other(fleet: Fleet) -> None:
    one, two = fleet.openai("one"), fleet.openai("two")
    await chat(one, "same", "apples")
    assert "apples" not in await chat(two, "same", "pears", 20)
    made = await one.conversations.create(items=[{"role": "user", "content": "apples"}])
    kept = await respond(one, "apples", store=True)
    item = (await one.conversations.items.list(made.id)).data[0].id
    for asked in (
        two.conversations.retrieve(made.id),
        two.conversations.delete(made.id),
        two.conversations.items.list(made.id),
        two.conversations.items.retrieve(item, conversation_id=made.id),
        two.responses.retrieve(kept.id),
        two.responses.delete(kept.id),
        respond(two, "x", previous_response_id=kept.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await asked
    await two.conversations.delete("same")
    assert len(await items(one, "same")) == 2


async def test_it_survives_a_full_restart_and_cannot_be_read_on_disk(
    keys: Path, tmp_path: Path, store: RecordsServer
) -> None:
    async with remembering(tmp_path) as fleet:
        client = fleet.openai("one")
        await chat(client, "c", "rutabagas are purple")
        made = await client.conversations.create(items=[{"role": "user", "content": "rutabagas"}])
        first = await respond(client, "rutabagas", store=True, tokens=2)
    store.stop()
    written = written_below(store.socket.parent)
    assert b"torpor:history:" in written
    assert b"sealed_tokens" in written
    assert b"rutabagas" not in written
    assert b"rutabagas" not in written_below(tmp_path)
    store.start()
    async with remembering(tmp_path) as fleet:
        client = fleet.openai("one")
        assert heard(await chat(client, "c", "and pears", 20), 3) == "rutabagas are purple"
        seen = await respond(client, "pears", conversation=made.id, tokens=20)
        assert heard(seen.output_text, 1) == "rutabagas"
        second = await respond(client, "pears", previous_response_id=first.id, tokens=20)
        assert heard(second.output_text, 1) == "rutabagas"


async def test_a_key_can_be_changed_for_another(keys: Path, tmp_path: Path) -> None:
    async with remembering(tmp_path) as fleet:
        await chat(fleet.openai("one"), "c", "apples")
    put_keys(keys, f"# the new one first\n{OTHER_KEY}\n{KEY}\n")
    async with remembering(tmp_path) as fleet:
        assert heard(await chat(fleet.openai("one"), "c", "pears", 20), 1) == "apples"
    put_keys(keys, OTHER_KEY)
    async with remembering(tmp_path) as fleet:
        with pytest.raises(openai.InternalServerError, match="key that is not configured"):
            await chat(fleet.openai("one"), "c", "plums")
        await fleet.openai("one").conversations.delete("c")
        assert heard(await chat(fleet.openai("one"), "c", "plums"), 1) == "plums"


async def test_without_a_key_it_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with conversing(tmp_path) as fleet:
        client = fleet.openai("one")
        for asked in (
            chat(client, "c", "apples"),
            respond(client, "apples", store=True),
            respond(client, "apples", previous_response_id="resp_1"),
            client.conversations.create(),
            client.responses.retrieve("resp_1"),
        ):
            with pytest.raises(openai.BadRequestError, match="TORPOR_HISTORY_KEYS"):
                await asked
        assert (await respond(client, "apples", conversation="c")).output_text


async def test_a_full_conversation_takes_nothing_more(keys: Path, tmp_path: Path) -> None:
    async with remembering(tmp_path, history={"limit_items": 3}) as fleet:
        client = fleet.openai("one")
        await chat(client, "c", "apples")
        await chat(client, "c", "pears")
        for asked in (
            chat(client, "c", "plums"),
            client.conversations.items.create("c", items=[{"role": "user", "content": "x"}]),
        ):
            with pytest.raises(openai.APIStatusError) as refused:
                await asked
            assert refused.value.status_code == 413
        first = await respond(client, "apples", store=True)
        second = await respond(client, "pears", previous_response_id=first.id)
        with pytest.raises(openai.APIStatusError, match="as much as one may"):
            await respond(client, "plums", previous_response_id=second.id)


async def test_a_history_ends_with_its_conversation(
    keys: Path, tmp_path: Path, store: RecordsServer
) -> None:
    lifetimes = {"expire_after_s": 0.5}
    async with remembering(tmp_path, conversations=lifetimes) as fleet:
        client, boss = fleet.openai("one"), fleet.as_("boss")
        async with boss.stream("GET", "/fleet/events") as events:
            lines = events.aiter_lines()
            await anext(lines)
            await client.conversations.create(items=[{"role": "user", "content": "apples"}])
            await respond(client, "apples", store=True)
            gone = 0
            while gone < 2:
                gone += '"act":"delete"' in await anext(lines)
    await _nothing_is_kept(store)


async def test_deleted_by_the_fleets_own_route_and_kept_by_a_reset(
    keys: Path, tmp_path: Path, store: RecordsServer
) -> None:
    async with remembering(tmp_path) as fleet:
        client, own = fleet.openai("one"), fleet.as_("one")
        await chat(client, "c", "apples")
        await respond(client, "pears", conversation="c")
        reset = await own.post("/fleet/conversations/c/reset", params={"wait": "true"})
        assert reset.status_code == 200
        assert len(await items(client, "c")) == 4
        gone = await own.delete("/fleet/conversations/c", params={"wait": "true"})
        assert gone.json()["status"] == "done"
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve("c")
    await _nothing_is_kept(store)


async def test_the_command_line_and_the_python_client_go_on_from_it(fleet: Fleet) -> None:
    def talk() -> None:
        with FleetClient(fleet.url, fleet.keys["one"]) as client:
            c = client.conversation("chat", "notes")
            c.send("apples", store=True, max_tokens=2)
            c.send("pears", store=True, max_tokens=2)
            again = client.conversation("chat", "notes").send("figs", store=True, max_tokens=20)
            assert again.split()[1] == "apples"

    await asyncio.to_thread(talk)
    said = await torpor(fleet, "chat", "chat", "plums", "--conversation", "notes", "--store")
    assert "apples" in said
    assert [item["role"] for item in await items(fleet.openai("one"), "notes")] == [
        "user",
        "assistant",
    ] * 4


async def test_an_edit_waits_for_no_live_conversation(keys: Path, tmp_path: Path) -> None:
    live = {"model": 1, "tenant": 1, "queue": 1}
    slow = (fake("chat", token_delay_s=0.05),)
    async with remembering(tmp_path, models=slow, conversations={"live": live}) as fleet:
        client = fleet.openai("one")
        running = asyncio.create_task(chat(client, "a", "apples", 1000))
        async with asyncio.timeout(60):
            while (await statistics(fleet.as_("boss")))["live"] != 1:
                pass
        made = await client.conversations.create(items=[{"role": "user", "content": "pears"}])
        await client.conversations.update(made.id, metadata={"topic": "fruit"})
        assert len(await items(client, made.id)) == 1
        assert not running.done()
        running.cancel()


async def test_turns_of_one_history_are_one_after_another(fleet: Fleet) -> None:
    client = fleet.openai("one")
    await asyncio.gather(*(chat(client, "c", f"text-{number}") for number in range(8)))
    kept = await items(client, "c")
    assert [item["role"] for item in kept] == ["user", "assistant"] * 8


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_races_a_history_is_whole_turns_each_once(
    keys: Path, tmp_path: Path, store: RecordsServer, seed: int
) -> None:
    """Turns on both routes, orders about the conversation, items that come and go, deletions."""
    luck = random.Random(seed)
    async with remembering(tmp_path, models=(fake("chat", token_delay_s=0.0005),)) as fleet:
        client, own = fleet.openai("one"), fleet.as_("one")
        numbers = itertools.count()

        async def live(id: str) -> None:
            for _ in range(10):
                text = f"text-{next(numbers)}"
                match luck.choice(
                    ["chat", "chat", "stream", "respond", "order", "remove", "delete"]
                ):
                    case "chat":
                        await chat(client, id, text)
                    case "stream":
                        await streamed(client, "chat", id, text)
                    case "respond":
                        await respond(client, text, store=True, conversation=id)
                    case "order":
                        act = luck.choice(["hibernate", "rehydrate", "reset"])
                        await own.post(f"/fleet/conversations/{id}/{act}")
                    case "remove":
                        with contextlib.suppress(openai.NotFoundError):
                            for item in (await items(client, id))[:2]:
                                await client.conversations.items.delete(
                                    item["id"], conversation_id=id
                                )
                    case "delete":
                        with contextlib.suppress(openai.NotFoundError):
                            await client.conversations.delete(id)

        ids = ("a", "b", "a", "b")
        await asyncio.gather(*(live(id) for id in ids))
        for id in set(ids):
            await chat(client, id, f"text-{next(numbers)}")
            kept = await items(client, id)
            asked = [i["content"][0]["text"] for i in kept if i["role"] == "user"]
            assert len(asked) == len(set(asked))
            for before, item in itertools.pairwise(kept):
                is_pair = before["role"] == "user" and item["role"] == "assistant"
                assert is_pair or before["role"] == "assistant"
            await client.conversations.delete(id)
    await _nothing_is_kept(store)


async def _nothing_is_kept(store: RecordsServer) -> None:
    async with client_at(store.socket) as asking:
        names = [name.decode() for name in await asking.keys("*")]
    assert not [name for name in names if "histor" in name or "response" in name]
