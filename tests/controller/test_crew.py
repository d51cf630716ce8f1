"""What the supervisor starts again beside the controller."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from threading import Thread

import pytest
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from controller.crew import Child, Crew
from controller.records_server import RecordsServer

pytestmark = pytest.mark.timeout(120)


def test_a_store_that_died_is_started_again_with_what_it_kept() -> None:
    with TemporaryDirectory(prefix="t-") as directory:
        store, deaths = (
            RecordsServer(Path(directory, "d"), Path(directory, "s"), _free),
            Queue[int](),
        )
        store.start()
        client = Redis(unix_socket_path=str(store.socket), retry=Retry(ConstantBackoff(0.05), 1000))
        client.set("kept", "yes")
        crew = Crew([], _never, deaths.put, store, deaths.put)
        controller = subprocess.Popen(["sleep", "infinity"])
        tending = Thread(target=crew.tend, args=[controller], daemon=True)
        tending.start()
        first = store.process
        assert first is not None
        first.kill()
        assert deaths.get(timeout=60) == -signal.SIGKILL
        assert client.get("kept") == b"yes"
        assert store.pid != first.pid
        controller.kill()
        tending.join(60)
        assert not tending.is_alive()
        client.close()
        store.stop()


def _free() -> None:
    """Tied to nobody."""


def _never(door: object) -> Child:
    raise AssertionError("there are no doors")
