"""A controller that is told to stop: unready first, then no new requests, then the drain."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

pytestmark = pytest.mark.timeout(180)

FOREVER = 100_000


@contextmanager
def a_controller(
    directory: Path, **server: Any
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    model = {
        "name": "m",
        "path": "x",
        "kind": "fake",
        "footprint": {"awake_gib": 0.1},
        "engine_args": {"device_bytes": 1 << 20, "token_delay_s": 0.02},
    }
    config = directory / "fleet.yaml"
    raw = {"device": "cpu", "state_dir": "state", "server": server, "models": [model]}
    config.write_text(yaml.safe_dump(raw))
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("lone_controller.py")), str(config)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            with httpx.Client(base_url=url, timeout=30) as client:
                yield process, client
        finally:
            process.kill()


def streaming(client: httpx.Client, tokens: int) -> Any:
    body = {"model": "m", "prompt": "one two", "stream": True, "max_tokens": tokens}
    return client.stream("POST", "/v1/completions", json=body)


def ask_until_refused(url: str) -> None:
    while httpx.get(f"{url}/healthz").status_code == 200:
        pass


def test_it_says_so_before_it_closes_its_port(tmp_path: Path) -> None:
    with a_controller(tmp_path, unready_s=600, drain_s=600) as (process, client):
        assert client.get("/readyz").status_code == 200
        process.terminate()
        while (ready := client.get("/readyz")).status_code == 200:
            pass
        assert ready.json()["error"]["code"] == "not_ready"
        assert client.get("/healthz").status_code == 200
        with streaming(client, 3) as late:
            assert late.status_code == 200
            assert "[DONE]" in late.read().decode()
        process.terminate()  # a second signal: at once
        assert process.wait(30) == -signal.SIGTERM


def test_running_responses_end_and_new_ones_are_refused(tmp_path: Path) -> None:
    with (
        a_controller(tmp_path, drain_s=600) as (process, client),
        streaming(client, 100) as running,
    ):
        lines = running.iter_lines()
        next(line for line in lines if line.startswith("data"))
        process.terminate()
        with pytest.raises(httpx.TransportError):  # the port is closed, or closes just then
            ask_until_refused(str(client.base_url))
        assert any(line == "data: [DONE]" for line in lines)
        assert process.wait(30) == -signal.SIGTERM


def test_a_response_that_outlasts_the_drain_is_cut_off(tmp_path: Path) -> None:
    with (
        a_controller(tmp_path, drain_s=1) as (process, client),
        streaming(client, FOREVER) as running,
    ):
        lines = running.iter_lines()
        next(line for line in lines if line.startswith("data"))
        process.terminate()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
        assert process.wait(30) == -signal.SIGTERM


def test_it_leaves_by_itself_after_that(tmp_path: Path) -> None:
    with a_controller(tmp_path, unready_s=0.2) as (process, client):
        assert client.get("/readyz").status_code == 200
        process.terminate()
        assert process.wait(30) == 0
