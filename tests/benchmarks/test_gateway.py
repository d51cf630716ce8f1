"""The gateway benchmark end to end, as short as it goes: that it measures, not what."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.gateway.options import Options, parse_counts
from benchmarks.result import Measure, read
from benchmarks.running import BenchError

BRIEFLY = (
    *("--rounds", "2", "--round-s", "0.05", "--requests", "10", "--connections", "2"),
    *("--streams", "2", "--events", "5", "--event-interval", "0.001"),
)


@pytest.fixture
def left_clean(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """What a run keeps in a temporary directory is gone with it."""
    tmp_path_factory.getbasetemp()  # chosen before, so that pytest's own is not in there
    with tempfile.TemporaryDirectory(prefix="t-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield
        assert list(Path(directory).iterdir()) == []


@pytest.mark.usefixtures("left_clean")
@pytest.mark.parametrize("engine", ["quick", "fake"])
def test_both_sides_are_measured(engine: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    asked = ["bench", "gateway", "--engine", engine, *BRIEFLY, "--memory-requests", "100"]
    done = CliRunner().invoke(app, [*asked, "--out", str(file), "--json"])
    assert done.exit_code == 0, done.output
    found = list(read(file).measures)
    assert len(json.loads(done.stdout)["measures"]) == len(found)
    assert {measure.name for measure in found} == {
        *("latency", "requests", "cpu_per_1000_requests", "first_event"),
        *("cpu_per_event", "events_per_read", "rss", "rss_growth"),
    }
    for side in ("direct", "gateway"):
        (rate,) = select(found, "requests", side=side)
        assert len(rate.values) == 2
        assert min(rate.values) > 0
    (added,) = select(found, "latency", what="answer", side="added", percentile="median")
    assert len(added.values) == 2


INTERRUPTED = """
import fcntl, os, signal, struct, termios
from benchmarks.gateway.children import tell

def tick(*_):
    told = struct.unpack("i", fcntl.ioctl(1, termios.FIONREAD, bytes(4)))[0]
    if told:
        os.write(2, b"t")

signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
tell("x" * 1_000_000)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_an_answer_is_whole_though_signals_cut_its_writes_short() -> None:
    """The pipe is full before anything is read of it."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stderr.read(1) == b"t"
        assert len(child.stdout.read()) == 1_000_003


def test_an_engine_that_is_none_is_one_clear_line() -> None:
    done = CliRunner().invoke(app, ["bench", "gateway", "--engine", "slow", *BRIEFLY])
    assert done.exit_code == 2
    assert "http://HOST:PORT" in done.output
    config = Path(__file__).parents[2] / "examples" / "laptop.yaml"
    done = CliRunner().invoke(app, ["bench", "gateway", "--engine", str(config), *BRIEFLY])
    assert done.exit_code == 2
    assert "no model 'bench' on vLLM" in done.output


def test_a_running_engine_is_named_by_its_url() -> None:
    assert Options(engine="http://10.0.0.7:8100").place() == ("10.0.0.7", 8100)
    with pytest.raises(BenchError):
        Options(engine="http://x:port").place()


def test_counts() -> None:
    assert parse_counts("1, 16") == (1, 16)
    assert parse_counts("") == ()
    for wrong in ("0", "a", "1;2"):
        with pytest.raises(BenchError):
            parse_counts(wrong)


def select(found: list[Measure], name: str, **labels: str) -> list[Measure]:
    return [one for one in found if one.name == name and labels.items() <= one.labels.items()]


@pytest.mark.usefixtures("left_clean")
def test_carriers_are_compared(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    nothing = ("--requests", "0", "--connections", "", "--streams", "", "--memory-requests", "0")
    asked = ["bench", "gateway", *nothing, "--rounds", "2", "--round-s", "0.05"]
    done = CliRunner().invoke(app, [*asked, "--workers", "0,1", "--out", str(file)])
    assert done.exit_code == 0, done.output
    found = list(read(file).measures)
    for workers in ("0", "1"):
        (rate,) = select(found, "requests_by_workers", workers=workers)
        assert min(rate.values) > 0
    (ratio,) = select(found, "requests_ratio", workers="0")
    assert ratio.values == (1.0, 1.0)
