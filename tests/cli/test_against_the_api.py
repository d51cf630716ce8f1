"""The client and the API are written against the same views: here they meet."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from threading import Thread

import pytest
import uvicorn

from controller.api.app import ApiSettings, create_app
from controller.api.client_connection import ClientConnection
from controller.client import FleetClient, FleetError
from controller.keyring import new_key
from controller.metrics import Metrics
from tests.api.fakes import FakeControl, FakeLeases


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str]]:
    """The address of the API before a fleet that only pretends, and an administrator's key."""
    key, entry = new_key("ann", "", ["admin"])
    control = FakeControl("chat", "org/embed")
    app = create_app(ApiSettings(keys=(entry,)), FakeLeases(), control, Metrics())
    config = uvicorn.Config(app, http=ClientConnection, lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", key
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def fleet(served: tuple[str, str]) -> Iterator[FleetClient]:
    with FleetClient(*served) as client:
        yield client


def test_looking(fleet: FleetClient) -> None:
    assert [model.model for model in fleet.models()] == ["chat", "org/embed"]
    assert fleet.model("org/embed").model == "org/embed"
    assert isinstance(fleet.why("org/embed"), list)


@pytest.mark.parametrize("wait", [True, False])
def test_ordering(fleet: FleetClient, wait: bool) -> None:
    orders = [
        fleet.wake("org/embed", wait=wait),
        fleet.sleep("chat", 2, wait=wait),
        fleet.switch("chat", "org/embed", 2, wait=wait),
        fleet.stop("chat", wait=wait),
    ]
    for order in orders:
        assert order.status in ("done", "running")
        assert fleet.operation(order.operation).operation == order.operation


def test_pinning(fleet: FleetClient) -> None:
    fleet.pin("org/embed")
    assert fleet.model("org/embed").pinned
    fleet.unpin("org/embed")
    assert not fleet.model("org/embed").pinned


def test_what_is_refused(fleet: FleetClient, served: tuple[str, str]) -> None:
    with pytest.raises(FleetError) as refused:
        fleet.wake("nobody")
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    with FleetClient(served[0]) as stranger, pytest.raises(FleetError) as refused:
        stranger.fleet()
    assert refused.value.status == 401
