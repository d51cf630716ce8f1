"""A controller that has no file descriptor to spare says so, and blames no engine."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from controller.api.errors import ApiError
from controller.api.upstream import Upstream, UpstreamLimits
from controller.core.commands import StartEngine
from controller.core.events import ModelAdded, NodeJoined, WakeOrdered
from controller.core.fleet import Fleet
from controller.core.names import DeviceId, Instant, NodeId, OperationId, ReplicaId
from controller.drivers.live import LiveDriver
from tests.core.fleets import good_answer, policy, spec
from workers.engine import Endpoint
from workers.local_pool import LocalPool

REPLICA = ReplicaId("a#0")


@contextmanager
def none_to_spare() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 256), hard))
    held: list[int] = []
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def engine() -> tuple[asyncio.Server, Endpoint]:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    return server, Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], "key")


async def test_a_request_is_refused_and_the_engine_not_broken() -> None:
    server, endpoint = await engine()
    async with Upstream(UpstreamLimits()) as upstream:
        with none_to_spare(), pytest.raises(ApiError, match="No connection to spare") as refused:
            async with upstream.post(endpoint, "/v1/completions", b"{}", b""):
                pass
    assert (refused.value.code, refused.value.status) == ("no_sockets", 503)
    server.close()


async def test_a_look_at_an_engine_that_cannot_be_taken_says_nothing_of_it() -> None:
    fleet = Fleet(policy(), [spec("a")])
    fleet.handle(NodeJoined(Instant(0.0), NodeId("n"), ((DeviceId("0"), 24),), 100))
    fleet.handle(ModelAdded(Instant(0.0), spec("a")))
    driver = LiveDriver(fleet, LocalPool(), [])
    server, driver.endpoints[REPLICA] = await engine()
    await start(fleet)
    with none_to_spare():
        await driver._look(REPLICA, "it is slow")
    assert fleet.state(spec("a").name) == "awake"
    server.close()
    await server.wait_closed()
    await driver._look(REPLICA, "it is gone")
    assert fleet.state(spec("a").name) == "stopped"
    await driver.close()


async def start(fleet: Fleet) -> None:
    now = Instant(asyncio.get_running_loop().time())
    (order,) = fleet.handle(WakeOrdered(now, OperationId("o"), spec("a").name))
    assert isinstance(order, StartEngine)
    fleet.handle(good_answer(fleet, REPLICA, now))
