"""Sleep on a CPU, with real engines and real models: three starts for the whole file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from workers import demo_models

ROOT = Path(__file__).parents[2]
STORY = Path(__file__).with_name("sleep_story.py")

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


@pytest.fixture(scope="session")
def models() -> dict[str, Path]:
    return demo_models.prepare(Path(os.environ.get("TORPOR_MODELS", ROOT / ".torpor/models")))


def live(tmp_path: Path, spec: dict[str, Any], more: str = "-") -> dict[str, Any]:
    words = [json.dumps(spec), str(tmp_path / "canary.json"), more]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(STORY), *words], capture_output=True, text=True, env=env, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert not list(Path(tempfile.gettempdir()).glob("torpor-engine-*")), "sockets left behind"
    return dict(json.loads(done.stdout.splitlines()[-1]))


def freed_share(sleep: dict[str, Any]) -> float:
    """Of what the process took on since before it loaded the model, what came free."""
    freed = dict(sleep["freed"])
    remained = freed.pop("remained")
    return float(sum(freed.values()) / (sum(freed.values()) + remained))


def test_a_chat_model_sleeps_wakes_and_knows_wrong_weights(
    models: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for file in models[demo_models.CHAT].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    life = live(tmp_path, {"model": "chat", "path": str(copy)}, "damage")

    assert "Paris" in life["first"][1][0]["message"]["content"]
    assert all(wake["same"] for wake in life["wakes"])
    assert life["stranger"] == 401
    assert life["steps"] >= 8, "each token is a step"
    assert life["running"] == 0
    assert life["longest_step_s"] > 0, "the canary told its speed"
    assert len(life["started"]["pids"]) == 1, "one process is all an engine needs on a CPU"

    released, level_1, level_2, stepwise = (wake["sleeps"] for wake in life["wakes"])
    assert released[0]["freed"]["kv"] > 250_000_000
    assert level_1[0]["freed"]["kv"] > 250_000_000
    assert freed_share(level_2[0]) >= 0.9
    assert freed_share(stepwise[2]) >= 0.9
    assert stepwise[1]["bytes"] - stepwise[2]["bytes"] > 300_000_000, "from 1 to 2, bytes fall"

    assert "weights" in life["damaged"]["phases_s"], "the canary had the weights reloaded"
    changed = life["changed"]
    assert changed["got"] == changed["expected"], "a packed copy is stale"
    assert "tokens" in changed["mismatch"] or "log-probability" in changed["mismatch"]
    thawed = life["thawed"]
    assert life["canary"]["dtype"] == "bfloat16"
    assert "weights" in thawed["mended"]["phases_s"], "nothing was decoded before that"
    assert 12 <= thawed["said"] < 40
    assert "tokens" in thawed["mismatch"] or "log-probability" in thawed["mismatch"]
    assert thawed["silent"], "nothing is said with wrong weights"
    assert thawed["broken"], "the client is not told that it was all"
    assert len(life["canary"]["replies"]) == 2


def test_a_float32_model_frees_everything_and_answers_alike(
    models: dict[str, Path], tmp_path: Path
) -> None:
    path = str(models[demo_models.CHAT_FLOAT32])
    spec = {"model": "f32", "path": path, "engine_args": {"dtype": "float32"}}
    life = live(tmp_path, spec, "freeze")

    assert life["canary"]["dtype"] == "float32"
    assert all(wake["same"] for wake in life["wakes"])
    assert freed_share(life["wakes"][2]["sleeps"][0]) >= 0.9

    frozen = life["frozen"]
    lives = [*frozen["lives"], frozen["harmed"]]
    assert [one["text"] for one in lives] == [frozen["undisturbed"]] * len(lives)
    assert all(one["silent"] and 8 <= one["said"] < 40 for one in lives)
    assert [one["left"] for one in lives] == [0] * len(lives), "the request of a client that left"
    assert "weights" in frozen["harmed"]["wake"]["phases_s"], "nothing was decoded before that"


def test_an_embedding_model_sleeps_to_level_2(models: dict[str, Path], tmp_path: Path) -> None:
    path = str(models[demo_models.EMBEDDING])
    life = live(tmp_path, {"model": "e", "path": path, "engine_args": {"runner": "pooling"}})

    assert life["first"][0] == 200
    assert life["steps"] >= 1
    assert all(wake["same"] for wake in life["wakes"])
    assert len(life["canary"]["replies"][0]["vector"]) == 384
    assert freed_share(life["wakes"][2]["sleeps"][0]) >= 0.8
