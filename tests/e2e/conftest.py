from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conftest import count_engine_starts
from tests.e2e.live_fleet import LiveFleet
from workers import demo_models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest) -> Iterator[LiveFleet]:
    """Three real engines behind one address; a short path, since sockets lie below it."""
    models = Path(os.environ.get("TORPOR_MODELS", ROOT / ".torpor/models"))
    demo_models.prepare(models)
    with TemporaryDirectory(prefix="t-") as directory:
        config = Path(directory) / "fleet.yaml"
        written = Path(__file__).with_name("fleet.yaml").read_text()
        config.write_text(written.replace("MODELS", str(models)))
        config.with_name("history.keys").write_text(secrets.token_hex(32))
        fleet = LiveFleet(config, Path(directory))
        try:
            fleet.await_ready()
            yield fleet
        finally:
            fleet.stop()
            count_engine_starts(request.config, fleet.starts())
