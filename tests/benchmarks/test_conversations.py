"""``torpor bench conversations`` without an engine: the store that it fills, what it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from benchmarks.cli import bench
from benchmarks.conversations.options import Options
from benchmarks.conversations.records import TENANTS, filled, pages
from benchmarks.conversations.turns import Fleet, Turns
from benchmarks.running import BenchError, Run
from controller.client import FleetClient
from controller.records_server import RecordsServer
from kv_store.conversation_records import ConversationRecords
from tests.controller.conversing import conversing, fake, records_store

FEW = Options(many=250, tokens=40, repeats=2)


@pytest.fixture
def store() -> Iterator[RecordsServer]:
    with records_store() as running:
        yield running


def quiet() -> Run:
    return Run("conversations", {}, seed=1, say=lambda _: None)


async def test_a_fleet_over_the_store_knows_them_all_and_pages_are_timed(
    store: RecordsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = await filled(store.socket, FEW, seed=1)
    assert taken > FEW.many * FEW.tokens * 4, "the token ids alone"
    records = ConversationRecords.at_socket(store.socket)
    kept = await records.open()
    prefix = await records.prefix(kept[0])
    await records.close()
    assert prefix is not None
    assert len(prefix.tokens) == FEW.tokens
    assert len({record.key for record in kept}) == FEW.many
    assert len({record.key.tenant for record in kept}) == TENANTS

    monkeypatch.setenv("TORPOR_RECORDS_SOCKET", str(store.socket))
    run = quiet()
    async with conversing(tmp_path) as fleet:
        with FleetClient(fleet.url, fleet.keys["boss"]) as client:
            await asyncio.to_thread(pages, run, FEW, client)
            more = Options(many=FEW.many + 1)
            with pytest.raises(BenchError, match="250 of 251 conversations"):
                await asyncio.to_thread(pages, quiet(), more, client)
    assert {measure.labels["page"] for measure in run.measures} >= {"first", "of a tenant"}
    assert {len(measure.values) for measure in run.measures} == {8}


async def test_a_turn_comes_back_and_what_that_adds_is_told(tmp_path: Path) -> None:
    run, models = quiet(), (fake("chat", max_model_len=100_000),)
    async with conversing(tmp_path, models=models) as fleet:
        headers = {"authorization": f"Bearer {fleet.keys['boss']}"}
        http = httpx.Client(base_url=fleet.url, headers=headers, timeout=30, trust_env=False)
        with FleetClient(fleet.url, fleet.keys["boss"]) as client, closing(http):
            await asyncio.to_thread(Turns(run, FEW, Fleet(client, http), "chat").measure)
    added = run.result().find("added_to_first_token", kv="rehydrated")
    assert [len(measure.values) for measure in added] == [FEW.repeats]
    answers = run.result().find("hibernate_answer")
    assert [len(measure.values) for measure in answers] == [2 * FEW.repeats]
    assert {value for m in run.result().find("same_answer") for value in m.values} == {1.0}
    (first,) = run.result().find("first_token", kv="rehydrated")
    assert first.labels["tier"] == "durable"


def test_turns_need_a_fleet_that_keeps_kv() -> None:
    found = CliRunner().invoke(bench, ["conversations", "--parts", "turns"])
    assert found.exit_code == 2
    assert "name a CONFIG with `kv`" in found.stderr
