"""The live control: orders that end once, views, the public events, stories."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from controller.core.commands import FinishOperation
from controller.core.names import ModelName, RejectReason
from controller.ports import (
    FleetEvent,
    InvalidModel,
    OperationView,
    Refused,
    UnknownModel,
    UnknownOperation,
)
from tests.core.fleets import spec
from tests.drivers.stand import Stand, a_fleet
from tests.drivers.virtual_loop import run
from workers.engine import EngineError


async def done(stand: Stand, operation: str) -> OperationView:
    """An order, when it has ended: well, and once."""
    assert stand.control.operation(operation).status == "running"
    view = await stand.control.wait(operation)
    assert (view.status, view.error) == ("done", "")
    assert ends(stand, operation) == 1
    return view


def ends(stand: Stand, operation: str) -> int:
    finished = [c for c in stand.seen.commands if isinstance(c, FinishOperation)]
    return sum(command.operation == operation for command in finished)


# orders


def test_orders_end_once_with_their_seconds_by_phase() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            control = stand.control
            woken = await done(stand, control.wake("a"))
            assert (woken.kind, woken.model) == ("wake", "a")
            assert woken.phases_s == {"start.load": 1.0}
            assert 8.0 <= woken.seconds <= 12.0
            slept = await done(stand, control.sleep("a", 1))
            assert slept.phases_s == {"sleep.level_1": 1.0}
            assert control.model("a").state == "level_1"
            assert (await done(stand, control.wake("a"))).phases_s == {"wake.weights": 1.0}
            stopped = await done(stand, control.stop("a"))
            assert (stopped.kind, stopped.phases_s) == ("stop", {})
            assert control.model("a").state == "stopped"
            await asyncio.sleep(2000.0)
            assert ends(stand, stopped.operation) == 1
            assert control.operation(stopped.operation).seconds == stopped.seconds

    run(story())


@pytest.mark.parametrize(("level", "state"), [(0, "kv_released"), (1, "level_1"), (2, "level_2")])
def test_a_sleep_leads_to_its_level(level: int, state: str) -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await done(stand, stand.control.wake("a"))
            await done(stand, stand.control.sleep("a", level))
            [replica] = stand.control.model("a").replicas
            assert (stand.control.model("a").state, replica.depth) == (state, state)

    run(story())


@pytest.mark.parametrize("source", ["a", None])
def test_a_switch_is_one_operation(source: str | None) -> None:
    async def story() -> None:
        async with a_fleet(spec("a", 20), spec("b", 20)) as stand:
            await done(stand, stand.control.wake("a"))
            switched = await done(stand, stand.control.switch("b", source, 2))
            assert (switched.kind, switched.model) == ("switch", "b")
            assert switched.phases_s["start.load"] == 1.0
            assert switched.phases_s.get("a.sleep.level_2") == (1.0 if source else None)
            states = {view.model: view.state for view in stand.control.view().models}
            assert states == {"a": "level_2", "b": "awake"}

    run(story())


def test_an_order_that_is_done_already_ends_at_once() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            view = stand.control.operation(stand.control.stop("a"))
            assert (view.status, view.seconds) == ("done", 0.0)

    run(story())


def test_an_order_that_cannot_be_done_fails_with_a_reason() -> None:
    async def story() -> None:
        async with a_fleet(spec("a", max_restarts=1)) as stand:
            stand.pool.mishaps["start"] = [EngineError("no weights")]
            view = await stand.control.wait(stand.control.wake("a"))
            assert view.status == "failed"
            assert "no weights" in view.error
            assert stand.control.model("a").state == "failed"
            assert (await stand.control.wait(stand.control.wake("a"))).status == "done"

    run(story())


def test_everybody_who_waits_for_an_operation_hears_of_it() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            operation = stand.control.wake("a")
            views = await asyncio.gather(*(stand.control.wait(operation) for _ in range(3)))
            assert {view.status for view in views} == {"done"}

    run(story())


def test_an_order_waits_for_the_responses_that_run() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            async with stand.leases.acquire("a", request_id="r"):
                operation = stand.control.sleep("a", 1)
                await asyncio.sleep(50.0)
                assert stand.control.operation(operation).status == "running"
                assert stand.control.model("a").state == "draining"
            assert (await stand.control.wait(operation)).status == "done"

    run(story())


def test_what_nobody_knows_is_an_error() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            control = stand.control
            with pytest.raises(UnknownModel) as unknown:
                control.wake("nobody")
            assert unknown.value.known == ("a", "b")
            for order in (
                lambda: control.sleep("nobody", 1),
                lambda: control.stop("nobody"),
                lambda: control.switch("nobody", None, 1),
                lambda: control.switch("a", "nobody", 1),
                lambda: control.pin("nobody", True),
                lambda: control.remove_model("nobody"),
                lambda: control.model("nobody"),
                lambda: control.why("nobody"),
            ):
                with pytest.raises(UnknownModel):
                    order()
            with pytest.raises(UnknownOperation):
                control.operation("op-1")
            with pytest.raises(UnknownOperation):
                await control.wait("nonsense")

    run(story())


# views


def test_the_view_tells_what_is_booked_who_runs_and_who_waits() -> None:
    async def story() -> None:
        async with a_fleet(spec("a", 20), spec("b", 20)) as stand:
            assert stand.control.model("a").max_model_len is None
            async with stand.leases.acquire("a", request_id="r"):
                waiting = asyncio.create_task(stand.control.wait(stand.control.wake("b")))
                await asyncio.sleep(5.0)
                view = stand.control.model("a")
                assert (view.running, view.idle_s, view.max_model_len) == (1, None, 64)
                [node] = stand.control.view().nodes
                assert node.devices == (("0", 10, 24),)  # as measured: half the estimate
                [replica] = view.replicas
                assert (replica.node, replica.devices, replica.leases) == ("n", ("0",), 1)
            assert (await waiting).status == "done"

    run(story())


def test_a_pinned_model_stays() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            stand.control.pin("a", True)
            assert stand.control.model("a").pinned
            stand.control.pin("a", False)
            assert not stand.control.model("a").pinned

    run(story())


# events and stories


async def take(events: AsyncIterator[FleetEvent], count: int) -> list[FleetEvent]:
    return [await anext(events) for _ in range(count)]


def test_events_can_be_taken_up_where_they_were_left() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await done(stand, stand.control.wake("a"))
            first = await take(stand.control.events(0), 4)
            kinds = [(event.type, event.payload.get("after")) for event in first]
            assert kinds == [
                ("replica", "STARTING"),
                ("report", None),
                ("replica", "AWAKE"),
                ("operation", None),
            ]
            ids = [event.id for event in first]
            assert ids == list(range(ids[0], ids[0] + 4))
            listening = stand.control.events(ids[1])
            assert await take(listening, 2) == first[2:]
            coming = asyncio.create_task(take(listening, 1))
            await asyncio.sleep(1.0)
            stand.control.stop("a")
            [event] = await coming
            assert event.id == ids[-1] + 1
            assert event.payload["model"] == "a"

    run(story())


def test_without_an_id_events_begin_with_the_present() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await done(stand, stand.control.wake("a"))
            coming = asyncio.create_task(take(stand.control.events(None), 1))
            await asyncio.sleep(1.0)
            await done(stand, stand.control.sleep("a", 1))
            [event] = await coming
            assert event.payload["before"] == "AWAKE"

    run(story())


def test_why_tells_the_story_in_order() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await done(stand, stand.control.wake("a"))
            await done(stand, stand.control.sleep("a", 2))
            lines = stand.control.why("a")
            told = [str(line["what"]).partition(":")[0] for line in lines]
            steps = [line for line in told if "->" in line]
            assert steps == [
                "COLD -> STARTING",
                "STARTING -> AWAKE",
                "AWAKE -> DRAINING",
                "DRAINING -> DRAINED",
                "DRAINED -> FALLING_ASLEEP",
                "FALLING_ASLEEP -> ASLEEP",
            ]
            assert {line["replica"] for line in lines} == {"a#0"}
            times = [line["at"] for line in lines if isinstance(line["at"], float)]
            assert times == sorted(times)
            assert len(times) == len(lines)
            assert abs(times[-1] - time.time()) < 60.0

    run(story())


# models come and go


def test_a_model_is_added_served_and_removed() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            control = stand.control
            added = control.operation(control.add_model({"name": "c"}))
            assert (added.kind, added.status) == ("add", "done")
            async with stand.leases.acquire("c", request_id="r") as lease:
                assert lease.replica == "c#0"
                operation = control.remove_model("c")
                waiting = asyncio.create_task(control.wait(operation))
                assert [view.model for view in control.view().models] == ["a", "b"]
                with pytest.raises(UnknownModel):
                    control.model("c")
                with pytest.raises(Refused) as refused:
                    async with stand.leases.acquire("c", request_id="late"):
                        pass
                assert refused.value.reason is RejectReason.UNKNOWN_MODEL
                await asyncio.sleep(10.0)
                assert ("stop", "c#0") not in stand.pool.orders
                removed = control.operation(operation)
                assert (removed.kind, removed.status) == ("remove", "running")
            assert (await waiting).status == "done"
            assert ("stop", "c#0") in stand.pool.orders
            assert ModelName("c") not in stand.driver.fleet.models
            control.add_model({"name": "c"})
            await done(stand, control.wake("c"))

    run(story())


def test_a_model_without_an_engine_is_removed_at_once() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            operation = stand.control.remove_model("a")
            assert stand.control.operation(operation).status == "done"
            [event] = await take(stand.control.events(0), 1)
            assert event.payload == {"operation": operation, "error": ""}

    run(story())


def test_a_name_is_free_again_when_its_engines_are_gone() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await done(stand, stand.control.wake("a"))
            removal = stand.control.remove_model("a")
            with pytest.raises(InvalidModel, match="being removed"):
                stand.control.add_model({"name": "a"})
            assert (await stand.control.wait(removal)).status == "done"
            stand.control.add_model({"name": "a"})

    run(story())


def test_who_waits_for_a_model_that_is_removed_is_refused() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            waiting = asyncio.create_task(_one(stand, "a"))
            await asyncio.sleep(1.0)
            woken = stand.control.wake("a")
            stand.control.remove_model("a")
            with pytest.raises(Refused) as refused:
                await waiting
            assert refused.value.reason is RejectReason.MODEL_REMOVED
            view = await stand.control.wait(woken)
            assert (view.status, view.error) == ("failed", "a was removed")

    run(story())


async def _one(stand: Stand, model: str) -> None:
    async with stand.leases.acquire(model, request_id="r"):
        pass


def test_a_model_that_is_wrong_or_known_is_not_added() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            with pytest.raises(InvalidModel, match="missing"):
                stand.control.add_model({})
            with pytest.raises(InvalidModel, match="'a'"):
                stand.control.add_model({"name": "a"})

    run(story())
