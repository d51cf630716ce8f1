"""What ``torpor serve`` says when it ends; no Ray is started or reached here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.timeout(180)


def test_the_engines_of_a_joined_cluster_are_said_to_go_on(tmp_path: Path) -> None:
    model = {"name": "m", "path": "x", "kind": "fake", "footprint": {"awake_gib": 0.1}}
    config = tmp_path / "fleet.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        raw = {
            "device": "cpu",
            "state_dir": "state",
            "server": {"port": taken.getsockname()[1]},
            "ray": {"address": "192.0.2.1:6379"},
            "models": [model],
        }
        config.write_text(yaml.safe_dump(raw))
        done = subprocess.run(
            [sys.executable, "-c", "from controller.cli import main; main()", "serve", str(config)],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert "the engines go on in the cluster at 192.0.2.1:6379" in done.stderr
    assert "stopping" not in done.stderr
