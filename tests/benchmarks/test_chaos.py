"""Chaos: what counts as right, that every kind of fault is done and undone, and a short run of it
on a live fleet of fake engines."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from benchmarks.chaos.asking import Asking, Fate
from benchmarks.chaos.crowd import record
from benchmarks.chaos.faults import KINDS, Deed, do, parse
from benchmarks.chaos.options import Options
from benchmarks.chaos.parts import Part
from benchmarks.chaos.questions import Question, agrees, questions
from benchmarks.chaos.seen import Seen
from benchmarks.chaos.store import Store
from benchmarks.chaos.storm import faults
from benchmarks.chaos.verdict import complaints
from benchmarks.chaos.witness import Memory, Witness
from benchmarks.cli import bench
from benchmarks.result import read

PATIENT = Options(max_wait_s=60.0, recovers_s=60.0)
HASTY = Options(max_wait_s=60.0, recovers_s=0.5)
PLAIN = Question("q", "m", "/v1/completions", {"model": "m", "prompt": "p", "max_tokens": 2})
STREAMED = Question("s", "m", "/v1/completions", {**PLAIN.body, "stream": True})
WHOLE = {"object": "text_completion", "choices": [{"text": "one two"}]}
DONE = b"data: [DONE]\n\n"


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n"


def refusal(code: str, status: int, **headers: str) -> web.Response:
    return web.json_response({"error": {"code": code}}, status=status, headers=headers)


@asynccontextmanager
async def answering(
    *answers: web.Response | list[bytes] | None, options: Options = PATIENT
) -> AsyncIterator[Asking]:
    """Each request gets the next answer, the last one for ever; None: the connection is cut."""
    left = list(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        said = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(said, web.Response):
            return web.Response(body=said.body, status=said.status, headers=said.headers)
        assert request.transport is not None
        if said is None:
            request.transport.abort()
            return web.Response()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for line in said:
            await response.write(line)
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("/")) as http:
        yield Asking(http, options)


RIGHT = web.json_response(WHOLE)
STREAM = [b": torpor phase=waking\n\n", event("one"), event(" two"), DONE]


@pytest.mark.parametrize(
    ("question", "answers", "fate", "troubles"),
    [
        (PLAIN, [RIGHT], Fate.RIGHT, []),
        (STREAMED, [STREAM], Fate.RIGHT, []),
        (PLAIN, [None, RIGHT], Fate.RIGHT, ["connection broken"]),
        (PLAIN, [refusal("not_ready", 503), RIGHT], Fate.RIGHT, ["not_ready"]),
        (
            STREAMED,
            [[event("one"), b'data: {"error": {"code": "engine_failed"}}\n\n'], STREAM],
            Fate.RIGHT,
            ["engine_failed"],
        ),
        (STREAMED, [[event("one"), DONE]], Fate.WRONG, []),
        (STREAMED, [[event("one"), event(" two")]], Fate.FAILED, ["ended without its last event"]),
        (PLAIN, [web.Response(body=b"<html>", status=502)], Fate.FAILED, ["http 502"]),
        (PLAIN, [web.Response(body=b"{}", status=502)], Fate.FAILED, ["http 502"]),
        (PLAIN, [web.Response(body=b"{}")], Fate.FAILED, ["not an answer"]),
        (PLAIN, [refusal("internal_error", 500)], Fate.FAILED, ["internal_error"]),
        (
            PLAIN,
            [refusal("never_fits", 503, **{"x-should-retry": "false"})],
            Fate.FAILED,
            ["never_fits"],
        ),
    ],
)
async def test_how_a_request_ends(
    question: Question, answers: list[Any], fate: Fate, troubles: list[str]
) -> None:
    async with answering(*answers) as asking:
        told = await asking.ask(question, "one two")
    assert told.fate is fate
    assert len(told.troubles) == len(troubles)
    for trouble, code in zip(told.troubles, troubles, strict=True):
        assert trouble.code.startswith(code)


async def test_a_client_gives_up_at_last_and_that_is_no_loss() -> None:
    async with answering(refusal("backlog_full", 429), options=HASTY) as asking:
        told = await asking.ask(PLAIN, "one two")
    assert told.fate is Fate.REFUSED
    assert told.seconds > HASTY.patience_s


async def test_whoever_gets_neither_answer_nor_error_is_lost() -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        return await asyncio.get_running_loop().create_future()

    app = web.Application()
    app.router.add_post("/v1/completions", never)
    async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("/")) as http:
        told = await Asking(http, Options(max_wait_s=0.2, recovers_s=0.2)).ask(PLAIN, "one two")
    assert told.fate is Fate.LOST


async def test_questions_without_a_steady_answer_are_left_out() -> None:
    other = web.json_response({"object": "text_completion", "choices": [{"text": "else"}]})
    async with answering(RIGHT, other, RIGHT) as asking:
        assert await record(asking, [PLAIN], 1) == {}
    async with answering(RIGHT) as asking:
        assert await record(asking, [PLAIN], 1) == {PLAIN: "one two"}


def test_embeddings_agree_within_rounding() -> None:
    assert agrees((0.5, 0.25), (0.50001, 0.25))
    assert not agrees((0.5, 0.25), (0.6, 0.25))
    assert not agrees((0.5,), (0.5, 0.25))


def test_the_same_seed_asks_and_breaks_the_same() -> None:
    def asked(seed: int) -> list[Any]:
        return [
            (q.name, q.path, q.body, q.conversation) for q in questions(["a", "e"], ["e"], 9, seed)
        ]

    assert asked(1) == asked(1) != asked(2)
    kinds = dict.fromkeys(parse(()), ("a", "b"))
    one = faults(kinds, Options(), Random(1))
    assert one == faults(kinds, Options(), Random(1)) != faults(kinds, Options(), Random(2))
    assert {fault.kind.name for fault in one} == set(KINDS)


@pytest.fixture
def victim() -> Iterator[psutil.Process]:
    process = subprocess.Popen(["sleep", "infinity"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


async def test_a_stopped_process_goes_on_even_if_the_run_is_interrupted(
    victim: psutil.Process,
) -> None:
    stopping = asyncio.create_task(do(Deed.STOP, victim, 3600.0))
    async with asyncio.timeout(60):
        while victim.status() != psutil.STATUS_STOPPED:
            await asyncio.to_thread(victim.status)
        stopping.cancel()
        await asyncio.wait({stopping})
        while victim.status() == psutil.STATUS_STOPPED:
            await asyncio.to_thread(victim.status)


async def test_a_slowed_process_goes_on_and_a_killed_one_does_not(victim: psutil.Process) -> None:
    await do(Deed.SLOW, victim, 0.1)
    assert victim.is_running()
    await do(Deed.KILL, victim, 0.1)
    assert victim.wait(60) is not None
    await do(Deed.STOP, victim, 3600.0)  # whoever is gone cannot be stopped


def test_a_store_whose_death_another_thread_is_learning_of_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    try:
        found = store.process
        assert found is not None
        popen = store._process
        with popen._waitpid_lock:  # type: ignore[attr-defined]
            found.kill()
            os.waitpid(found.pid, 0)
            assert store.process is None
    finally:
        store.close()


def test_what_is_left_and_what_grows_is_complained_of(tmp_path: Path) -> None:
    seen = Seen(before=Memory(100 << 20, 1 << 30), after=Memory(190 << 20, 1 << 30))
    witness = Witness(psutil.Process(), tmp_path, files=["torpor-x"])
    assert complaints(seen, witness) == [
        "the memory of the controller grew from 100 to 190 MiB",
        "left behind: file torpor-x",
    ]
    seen.tally.fates[Fate.LOST] = 2
    assert "2 requests lost" in complaints(seen, None)


@pytest.mark.parametrize("arguments", [[], ["--fake", "nope.yaml"], ["--fake", "--faults", "x"]])
def test_what_cannot_be_asked_is_one_line(arguments: list[str]) -> None:
    found = CliRunner().invoke(bench, ["chaos", *arguments])
    assert found.exit_code == 2
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_nothing_is_lost_wrong_or_left_when_everything_breaks_once(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    kinds = [f"kill-{part.value}" for part in Part if part is not Part.AGENT]
    kinds += ["stop-engine", "stop-controller", "slow-engine", "slow-carrier"]
    asked = ["--fake", "--requests", "200", "--hold", "0.5", "--carriers", "1", "--out", str(out)]
    asked += ["--max-wait", "150", "--recovers", "400", "--faults", ",".join(kinds)]
    found = CliRunner().invoke(bench, ["chaos", *asked])
    assert found.exit_code == 0, found.stderr
    result = read(out)
    fates = {m.labels["fate"]: m.values[0] for m in result.find("requests")}
    assert fates.pop("right") >= 200
    assert set(fates.values()) == {0.0}
    assert {m.labels["after"] for m in result.find("recovery")} == set(kinds)
    assert {m.labels["what"]: m.values for m in result.find("left")} == dict.fromkeys(
        ("process", "shared memory", "file"), (0.0,)
    )
