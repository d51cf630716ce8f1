"""The live driver: what its pool says becomes events, what the core orders becomes deeds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from controller.core.commands import Command
from controller.core.events import EngineWoke, Event, TimePassed
from controller.core.fleet import Fleet
from controller.core.lifecycle import InvariantBroken
from controller.core.names import (
    NOTHING,
    Depth,
    Instant,
    Ladder,
    ModelName,
    ModelState,
    NodeId,
    OpId,
    RejectReason,
    ReplicaId,
    RequestId,
)
from controller.drivers.world import SimulatedEngine
from controller.ports import EngineSeen, Lease, NodeFound, Refused
from tests.core.fleets import spec
from tests.drivers.stand import Stand, a_fleet, engine
from tests.drivers.virtual_loop import run
from tests.drivers.world_pool import NOBODY
from workers.engine import CanaryMismatch, EngineError, KVExport, Memory, Report, Rest


async def once(stand: Stand, model: str, serve_s: float = 1.0) -> Lease:
    """One request, from its arrival to its end."""
    async with stand.leases.acquire(model, request_id="r") as lease:
        await asyncio.sleep(serve_s)
    return lease


async def refusal(stand: Stand, model: str, max_wait_s: float | None = None) -> Refused:
    with pytest.raises(Refused) as refused:
        async with stand.leases.acquire(model, request_id="r", max_wait_s=max_wait_s):
            pass
    assert not stand.driver.grants
    return refused.value


# the time


def test_a_deadline_that_moved_away_is_kept_and_the_old_one_is_not_told() -> None:
    async def story() -> None:
        async with a_fleet(spec("a", ladder=Ladder(level_1_s=100.0))) as stand:
            await once(stand, "a")
            await asyncio.sleep(60.0)
            await once(stand, "a", serve_s=30.0)
            told_from = len(stand.seen.events)
            await asyncio.sleep(99.0)
            assert "TimePassed" not in stand.seen.kinds()[told_from:]
            assert stand.driver.fleet.state(ModelName("a")) == "awake"
            await asyncio.sleep(20.0)
            assert stand.driver.fleet.state(ModelName("a")) == "level_1"

    run(story())


# requests


def test_a_request_starts_its_engine_is_granted_and_released() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            async with stand.leases.acquire("a", request_id="r") as lease:
                assert (lease.replica, lease.endpoint) == ("a#0", NOBODY)
                assert lease.state is ModelState.COLD
                assert lease.queued_s == pytest.approx(lease.wake_s)
                assert lease.max_wait_s == 300.0
                assert stand.driver.fleet.running(ModelName("a")) == 1
            assert stand.driver.fleet.running(ModelName("a")) == 0
            assert (await once(stand, "a")).state is ModelState.AWAKE
            await stand.control.wait(stand.control.sleep("a", 1))
            assert (await once(stand, "a")).state is ModelState.WOKEN
            assert stand.pool.orders == [("start", "a#0"), ("sleep", "a#0"), ("wake", "a#0")]

    run(story())


def test_the_same_id_may_be_asked_twice_at_once() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            both = await asyncio.gather(once(stand, "a"), once(stand, "a"))
            assert [lease.replica for lease in both] == ["a#0", "a#0"]

    run(story())


def test_a_lease_ends_also_with_an_error() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            with pytest.raises(ZeroDivisionError):
                async with stand.leases.acquire("a", request_id="r"):
                    raise ZeroDivisionError
            assert stand.driver.fleet.running(ModelName("a")) == 0

    run(story())


def test_a_cancelled_wait_is_withdrawn() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            waiting = asyncio.create_task(once(stand, "a"))
            await asyncio.sleep(1.0)
            assert stand.driver.fleet.waiting() == 1
            assert stand.leases.outlook("a").estimate_s > 0
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert stand.driver.fleet.waiting() == 0
            assert not stand.driver.grants
            await asyncio.sleep(60.0)
            assert not stand.seen.grants()

    run(story())


def test_a_wait_cancelled_in_the_step_of_its_grant_leaves_no_lease() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await once(stand, "a")
            waiting = asyncio.create_task(once(stand, "a"))
            asyncio.get_running_loop().call_soon(waiting.cancel)
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert len(stand.seen.grants()) == 2
            assert stand.driver.fleet.running(ModelName("a")) == 0

    run(story())


def test_who_cannot_be_served_is_refused_and_told_why() -> None:
    async def story() -> None:
        async with a_fleet(spec("a"), spec("b", pinned=True), spec("c", 99)) as stand:
            assert (await refusal(stand, "nobody")).reason is RejectReason.UNKNOWN_MODEL
            assert (await refusal(stand, "c")).reason is RejectReason.NEVER_FITS
            hasty = await refusal(stand, "a", max_wait_s=2.0)
            assert hasty.reason is RejectReason.WAIT_TOO_LONG
            assert hasty.retry_after_s is not None

    run(story())


def test_who_waits_in_vain_is_refused_at_his_deadline() -> None:
    async def story() -> None:
        async with (
            a_fleet(spec("a", 20), spec("b", 20)) as stand,
            stand.leases.acquire("a", request_id="long"),
        ):
            began = stand.driver.now()
            late = await refusal(stand, "b", max_wait_s=30.0)
            assert late.reason is RejectReason.DEADLINE_PASSED
            assert stand.driver.now() - began == pytest.approx(30.0)

    run(story())


# engines that break


def test_a_failed_order_is_answered_by_a_restart() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            stand.pool.mishaps["start"] = [EngineError("no weights")]
            assert (await once(stand, "a")).state is ModelState.COLD
            phases = ["STARTING", "FAILED", "STOPPING", "COLD", "STARTING", "AWAKE"]
            assert stand.seen.phases_of("a#0") == phases
            assert "no weights" in str(stand.driver.fleet.story(ModelName("a")))

    run(story())


def test_a_model_that_never_starts_is_given_up_and_says_so() -> None:
    async def story() -> None:
        async with a_fleet(spec("a", max_restarts=2)) as stand:
            stand.pool.mishaps["start"] = [EngineError("no weights")] * 2
            gone = await refusal(stand, "a")
            assert gone.reason is RejectReason.CANNOT_START
            assert "no weights" in gone.detail

    run(story())


@pytest.mark.parametrize("order", ["start", "wake"])
@pytest.mark.parametrize("error", [RuntimeError("oops"), asyncio.CancelledError()], ids=type)
def test_what_a_pool_must_not_raise_is_a_failure_too(order: str, error: BaseException) -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await once(stand, "a")
            await stand.control.wait(stand.control.sleep("a", 2 if order == "wake" else 1))
            if order == "start":
                await stand.control.wait(stand.control.stop("a"))
            stand.pool.mishaps[order] = [error]
            assert (await once(stand, "a")).replica == "a#0"
            failed = next(e for e in stand.seen.events if type(e).__name__ == "EngineFailed")
            assert type(error).__name__ in str(failed)

    run(story())


def test_an_engine_with_other_answers_is_never_granted() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await once(stand, "a")
            await stand.control.wait(stand.control.sleep("a", 2))
            stand.pool.mishaps["wake"] = [CanaryMismatch("other tokens")]
            assert (await once(stand, "a")).state is ModelState.COLD
            tail = ["WAKING", "FAILED", "STOPPING", "COLD", "STARTING", "AWAKE"]
            assert stand.seen.phases_of("a#0")[-6:] == tail
            assert stand.driver.fleet.models[ModelName("a")].canary_failures == 1
            kinds = stand.seen.kinds()
            between = kinds[kinds.index("CanaryDisagreed") :]
            assert "EngineStarted" in between
            assert len(stand.seen.grants()) == 2

    run(story())


def test_a_stop_that_fails_is_ordered_again() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await once(stand, "a")
            stand.pool.mishaps["stop"] = [EngineError("will not go")]
            stopped = stand.control.stop("a")
            await asyncio.sleep(120.0)
            assert stand.pool.orders.count(("stop", "a#0")) == 2
            assert stand.control.model("a").state == "stopped"
            assert stand.control.operation(stopped).status != "running"

    run(story())


def test_a_death_is_noticed_and_the_next_request_gets_a_fresh_engine() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await once(stand, "a")
            stand.pool.die("a#0")
            await asyncio.sleep(0.0)
            assert (await once(stand, "a")).state is ModelState.COLD
            assert stand.seen.kinds().count("EngineLost") == 1

    run(story())


def test_an_engine_that_nobody_hears_is_looked_at() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            lease = await once(stand, "a")  # NOBODY listens there
            stand.leases.report_broken(lease, "connection refused")
            await asyncio.sleep(60.0)
            assert "out of reach: connection refused" in str(stand.seen.events)

    run(story())


# nodes

SECOND = NodeFound("m", (("0", 24),), 100)


def where(stand: Stand, model: str) -> list[str | None]:
    return [replica.node for replica in stand.control.model(model).replicas]


def test_a_node_that_joins_is_used() -> None:
    async def story() -> None:
        async with a_fleet(spec("a", 40)) as stand:
            assert (await refusal(stand, "a")).reason is RejectReason.NEVER_FITS
            stand.pool.join(NodeFound("m", (("0", 48),), 100))
            await asyncio.sleep(0.0)
            assert [node.node for node in stand.control.view().nodes] == ["n", "m"]
            await once(stand, "a")
            assert where(stand, "a") == ["m"]

    run(story())


def test_what_a_joining_node_may_give_is_limited_like_any_others() -> None:
    def half(found: NodeFound) -> NodeFound:
        return replace(found, host_bytes=found.host_bytes // 2)

    async def story() -> None:
        async with a_fleet(limit=half) as stand:
            stand.pool.join(SECOND)
            await asyncio.sleep(0.0)
            assert [node.host_bytes for node in stand.control.view().nodes] == [50, 50]

    run(story())


def test_a_lost_nodes_requests_go_elsewhere() -> None:
    async def story() -> None:
        async with a_fleet(spec("a", 20), spec("b", 20)) as stand:
            await once(stand, "a")
            stand.pool.join(SECOND)
            await once(stand, "b")
            assert where(stand, "b") == ["m"]
            async with stand.leases.acquire("b", request_id="r") as lease:
                broken = asyncio.create_task(stand.pool.serve(RequestId("r"), lease.replica, 60.0))
                await asyncio.sleep(1.0)
                stand.pool.lose("m")
                assert not await broken
                assert stand.control.model("b").state == "stopped"
                assert [node.node for node in stand.control.view().nodes] == ["n"]
            assert (await once(stand, "b")).state is ModelState.COLD
            assert where(stand, "b") == ["n"]
            assert stand.pool.orders[-1] == ("start", "b#0")
            assert ("stop", "b#0") not in stand.pool.orders
            assert stand.driver.fleet.models[ModelName("b")].failures == 0

    run(story())


def test_an_order_of_a_lost_node_that_ends_late_is_of_no_account() -> None:
    async def story() -> None:
        async with a_fleet(spec("a")) as stand:
            await once(stand, "a")
            stand.pool.mishaps["stop"] = [EngineError("will not go")]
            stand.control.stop("a")
            await asyncio.sleep(0.4)
            stand.pool.lose("n")
            stand.pool.join(SECOND)
            waiting = asyncio.create_task(once(stand, "a"))
            assert (await waiting).endpoint == NOBODY
            assert where(stand, "a") == ["m"]
            assert stand.seen.phases_of("a#0")[-2:] == ["STARTING", "AWAKE"]

    run(story())


@pytest.mark.parametrize("times", [1, 3])
def test_a_watch_that_fails_is_taken_up_again(times: int) -> None:
    async def story() -> None:
        async with a_fleet(spec("a", max_restarts=9)) as stand:
            await once(stand, "a")
            for _ in range(times):
                stand.pool.cut.append(OSError("Ray is away"))
                stand.pool.join(SECOND)
                await asyncio.sleep(5.0)
                stand.pool.lose("m")
                await asyncio.sleep(0.0)
                stand.pool.cut.append(OSError("Ray is away"))
                stand.pool.die("a#0")  # not heard of
                await asyncio.sleep(5.0)
                stand.pool.die("a#0")
                await asyncio.sleep(0.0)
                assert (await once(stand, "a")).state is ModelState.COLD
            kinds = stand.seen.kinds()
            assert [kinds.count(kind) for kind in ("NodeLost", "EngineLost")] == [times, times]
            assert not stand.pool.cut

    run(story())


# our own mistakes


class FullDisk:
    """An observer that cannot do its work."""

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        raise OSError("no space left on device")

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        raise OSError("no space left on device")

    def exported(self, model: str, export: KVExport) -> None: ...


def test_an_observer_that_fails_stops_nothing() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            stand.driver.observers.insert(0, FullDisk())
            await once(stand, "a")
            assert stand.pool.orders == [("start", "a#0")]
            assert stand.seen.phases_of("a#0") == ["STARTING", "AWAKE"]

    run(story())


def test_a_broken_invariant_about_nobody_is_survived() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            stand.driver.feed(Event(stand.driver.now()))
            assert (await once(stand, "a")).replica == "a#0"

    run(story())


class Breaks(Fleet):
    """Of two minds about the time, once."""

    has_broken = False

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, TimePassed) and not self.has_broken:
            self.has_broken = True
            raise InvariantBroken("of two minds")
        return super().handle(event)


def test_a_broken_invariant_does_not_stop_the_clock() -> None:
    async def story() -> None:
        busy = (spec("a", 20), spec("b", 20))
        async with (
            a_fleet(*busy, kind=Breaks) as stand,
            stand.leases.acquire("a", request_id="long"),
        ):
            began = stand.driver.now()
            late = await refusal(stand, "b", max_wait_s=30.0)
            assert late.reason is RejectReason.DEADLINE_PASSED
            assert 30.0 <= stand.driver.now() - began < 40.0

    run(story())


def test_a_broken_invariant_costs_the_replica_its_engine() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            waiting = asyncio.create_task(once(stand, "a"))
            await asyncio.sleep(1.0)
            order = stand.driver.fleet.replicas[ReplicaId("a#0")].order
            assert order is not None
            stand.driver.feed(EngineWoke(stand.driver.now(), order.op, ReplicaId("a#0"), NOTHING))
            assert "an invariant broke" in str(stand.seen.events[-1])
            await once(stand, "b")
            assert (await waiting).replica == "a#0"
            assert stand.pool.orders.count(("start", "a#0")) == 2

    run(story())


# engines from before


def adopted(model: str, incarnation: int, rest: Rest | None) -> EngineSeen:
    return EngineSeen(
        replica=f"{model}#0",
        model=model,
        incarnation=incarnation,
        rest=rest,
        node="n",
        devices=("0",),
        memory=Memory(10, 0) if rest is None else Memory(1, 10),
        endpoint=NOBODY,
        max_model_len=64,
        spec=engine(model),
    )


def let_run(stand: Stand, seen: EngineSeen, depth: Depth) -> None:
    stand.pool.world.engines[ReplicaId(seen.replica)] = SimulatedEngine(
        OpId(seen.incarnation), ModelName(seen.model), NodeId(seen.node), depth
    )


def test_engines_from_before_are_kept_and_nothing_is_started_twice() -> None:
    a, b = adopted("a", 7, None), adopted("b", 5, Rest.LEVEL_1)

    async def story() -> None:
        async with a_fleet(running=[a, b], prefetch_start=True) as stand:
            let_run(stand, a, Depth.AWAKE)
            let_run(stand, b, Depth.LEVEL_1)
            assert stand.control.model("a").max_model_len == 64
            assert (await once(stand, "a")).state is ModelState.AWAKE
            assert (await once(stand, "b")).state is ModelState.WOKEN
            await asyncio.sleep(100.0)
            assert stand.pool.orders == [("wake", "b#0")]
            await stand.control.wait(stand.control.stop("a"))
            await once(stand, "a")
            incarnation = stand.driver.fleet.replicas[ReplicaId("a#0")].incarnation
            assert incarnation is not None
            assert incarnation > 7

    run(story())


def test_an_engine_of_no_known_model_is_stopped() -> None:
    stranger = adopted("x", 3, None)

    async def story() -> None:
        async with a_fleet(running=[stranger]) as stand:
            await asyncio.sleep(10.0)
            assert stand.pool.orders == [("stop", "x#0")]
            assert (await refusal(stand, "x")).reason is RejectReason.UNKNOWN_MODEL

    run(story())


def test_who_waits_at_the_end_is_refused() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            waiting = asyncio.create_task(refusal(stand, "a"))
            await asyncio.sleep(1.0)
            await stand.driver.close()
            assert (await waiting).reason is RejectReason.STOPPING
            assert (await refusal(stand, "a")).reason is RejectReason.STOPPING
            assert not stand.seen.grants()

    run(story())


def test_nothing_is_fed_after_the_end() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            stand.control.wake("a")
        events = len(stand.seen.events)
        stand.driver.feed(Event(Instant(0.0)))
        await asyncio.sleep(60.0)
        assert len(stand.seen.events) == events

    run(story())
