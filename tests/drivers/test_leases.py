"""The Leases port, in the deciding process and over the carriers' socket: one suite for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from controller.core.names import (
    Depth,
    Ladder,
    ModelName,
    ModelState,
    NodeId,
    OpId,
    RejectReason,
    ReplicaId,
)
from controller.drivers.lease_desk import LeaseDesk
from controller.drivers.lease_wire import FromCarrier, Link, from_carrier
from controller.drivers.remote_leases import RemoteCounts, RemoteLeases
from controller.drivers.world import SimulatedEngine
from controller.ports import EngineSeen, Lease, Leases, NodeFound, Outlook, Refused
from tests.core.fleets import spec
from tests.drivers.stand import Stand, a_fleet, engine
from tests.drivers.virtual_loop import run
from tests.drivers.world_pool import NOBODY
from workers.engine import Memory, Rest

PATIENCE_S = 30.0


@dataclass
class Counts:
    """What was counted, in its order."""

    seen: list[tuple[Any, ...]] = field(default_factory=list)

    def request(self, model: str, route: str, status: int) -> None:
        self.seen.append(("request", model, route, status))

    def granted(self, model: str, state: ModelState, queued_s: float) -> None:
        self.seen.append(("granted", model, state, queued_s))

    def first_byte(self, model: str, state: ModelState, seconds: float) -> None:
        self.seen.append(("first_byte", model, state, seconds))

    def retried(self, model: str) -> None:
        self.seen.append(("retried", model))

    def kv_found(self, model: str, told: bytes) -> None:
        self.seen.append(("kv_found", model, told))


@dataclass
class Desk:
    """One deciding process and where its carriers find it."""

    stand: Stand
    socket: Path
    desk: LeaseDesk
    counts: Counts

    @asynccontextmanager
    async def carrier(self) -> AsyncIterator[RemoteLeases]:
        async with RemoteLeases(self.socket, PATIENCE_S) as leases:
            yield leases


@asynccontextmanager
async def a_desk(socket: Path, *specs: Any, **more: Any) -> AsyncIterator[Desk]:
    async with a_fleet(*specs, **more) as stand:
        counts = Counts()
        desk = LeaseDesk(stand.leases, counts, lambda: ("a", "b"))
        await desk.open(socket)
        try:
            yield Desk(stand, socket, desk, counts)
        finally:
            await desk.close(within_s=0.0)


@asynccontextmanager
async def in_process(*specs: Any, **more: Any) -> AsyncIterator[tuple[Stand, Leases]]:
    async with a_fleet(*specs, **more) as stand:
        yield stand, stand.leases


@asynccontextmanager
async def over_the_socket(*specs: Any, **more: Any) -> AsyncIterator[tuple[Stand, Leases]]:
    with TemporaryDirectory(prefix="t-") as directory:
        async with (
            a_desk(Path(directory) / "leases", *specs, **more) as desk,
            desk.carrier() as leases,
        ):
            yield desk.stand, leases


Open = Callable[..., AbstractAsyncContextManager[tuple[Stand, Leases]]]
both = pytest.mark.parametrize("leases_of", [in_process, over_the_socket])


async def refusal(leases: Leases, model: str, max_wait_s: float | None = None) -> Refused:
    with pytest.raises(Refused) as refused:
        async with leases.acquire(model, request_id="r", max_wait_s=max_wait_s):
            pass
    return refused.value


async def settled(stand: Stand, model: str, running: int, waiting: int = 0) -> None:
    """The virtual clock moves on only when nothing is left to be said."""
    await asyncio.sleep(0.01)
    fleet, name = stand.driver.fleet, ModelName(model)
    assert (fleet.running(name), fleet.waiting(name)) == (running, waiting)


# the contract


@both
def test_a_lease_is_what_the_fleet_granted(leases_of: Open) -> None:
    async def story() -> None:
        async with leases_of(spec("a", max_wait_s=77.0)) as (stand, leases):
            async with leases.acquire("a", request_id="r", tenant="t") as lease:
                assert (lease.replica, lease.endpoint) == ("a#0", NOBODY)
                assert lease.state is ModelState.COLD
                assert lease.queued_s == pytest.approx(lease.wake_s, abs=0.01)
                assert lease.max_wait_s == 77.0
                assert lease.kv_identity == stand.driver.kv_identities[lease.replica]
                await settled(stand, "a", running=1)
            await settled(stand, "a", running=0)
            async with leases.acquire("a", request_id="r") as lease:
                assert (lease.state, lease.queued_s) == (ModelState.AWAKE, 0.0)

    run(story())


@both
def test_a_wait_that_is_cancelled_is_withdrawn(leases_of: Open) -> None:
    async def story() -> None:
        async with leases_of() as (stand, leases):
            wait = asyncio.create_task(hold(leases, "a", asyncio.Event()))
            await settled(stand, "a", running=0, waiting=1)
            wait.cancel()
            await asyncio.wait([wait])
            await settled(stand, "a", running=0, waiting=0)
            assert wait.cancelled()

    run(story())


@both
def test_a_task_that_is_cancelled_while_it_is_granted_holds_nothing(leases_of: Open) -> None:
    async def story() -> None:
        async with leases_of() as (stand, leases):
            async with leases.acquire("a", request_id="first"):
                pass
            for turns in range(8):
                wait = asyncio.create_task(hold(leases, "a", asyncio.Event()))
                for _ in range(turns):
                    await asyncio.sleep(0)
                wait.cancel()
                await asyncio.wait([wait])
                await settled(stand, "a", running=0)

    run(story())


@both
def test_refusals_say_why(leases_of: Open) -> None:
    async def story() -> None:
        async with leases_of() as (_, leases):
            unknown = await refusal(leases, "c")
            assert unknown.reason is RejectReason.UNKNOWN_MODEL
            assert "c" in unknown.detail
            hasty = await refusal(leases, "a", max_wait_s=0.5)
            assert hasty.reason in (RejectReason.WAIT_TOO_LONG, RejectReason.DEADLINE_PASSED)
            assert hasty.retry_after_s is not None

    run(story())


@both
def test_a_full_backlog_refuses_at_once(leases_of: Open) -> None:
    async def story() -> None:
        async with leases_of(backlog_limit=0) as (_, leases):
            assert (await refusal(leases, "a")).reason is RejectReason.BACKLOG_FULL

    run(story())


@both
def test_a_waiting_request_has_an_outlook(leases_of: Open) -> None:
    async def story() -> None:
        async with leases_of() as (_, leases):
            wait = asyncio.create_task(hold(leases, "a", asyncio.Event()))
            await asyncio.sleep(4.0)
            told = leases.outlook("a")
            assert told.phase == "starting"
            assert told.estimate_s == pytest.approx(10.0)
            wait.cancel()
            await asyncio.wait([wait])

    run(story())


@both
def test_an_engine_that_is_reported_broken_is_looked_at(leases_of: Open) -> None:
    async def story() -> None:
        async with leases_of() as (stand, leases):
            async with leases.acquire("a", request_id="r") as lease:
                leases.report_broken(lease, "connection refused")
                await asyncio.sleep(3.0)
                assert "EngineLost" in stand.seen.kinds()
            async with leases.acquire("a", request_id="r") as fresh:
                assert fresh.state is ModelState.COLD

    run(story())


@both
def test_requests_of_one_id_are_told_apart(leases_of: Open) -> None:
    async def story() -> None:
        async with leases_of() as (stand, leases):
            over = asyncio.Event()
            held = [asyncio.create_task(hold(leases, "a", over)) for _ in range(5)]
            await asyncio.sleep(20.0)
            await settled(stand, "a", running=5)
            over.set()
            assert {lease.replica for lease in await asyncio.gather(*held)} == {"a#0"}
            await settled(stand, "a", running=0)

    run(story())


@both
@pytest.mark.parametrize("can_freeze", [True, False])
def test_it_is_told_who_is_frozen_and_for_how_long(leases_of: Open, can_freeze: bool) -> None:
    async def story() -> None:
        async with leases_of(spec("a", 10), spec("b", 10), **ROOM_FOR_ONE) as (stand, leases):
            overs = [asyncio.Event(), asyncio.Event()]
            long = asyncio.create_task(hold(leases, "a", overs[0], can_freeze))
            await asyncio.sleep(30.0)
            other = asyncio.create_task(hold(leases, "b", overs[1]))
            await asyncio.sleep(4.0)
            assert list(leases.frozen()) == []
            await asyncio.sleep(20.0)
            state = stand.driver.fleet.state(ModelName("a"))
            assert state == ("frozen" if can_freeze else "draining")
            assert list(leases.frozen()) == [NOBODY] * can_freeze
            overs[1].set()
            await asyncio.sleep(20.0)
            assert list(leases.frozen()) == []
            overs[0].set()
            await asyncio.wait([long, other])

    run(story())


ROOM_FOR_ONE: dict[str, Any] = {
    "node": NodeFound("n", (("0", 16),), 100),
    "maximum_wait_behind_s": 5.0,
}


async def hold(leases: Leases, model: str, over: asyncio.Event, can_freeze: bool = True) -> Lease:
    async with leases.acquire(model, request_id="r", can_freeze=can_freeze) as lease:
        await over.wait()
    return lease


# carriers only


def carriers(work: Callable[[Path], Any]) -> None:
    with TemporaryDirectory(prefix="t-") as directory:
        run(work(Path(directory) / "leases"))


def test_a_carrier_that_dies_holds_nothing_and_waits_for_nothing() -> None:
    async def story(socket: Path) -> None:
        async with a_desk(socket) as desk, desk.carrier() as other, desk.carrier() as dying:
            kept = asyncio.create_task(hold(other, "a", asyncio.Event()))
            held = asyncio.create_task(hold(dying, "a", asyncio.Event()))
            await asyncio.sleep(20.0)
            waits = asyncio.create_task(hold(dying, "b", asyncio.Event()))
            await settled(desk.stand, "a", running=2)
            await settled(desk.stand, "b", running=0, waiting=1)
            assert dying._link is not None
            dying._link._transport.abort()
            assert dying._connecting is not None
            dying._connecting.cancel()
            await settled(desk.stand, "a", running=1)
            await settled(desk.stand, "b", running=0, waiting=0)
            for task in (held, waits, kept):
                task.cancel()
            await asyncio.wait([held, waits, kept])

    carriers(story)


def test_what_is_said_in_one_turn_goes_as_one_message() -> None:
    async def story(socket: Path) -> None:
        messages: list[Sequence[FromCarrier]] = []
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(
            lambda: Link(from_carrier, messages.append, lambda: None), str(socket)
        )
        async with RemoteLeases(socket) as leases:
            await asyncio.sleep(1.0)
            waits = [asyncio.create_task(hold(leases, "a", asyncio.Event())) for _ in range(50)]
            await asyncio.sleep(1.0)
            assert [len(message) for message in messages] == [50]
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        server.close()
        await asyncio.sleep(1.0)
        assert [len(message) for message in messages] == [50, 50]

    carriers(story)


def test_who_waits_is_asked_for_again_when_there_is_a_deciding_process() -> None:
    async def story(socket: Path) -> None:
        async with RemoteLeases(socket, PATIENCE_S) as leases:
            over = asyncio.Event()
            wait = asyncio.create_task(hold(leases, "a", over))
            await asyncio.sleep(5.0)
            async with a_desk(socket) as first:
                await asyncio.sleep(0.2)
                await settled(first.stand, "a", running=0, waiting=1)
            async with a_desk(socket) as second:
                await asyncio.sleep(15.0)
                await settled(second.stand, "a", running=1)
                over.set()
                lease = await wait
                assert lease.queued_s >= lease.wake_s + 5.0
                await settled(second.stand, "a", running=0)

    carriers(story)


def test_leases_in_use_are_known_to_the_next_deciding_process() -> None:
    async def story(socket: Path) -> None:
        idle = spec("a", ladder=Ladder(level_1_s=5.0))
        async with RemoteLeases(socket, PATIENCE_S) as leases:
            over = asyncio.Event()
            async with a_desk(socket, idle):
                held = asyncio.create_task(hold(leases, "a", over))
                await asyncio.sleep(15.0)
            async with a_desk(socket, idle, running=[found("a#0", "a")]) as second:
                await asyncio.sleep(0.2)
                await settled(second.stand, "a", running=1)
                await asyncio.sleep(60.0)
                assert second.stand.driver.fleet.state(ModelName("a")) == "awake"
                over.set()
                await held
                await asyncio.sleep(60.0)
                assert second.stand.driver.fleet.state(ModelName("a")) != "awake"

    carriers(story)


def test_a_frozen_lease_is_known_to_the_next_deciding_process_which_brings_it_back() -> None:
    async def story(socket: Path) -> None:
        both = (spec("a", 10), spec("b", 10))
        async with RemoteLeases(socket, PATIENCE_S) as leases:
            over = asyncio.Event()
            async with a_desk(socket, *both, **ROOM_FOR_ONE):
                long = asyncio.create_task(hold(leases, "a", over))
                await asyncio.sleep(30.0)
                other = asyncio.create_task(hold(leases, "b", asyncio.Event()))
                await asyncio.sleep(20.0)
                assert leases.frozen() == (NOBODY,)
                other.cancel()
            assert leases.frozen() == (NOBODY,), "nothing thaws while nobody decides"
            left = found("a#0", "a", Rest.LEVEL_1)
            async with a_desk(socket, *both, running=[left], **ROOM_FOR_ONE) as second:
                asleep = SimulatedEngine(OpId(1), ModelName("a"), NodeId("n"), Depth.LEVEL_1)
                second.stand.pool.world.engines[ReplicaId("a#0")] = asleep
                await asyncio.sleep(10.0)
                await settled(second.stand, "a", running=1)
                assert second.stand.seen.phases_of("a#0") == ["ASLEEP", "WAKING", "AWAKE"]
                assert leases.frozen() == ()
                over.set()
                await long
                await settled(second.stand, "a", running=0)

    carriers(story)


def test_who_waits_longer_than_it_would_is_refused_and_may_try_again() -> None:
    async def story(socket: Path) -> None:
        async with RemoteLeases(socket, PATIENCE_S) as leases:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert (await refusal(leases, "a", max_wait_s=2.0)).reason is RejectReason.STOPPING
            assert loop.time() - began == pytest.approx(2.0, abs=0.2)
            assert (await refusal(leases, "a")).reason is RejectReason.STOPPING
            assert loop.time() - began == pytest.approx(2.0 + PATIENCE_S, abs=0.4)
            assert leases.outlook("a") == Outlook("queued", 0.0)

    carriers(story)


def test_a_stopping_fleet_refuses_carriers_waits() -> None:
    async def story(socket: Path) -> None:
        async with a_desk(socket) as desk, desk.carrier() as leases:
            wait = asyncio.create_task(refusal(leases, "a"))
            await settled(desk.stand, "a", running=0, waiting=1)
            await desk.stand.driver.close()
            assert (await wait).reason is RejectReason.STOPPING

    carriers(story)


def test_a_desk_that_closes_waits_for_its_carriers() -> None:
    async def story(socket: Path) -> None:
        async with a_desk(socket) as desk, desk.carrier() as leases:
            over = asyncio.Event()
            held = asyncio.create_task(hold(leases, "a", over))
            await asyncio.sleep(15.0)
            closing = asyncio.create_task(desk.desk.close(within_s=40.0))
            await asyncio.sleep(30.0)
            assert not closing.done()
            over.set()
            await held
            await settled(desk.stand, "a", running=0)
            await asyncio.sleep(20.0)
            assert closing.done()

    carriers(story)


def test_a_refusal_for_an_unknown_model_names_those_there_are() -> None:
    async def story(socket: Path) -> None:
        async with a_desk(socket) as desk, desk.carrier() as leases:
            await refusal(leases, "c")
            assert leases.known == ("a", "b")

    carriers(story)


def test_counts_arrive_also_those_from_before_there_was_anybody() -> None:
    async def story(socket: Path) -> None:
        async with RemoteLeases(socket, PATIENCE_S) as leases:
            counts = RemoteCounts(leases)
            counts.retried("a")
            counts.kv_found("a", b"hit=1 of 2 tier=host")
            async with a_desk(socket) as desk:
                await asyncio.sleep(1.0)
                counts.granted("a", ModelState.WOKEN, 0.25)
                counts.first_byte("a", ModelState.WOKEN, 0.5)
                counts.request("a", "/v1/embeddings", 200)
                await asyncio.sleep(1.0)
                assert desk.counts.seen == [
                    ("retried", "a"),
                    ("kv_found", "a", b"hit=1 of 2 tier=host"),
                    ("granted", "a", ModelState.WOKEN, 0.25),
                    ("first_byte", "a", ModelState.WOKEN, 0.5),
                    ("request", "a", "/v1/embeddings", 200),
                ]

    carriers(story)


def found(replica: str, model: str, rest: Rest | None = None) -> EngineSeen:
    return EngineSeen(
        replica=replica,
        model=model,
        incarnation=1,
        rest=rest,
        node="n",
        devices=("0",),
        memory=Memory(10, 0) if rest is None else Memory(1, 10),
        endpoint=NOBODY,
        max_model_len=10,
        spec=engine(model),
    )
