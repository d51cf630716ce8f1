"""The main job on real parts: real vLLM on Ray, real models, official clients.

One fleet for the file, in the order of the file: later tests kill what earlier ones use.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import psutil
import pytest

from benchmarks.chaos.asking import Fate
from benchmarks.chaos.benchmark import rage
from benchmarks.chaos.grounds import Grounds
from benchmarks.chaos.options import Options
from benchmarks.chaos.seen import Seen
from tests.e2e.fidelity import BOUND, parting, say
from tests.e2e.live_fleet import LiveFleet

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
COUNT: list[Any] = [{"role": "user", "content": "Count from one to one hundred, in words."}]
TEXT = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
DOCUMENT, PARAGRAPHS = TEXT[:5000], TEXT[5000:7500]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture(scope="module")
def client(fleet: LiveFleet) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0, timeout=180)


def ask(client: openai.OpenAI, model: str, messages: list[Any] = FRANCE, tokens: int = 16) -> str:
    answer = client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=tokens
    )
    return answer.choices[0].message.content or ""


def read_document(client: openai.OpenAI) -> tuple[str, int]:
    """What the model says of it, and how many tokens of the prompt were not computed."""
    answer = client.chat.completions.with_raw_response.create(
        model="smollm2",
        messages=[{"role": "user", "content": DOCUMENT}],
        temperature=0,
        max_tokens=16,
    )
    told = re.match(r"hit=(\d+) of \d+ tier=\w+", answer.headers["x-torpor-kv"])
    assert told
    return answer.parse().choices[0].message.content or "", int(told[1])


def test_every_model_is_listed_with_its_state(client: openai.OpenAI) -> None:
    listed = {model.id: model.model_dump() for model in client.models.list()}
    assert set(listed) == {"smollm2", "smollm2-f32", "minilm"}
    assert listed["smollm2"]["max_model_len"] == 2048
    assert "state" in client.models.retrieve("minilm").model_dump()


def test_a_request_wakes_what_it_needs(fleet: LiveFleet, client: openai.OpenAI) -> None:
    for model in ("smollm2", "smollm2-f32", "smollm2"):
        answer = client.chat.completions.with_raw_response.create(
            model=model, messages=FRANCE, temperature=0, max_tokens=16
        )
        assert "Paris" in (answer.parse().choices[0].message.content or "")
        assert answer.headers["x-torpor-model-state"] in ("awake", "woken")
        awake = {view.model for view in fleet.client.models() if view.state == "awake"}
        assert model in awake
        assert not {"smollm2", "smollm2-f32"} <= awake, "the budget has room for one of them"


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("model", ["smollm2", "smollm2-f32"])
def test_the_answer_after_a_wake_is_that_from_before(
    fleet: LiveFleet, client: openai.OpenAI, model: str, level: int
) -> None:
    before = ask(client, model, COUNT, 32)
    held = fleet.client.model(model).replicas[0].device_bytes
    assert fleet.client.sleep(model, level).status == "done"
    asleep = fleet.client.model(model)
    assert asleep.state == ("kv_released", "level_1", "level_2")[level]
    assert asleep.replicas[0].device_bytes < held - (200 << 20), "at least the KV came free"
    assert ask(client, model, COUNT, 32) == before


def test_a_history_that_is_kept_here_is_one_that_the_caller_sends(client: openai.OpenAI) -> None:
    """Turn by turn on either route, and all at once: the engine is told the same."""
    asked: list[Any] = [
        {"role": "user", "content": "My name is Ada. Remember it."},
        {"role": "user", "content": "What is my name?"},
    ]
    made = client.conversations.create(metadata={"of": "Ada"})
    first = client.responses.create(
        model="smollm2",
        input=asked[0]["content"],
        conversation=made.id,
        temperature=0,
        max_output_tokens=24,
    )
    stream = client.chat.completions.create(
        model="smollm2",
        messages=asked[1:],
        temperature=0,
        max_tokens=24,
        stream=True,
        store=True,
        extra_headers={"x-conversation-id": made.id},
    )
    second = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    told = {"role": "assistant", "content": first.output_text}
    assert second == ask(client, "smollm2", [asked[0], told, asked[1]], 24)
    kept = list(client.conversations.items.list(made.id, order="asc"))
    assert [item.type for item in kept] == ["message"] * 4

    begun = client.responses.create(
        model="smollm2",
        input=asked[0]["content"],
        store=True,
        temperature=0,
        max_output_tokens=24,
    )
    assert begun.output_text == first.output_text
    branch = client.responses.create(
        model="smollm2",
        input=asked[1]["content"],
        previous_response_id=begun.id,
        temperature=0,
        max_output_tokens=24,
    )
    assert branch.output_text == second
    assert client.responses.retrieve(branch.id).output_text == second
    assert client.conversations.delete(made.id).deleted


def test_a_tool_that_was_called_is_remembered(client: openai.OpenAI) -> None:
    city = "What is the weather in Paris?"
    headers = {"x-conversation-id": "weather"}
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": city}],
        tools=WEATHER,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
        max_tokens=60,
        store=True,
        extra_headers=headers,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 20 degrees."}
    told = client.chat.completions.create(
        model="smollm2",
        messages=[result],
        tools=WEATHER,
        temperature=0,
        max_tokens=16,
        store=True,
        extra_headers=headers,
    )
    history = [{"role": "user", "content": city}, answer.choices[0].message.to_dict(), result]
    whole = client.chat.completions.create(
        model="smollm2", messages=history, tools=WEATHER, temperature=0, max_tokens=16
    )
    assert told.choices[0].message.content == whole.choices[0].message.content
    by_responses = client.responses.create(
        model="smollm2",
        input="Thank you.",
        conversation="weather",
        temperature=0,
        max_output_tokens=8,
    )
    assert by_responses.status in ("completed", "incomplete")
    kinds = [item.type for item in client.conversations.items.list("weather", order="asc")]
    assert kinds[:3] == ["message", "function_call", "function_call_output"]


@pytest.mark.parametrize(("model", "bound"), [("smollm2", BOUND), ("smollm2-f32", 0.0)])
def test_restored_an_answer_is_the_same_and_recomputed_as_near_as_numbers_are(
    fleet: LiveFleet, client: openai.OpenAI, model: str, bound: float
) -> None:
    conversations = fleet.client.conversations
    told = partial(say, client, model, PARAGRAPHS, conversation=model)
    cold, undisturbed = told(), told()
    for level in (0, 1, 2):
        if level == 2:
            assert conversations.hibernate(model).status == "done"
        assert fleet.client.sleep(model, level).status == "done"
        restored = told()
        assert restored.hit == undisturbed.hit > 500
        assert restored.tokens == undisturbed.tokens
    assert conversations.reset(model).status == "done"
    assert fleet.client.sleep(model, 1).status == "done"
    recomputed = told()
    assert (cold.hit, recomputed.hit) == (0, 0)
    assert parting(cold, recomputed) <= bound, "the same work, done again"
    assert parting(restored, recomputed) <= bound


def test_every_dialect_tells_what_was_found(fleet: LiveFleet, client: openai.OpenAI) -> None:
    read_document(client)
    response = client.responses.with_raw_response.create(
        model="smollm2", input=DOCUMENT, temperature=0, max_output_tokens=4
    )
    found = re.match(r"hit=(\d+) of \d+ tier=\w+", response.headers["x-torpor-kv"])
    usage = response.parse().usage
    assert found
    assert usage
    assert usage.input_tokens_details.cached_tokens == int(found[1]) > 1000
    with anthropic.Anthropic(base_url=fleet.url, api_key="none", max_retries=0) as other:
        message = other.messages.with_raw_response.create(
            model="smollm2", messages=[{"role": "user", "content": DOCUMENT}], max_tokens=4
        )
    found = re.match(r"hit=(\d+) of \d+ tier=\w+", message.headers["x-torpor-kv"])
    assert found
    assert message.parse().usage.cache_read_input_tokens == int(found[1]) > 1000


def test_embeddings_are_the_same_after_a_wake(fleet: LiveFleet, client: openai.OpenAI) -> None:
    before = client.embeddings.create(model="minilm", input="a small cat").data[0].embedding
    assert fleet.client.sleep("minilm", 2).status == "done"
    after = client.embeddings.create(model="minilm", input="a small cat").data[0].embedding
    assert len(before) == 384
    assert after == pytest.approx(before, abs=1e-5)


def test_streaming(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="smollm2", messages=FRANCE, temperature=0, max_tokens=16, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > 3
    assert "".join(pieces) == ask(client, "smollm2")


def test_messages_with_the_anthropic_client(fleet: LiveFleet) -> None:
    with anthropic.Anthropic(base_url=fleet.url, api_key="none", max_retries=0) as client:
        answer = client.messages.create(
            model="smollm2", messages=FRANCE, max_tokens=16, extra_body={"temperature": 0}
        )
        assert "Paris" in "".join(block.text for block in answer.content if block.type == "text")
        count = client.messages.count_tokens(model="smollm2", messages=FRANCE)
        assert count.input_tokens > 5


def test_tool_calls_pass_through(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=WEATHER,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
        max_tokens=60,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"


def test_a_client_that_leaves_ends_its_generation(fleet: LiveFleet, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="smollm2", messages=COUNT, max_tokens=1500, stream=True
    )
    next(iter(stream))
    assert fleet.client.model("smollm2").running == 1
    stream.close()
    # An order to sleep drains: it ends long before 1,500 tokens would have.
    assert fleet.client.sleep("smollm2", 1).seconds < 10


def test_a_stream_is_frozen_for_another_model_and_goes_on_identical(
    fleet: LiveFleet, client: openai.OpenAI
) -> None:
    """In float32, where KV that is computed again rounds as what was decoded."""
    model, said = "smollm2-f32", list[str]()
    fleet.client.sleep(model, 1)
    body = {"model": model, "messages": COUNT, "temperature": 0, "ignore_eos": True}
    more = {**body, "max_tokens": 1500, "stream": True}
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.stream("POST", f"{fleet.url}/v1/chat/completions", json=more, timeout=180) as stream,
    ):
        pieces = content_of(stream.iter_lines())
        said += islice(pieces, 4)
        other = pool.submit(ask, client, "smollm2")
        while not other.done():
            said.append(next(pieces))
        assert "Paris" in other.result()
        suspended = len("".join(said))
        said += islice(pieces, 24)
    url, length = f"{fleet.url}/v1/chat/completions", {"max_tokens": len(said)}
    answer = httpx.post(url, json={**body, **length}, timeout=180).json()
    undisturbed, got = answer["choices"][0]["message"]["content"], "".join(said)
    assert len(undisturbed) > suspended
    assert got[: len(undisturbed)] == undisturbed[: len(got)]
    assert f'torpor_freezes_total{{model="{model}"}}' in httpx.get(f"{fleet.url}/metrics").text


def content_of(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("data: {"):
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            yield choice["delta"].get("content") or ""


BAD: list[tuple[Any, int]] = [
    (b"{", 400),
    (b"[]", 400),
    (json.dumps({"messages": FRANCE}).encode(), 400),
    (json.dumps({"model": 7, "messages": FRANCE}).encode(), 400),
    (json.dumps({"model": "nobody", "messages": FRANCE}).encode(), 404),
    (json.dumps({"model": "smollm2"}).encode(), 400),
    (json.dumps({"model": "smollm2", "messages": FRANCE, "max_tokens": -1}).encode(), 400),
]


@pytest.mark.parametrize(("body", "status"), BAD)
def test_bad_input_is_an_openai_error(fleet: LiveFleet, body: bytes, status: int) -> None:
    answer = httpx.post(
        f"{fleet.url}/v1/chat/completions",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/sleep", "/wake_up", "/collective_rpc", "/server_info", "/load"])
def test_administrative_routes_of_vllm_are_out_of_reach(fleet: LiveFleet, path: str) -> None:
    assert httpx.post(f"{fleet.url}{path}").status_code in (404, 405)


def test_thirty_requests_for_three_models_with_room_for_two(client: openai.OpenAI) -> None:
    def one(number: int) -> bool:
        match number % 3:
            case 0:
                return "Paris" in ask(client, "smollm2")
            case 1:
                return "Paris" in ask(client, "smollm2-f32")
            case _:
                answer = client.embeddings.create(model="minilm", input=f"text {number}")
                return len(answer.data[0].embedding) == 384

    with ThreadPoolExecutor(30) as pool:
        assert all(pool.map(one, range(30)))


async def test_engines_that_are_stopped_and_slowed_answer_as_before(fleet: LiveFleet) -> None:
    """The short form of ``make chaos`` on real parts, with what costs no engine, of models that
    compute in float32: in bfloat16 a batch of another shape may round otherwise."""
    models = ("smollm2-f32", "minilm")
    grounds = Grounds(fleet.url, psutil.Process(fleet._process.pid), models, ("minilm",))
    faults = ("stop-engine", "slow-engine", "stop-controller", "slow-controller", "stop-kv")
    options = Options(
        requests=200, clients=16, each=4, faults=faults, hold_s=1.0, max_wait_s=300, recovers_s=300
    )
    seen = Seen()
    await rage(grounds, options, lambda line: None, seen)
    assert seen.tally.fates.keys() == {Fate.RIGHT}, seen.tally.bad
    assert seen.tally.requests >= 200
    recovered = {over.fault.kind.name for over in seen.record.over if over.seconds is not None}
    assert recovered == set(faults)


def test_a_killed_controller_adopts_its_engines(fleet: LiveFleet, client: openai.OpenAI) -> None:
    known, _ = read_document(client)
    fleet.client.sleep("smollm2", 1)
    fleet.client.sleep("minilm", 2)
    before = fleet.starts()
    processes = {process.pid for process, _ in fleet.marked()}
    fleet.kill_controller()
    with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as patient:
        assert patient.get(f"{fleet.url}/readyz", timeout=60).status_code == 200
    assert fleet.client.model("minilm").state == "level_2"
    again, hit = read_document(client)
    assert again == known
    assert hit > 1000
    assert len(client.embeddings.create(model="minilm", input="x").data[0].embedding) == 384
    assert {process.pid for process, _ in fleet.marked()} == processes
    assert fleet.starts() == before


def test_a_kill_while_decoding_ends_the_stream_with_an_error(
    fleet: LiveFleet, client: openai.OpenAI
) -> None:
    known, _ = read_document(client)
    stream = client.chat.completions.create(
        model="smollm2", messages=COUNT, max_tokens=1500, stream=True
    )
    events = iter(stream)
    next(events)
    fleet.engine("smollm2").kill()
    with pytest.raises(openai.APIError):
        for _ in events:
            pass
    assert "Paris" in ask(client, "smollm2"), "the next request gets a fresh engine"
    again, hit = read_document(client)
    assert again == known
    assert hit > 1000, "what the dead engine computed is found by its successor"


def test_a_kill_while_asleep_is_a_cold_start(fleet: LiveFleet, client: openai.OpenAI) -> None:
    fleet.client.sleep("minilm", 2)
    fleet.engine("minilm").kill()
    assert len(client.embeddings.create(model="minilm", input="x").data[0].embedding) == 384


async def test_a_kill_while_waking_loses_no_request(fleet: LiveFleet) -> None:
    fleet.client.sleep("smollm2", 2)
    engine = fleet.engine("smollm2")
    engine.send_signal(signal.SIGSTOP)  # so that the wake is surely under way when it dies
    async with openai.AsyncOpenAI(
        base_url=f"{fleet.url}/v1", api_key="none", timeout=180
    ) as client:
        asked = asyncio.create_task(
            client.chat.completions.create(
                model="smollm2", messages=FRANCE, temperature=0, max_tokens=16
            )
        )
        await asyncio.to_thread(fleet.await_state, "smollm2", "waking")
        engine.kill()
        answer = await asked
    assert "Paris" in (answer.choices[0].message.content or "")


def test_figures_for_prometheus(fleet: LiveFleet) -> None:
    text = httpx.get(f"{fleet.url}/metrics").text
    for name in (
        "torpor_requests_total",
        "torpor_request_queue_seconds_bucket",
        "torpor_request_ttft_seconds_bucket",
        "torpor_wake_seconds_bucket",
        "torpor_replica_phase",
        "torpor_demotions_total",
        'torpor_kv_prompt_tokens_total{model="smollm2",tier="host"}',
        'torpor_kv_exports_total{model="smollm2",outcome="ok"}',
    ):
        assert f"\n{name}" in text


def test_ctrl_c_leaves_nothing(fleet: LiveFleet) -> None:
    segments = {path.name for path in Path("/dev/shm").iterdir()}
    family = psutil.Process(fleet._process.pid).children(recursive=True)
    assert len(family) > 5
    mapped = {Path(map.path) for process in family for map in process.memory_maps()}
    pools = {path for path in mapped if path.name.startswith("lmcache_l1_pool_")}
    assert pools, "the KV tier's shared memory"
    assert fleet.stop() == 0
    assert not [process for process in family if process.is_running()]
    assert list(fleet.marked()) == []
    assert not [path for path in pools if path.exists()]
    assert {path.name for path in Path("/dev/shm").iterdir()} <= segments
    assert os.listdir(fleet.tmp) == []
