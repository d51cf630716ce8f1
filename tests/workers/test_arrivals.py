"""Who arrives slowly keeps nobody waiting."""

from __future__ import annotations

import asyncio

from workers.arrivals import Arrivals


async def _arrives(ready: asyncio.Event, well: bool = True) -> bool:
    await ready.wait()
    return well


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_that_is_slow_does_not_keep_back_another() -> None:
    arrivals, never, ready = Arrivals[str](), asyncio.Event(), asyncio.Event()
    arrivals.begin("1", "slow", _arrives(never))
    arrivals.begin("2", "quick", _arrives(ready))
    assert arrivals.over() == []
    ready.set()
    await _turns()
    assert arrivals.over() == ["quick"]
    assert arrivals.over() == [], "told once"
    assert "1" in arrivals
    assert "2" not in arrivals
    arrivals.keep_only(())


async def test_one_that_went_meanwhile_never_arrives() -> None:
    arrivals, ready = Arrivals[str](), asyncio.Event()
    arrivals.begin("1", "gone", _arrives(ready))
    arrivals.begin("2", "here", _arrives(ready))
    arrivals.keep_only(["2"])
    ready.set()
    await arrivals.all_over()
    assert arrivals.over() == ["here"]


async def test_one_that_did_not_arrive_well_may_begin_again() -> None:
    arrivals, ready = Arrivals[str](), asyncio.Event()
    ready.set()
    arrivals.begin("1", "one", _arrives(ready, well=False))
    await arrivals.all_over()
    assert arrivals.over() == []
    arrivals.begin("1", "one", _arrives(ready))
    await arrivals.all_over()
    assert arrivals.over() == ["one"]
