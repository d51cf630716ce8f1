"""Another reading of the configuration file, applied to a fleet that serves."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from controller.core.names import ModelName, ModelSpec, RejectReason
from controller.drivers.catalogue import Configured
from controller.ports import ConfigView, FleetEvent, Refused
from tests.core.fleets import ladder, spec
from tests.drivers.stand import Stand, a_fleet, engine
from tests.drivers.virtual_loop import run

VIEW = ConfigView("fleet.yaml", 1.0, 1.0)


def read(*specs: ModelSpec, **arguments: object) -> list[Configured]:
    """What the file says; ``arguments`` are those of engine ``a``."""
    return [
        (one, replace(engine(one.name), engine_args=arguments if one.name == "a" else {}))
        for one in specs
    ]


def reread(stand: Stand, *specs: ModelSpec, **arguments: object) -> ConfigView:
    stand.control.reconfigure(read(*specs, **arguments), VIEW)
    config = stand.control.view().config
    assert config is not None
    return config


def names(stand: Stand) -> list[str]:
    return [view.model for view in stand.control.view().models]


def test_a_model_that_is_new_in_the_file_is_served() -> None:
    async def story() -> None:
        async with a_fleet(spec("a")) as stand:
            reread(stand, spec("a"), spec("b"))
            assert names(stand) == ["a", "b"]
            async with stand.leases.acquire("b", request_id="r") as lease:
                assert lease.replica == "b#0"

    run(story())


def test_a_model_that_is_gone_from_the_file_ends_its_responses_first() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            async with stand.leases.acquire("a", request_id="r"):
                reread(stand, spec("b"))
                assert names(stand) == ["b"]
                with pytest.raises(Refused) as refused:
                    await stand.leases.acquire("a", request_id="s").__aenter__()
                assert refused.value.reason is RejectReason.UNKNOWN_MODEL
                await asyncio.sleep(100.0)
                assert ("stop", "a#0") not in stand.pool.orders
            await asyncio.sleep(100.0)
            assert ("stop", "a#0") in stand.pool.orders
            assert list(stand.driver.fleet.models) == ["b"]

    run(story())


def test_other_engine_arguments_replace_the_engine_and_drop_no_request() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            served: list[str] = []

            async def ask(request: str, seconds: float) -> None:
                async with stand.leases.acquire("a", request_id=request):
                    await asyncio.sleep(seconds)
                    served.append(request)

            asked = [asyncio.create_task(ask("running", 50.0))]
            await asyncio.sleep(20.0)
            reread(stand, spec("a"), spec("b"), max_model_len=8)
            asked += [asyncio.create_task(ask(f"waiting {n}", 1.0)) for n in range(3)]
            await asyncio.gather(*asked)
            assert served == ["running", "waiting 0", "waiting 1", "waiting 2"]
            assert stand.pool.orders == [("start", "a#0"), ("stop", "a#0"), ("start", "a#0")]
            assert stand.driver.engines[ModelName("a")].engine_args == {"max_model_len": 8}

    run(story())


@pytest.mark.parametrize(
    "changed",
    [
        spec("a", ladder=ladder(1000.0)),
        spec("a", max_wait_s=5.0),
        spec("a", pinned=True),
        spec("a", replicas=2),
        spec("a", 11),
    ],
    ids=["ladder", "wait", "pin", "replicas", "footprint"],
)
def test_what_is_not_the_engines_changes_under_it(changed: ModelSpec) -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await stand.control.wait(stand.control.wake("a"))
            reread(stand, changed, spec("b"))
            await asyncio.sleep(100.0)
            assert stand.driver.fleet.models[ModelName("a")].spec == changed
            assert stand.pool.orders == [("start", "a#0")]

    run(story())


def test_more_devices_for_each_engine_need_other_engines() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            await stand.control.wait(stand.control.wake("a"))
            reread(stand, spec("a", devices_per_replica=2), spec("b"))
            await asyncio.sleep(10.0)
            assert ("stop", "a#0") in stand.pool.orders

    run(story())


def test_what_the_api_added_or_removed_is_the_apis() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            stand.control.add_model({"name": "x"})
            stand.control.remove_model("b")
            assert reread(stand, spec("a"), spec("b")).needs_restart == ()
            assert names(stand) == ["a", "x"]
            view = reread(stand, spec("a"), spec("b", pinned=True), spec("x", pinned=True))
            assert view.needs_restart == (
                "models.b (removed over the API)",
                "models.x (added over the API)",
            )
            assert reread(stand, spec("a")).needs_restart == ()
            assert names(stand) == ["a", "x"]
            assert not stand.control.model("x").pinned

    run(story())


def test_a_pin_of_the_api_stays_until_the_file_has_another_opinion() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            stand.control.pin("a", True)
            reread(stand, spec("a", max_wait_s=7.0), spec("b"))
            assert stand.control.model("a").pinned
            reread(stand, spec("a", pinned=True), spec("b"))
            reread(stand, spec("a"), spec("b"))
            assert not stand.control.model("a").pinned

    run(story())


def test_everybody_can_hear_what_a_reading_changed() -> None:
    async def story() -> None:
        async with a_fleet() as stand:
            heard = asyncio.ensure_future(next_config(stand))
            await asyncio.sleep(0)
            reread(stand, spec("a", pinned=True), spec("c"))
            payload = (await heard).payload
            told = {key: payload[key] for key in ("added", "changed", "restarted", "removed")}
            assert told == {
                "added": ("c",),
                "changed": ("a",),
                "restarted": (),
                "removed": ("b",),
            }
            assert payload["problems"] == ()

    run(story())


async def next_config(stand: Stand) -> FleetEvent:
    async for event in stand.control.events(None):
        if event.type == "config":
            return event
    raise AssertionError("the stream ended")
