from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from controller.cli import app
from controller.settings import load
from tests.settings.checkpoints import write_model

ROOT = Path(__file__).parents[2]


def torpor(*arguments: str, **environ: str) -> Result:
    clean = {"TORPOR_DEVICE": "cpu", "TORPOR_KEYS": None, "COLUMNS": "200", **environ}
    return CliRunner().invoke(app, list(arguments), env=clean)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_model(tmp_path / "tiny")
    raw: dict[str, Any] = {
        "memory": {"device_budget_gib": 2},
        "models": [{"name": "tiny", "path": "./tiny"}],
    }
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


@pytest.fixture
def bad_config(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text("models: [{name: a, path: ./no, kind: vllm}]\nserver: {port: 0}\n")
    return file


def test_validate(config: Path, bad_config: Path) -> None:
    result = torpor("validate", str(config))
    assert (result.exit_code, result.stdout) == (0, f"{config}: valid; cpu, 1 models: tiny\n")
    assert json.loads(torpor("validate", str(config), "--json").stdout)["valid"] is True
    result = torpor("validate", str(bad_config))
    assert (result.exit_code, result.stdout) == (2, "")
    expected = f"models[0].path: no such directory: {bad_config.parent}/no"
    assert result.stderr == f"torpor: {expected}\n"
    result = torpor("validate", str(bad_config), "--json")
    assert result.exit_code == 2
    path, _, reason = expected.partition(": ")
    assert json.loads(result.stdout) == {
        "valid": False,
        "problems": [{"path": path, "reason": reason}],
    }


def test_plan(config: Path) -> None:
    result = torpor("plan", str(config))
    assert result.exit_code == 0, result.stderr
    row = result.stdout.splitlines()[1].split()
    assert row == ["tiny", "0.00", "0.25", "5,592,405", "1.25", "1.00", "1.00", "-", "yes"]
    assert "awake together: tiny" in result.stdout
    told = json.loads(torpor("plan", str(config), "--json").stdout)
    assert told["models"][0]["footprints"]["level_2"] == {"device_bytes": 1 << 30, "host_bytes": 0}


def test_a_plan_that_does_not_fit(tmp_path: Path) -> None:
    footprint = {"awake_gib": 100000}
    entry = {"name": "huge", "path": "x", "kind": "fake", "footprint": footprint}
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump({"models": [entry]}))
    result = torpor("plan", str(file))
    assert result.exit_code == 1
    assert "torpor: huge can never be awake: no node has the room" in result.stderr
    assert torpor("plan", str(file), "--json").exit_code == 1


def test_doctor(config: Path) -> None:
    result = torpor("doctor", str(config))
    words = {line.split()[1] for line in result.stdout.splitlines()}
    assert {"python", "vllm", "device", "memlock", "/dev/shm", "port"} <= words
    told = json.loads(torpor("doctor", "--json").stdout)
    assert {finding["verdict"] for finding in told["findings"]} <= {"ok", "warn", "fail"}
    failed = any(finding["verdict"] == "fail" for finding in told["findings"])
    assert result.exit_code == int(failed)


def test_a_fresh_key_works_with_its_entry(tmp_path: Path, config: Path) -> None:
    roles = ["--role", "admin", "--role", "inference"]
    told = json.loads(torpor("keys", "new", "ann", *roles, "--tenant", "acme", "--json").stdout)
    assert told["entry"]["sha256"] == sha256(told["key"].encode()).hexdigest()
    result = torpor("keys", "new", "ben")
    key, _, entry = result.stdout.partition("\n")
    keys = [told["entry"], *yaml.safe_load(entry)]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump(keys))
    text = config.read_text() + "server: {host: 0.0.0.0, keys_file: keys.yaml}\n"
    config.write_text(text)
    ann, ben = load(config, {"TORPOR_DEVICE": "cpu"}).server.keys
    assert (ann.name, ann.tenant, ann.roles) == ("ann", "acme", {"admin", "inference"})
    assert (ben.name, ben.roles) == ("ben", {"inference"})
    assert ben.sha256 == sha256(key.encode()).hexdigest()


def test_models_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    names = {"smollm2", "smollm2-f32", "minilm"}
    for name in names:
        (tmp_path / name).mkdir()
    told = json.loads(torpor("models", "prepare", str(tmp_path), "--json").stdout)
    assert told == {name: str(tmp_path / name) for name in names}


def test_version() -> None:
    assert "python " in torpor("version").stdout
    assert json.loads(torpor("version", "--json").stdout)["ray"]


def test_serve_wants_a_configuration(tmp_path: Path, bad_config: Path, config: Path) -> None:
    assert torpor("serve", str(bad_config)).exit_code == 2
    assert torpor("serve", str(tmp_path / "none.yaml")).exit_code == 2
    assert torpor("serve", str(config), "--model", "x").exit_code == 2
    result = torpor("serve", str(config), "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "server.host: without keys only loopback is bound" in result.stderr
    result = torpor("serve", "--model", "org/none", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert result.exit_code == 2
    assert "HF_HUB_OFFLINE is set" in result.stderr


def test_help_tells_the_exit_codes() -> None:
    result = torpor("--help")
    assert result.exit_code == 0
    assert "3 no fleet answers" in result.stdout


def run_python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_nothing_heavy_is_imported_by_client_commands() -> None:
    code = (
        "import sys; from controller.cli import app\n"
        "import controller.cli_fleet, controller.client, controller.chat, controller.terminal\n"
        "heavy = {'vllm', 'ray', 'torch', 'transformers', 'fastapi', 'huggingface_hub'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)"
    )
    found = run_python("-c", code)
    assert (found.returncode, found.stderr) == (0, "")


def test_other_packages_add_groups_of_commands(tmp_path: Path) -> None:
    (tmp_path / "greeting.py").write_text(
        "import typer\napp = typer.Typer()\ngreet = typer.Typer(help='Greets.')\n"
        "app.add_typer(greet, name='greet')\n"
        "@greet.command()\ndef hello() -> None:\n    typer.echo('hello')\n"
        "@greet.command()\ndef bye() -> None:\n    typer.echo('bye')\n"
    )
    metadata = tmp_path / "greeting-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1\n")
    entry_points = metadata / "entry_points.txt"
    entry_points.write_text("[torpor.commands]\ngreet = greeting:app\n")
    found = run_python("-m", "controller.cli", "greet", "hello", PYTHONPATH=str(tmp_path))
    assert (found.returncode, found.stdout) == (0, "hello\n")
    entry_points.write_text("[torpor.commands]\ngreet = nowhere:app\n")
    found = run_python("-m", "controller.cli", "greet", "hello", PYTHONPATH=str(tmp_path))
    assert found.returncode == 2
    assert "a group of commands cannot be loaded" in found.stderr
    assert run_python("-m", "controller.cli", "version", PYTHONPATH=str(tmp_path)).returncode == 0
