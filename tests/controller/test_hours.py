"""Hours by the clock on the wall: how they are written, what they say, and clocks that jump."""

from __future__ import annotations

import asyncio
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from controller.core.names import Depth, Regime, Schedule
from controller.drivers.hours import keep_hours
from controller.hours import (
    clash,
    described,
    has_come,
    parse_hours,
    parse_moment,
    regime_at,
    zone,
)
from tests.core.fleets import spec
from tests.drivers.stand import a_fleet
from tests.drivers.virtual_loop import run

BERLIN = "Europe/Berlin"
OFFICE = Schedule(
    BERLIN, (parse_hours("Mon-Fri 08:00-18:00"),), (parse_hours("22:00-06:00"),), Depth.LEVEL_2
)


def unix(text: str, time_zone: str = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(time_zone)).timestamp()


@pytest.mark.parametrize(
    ("text", "days", "begins", "ends"),
    [
        ("Mon-Fri 08:00-18:00", (0, 1, 2, 3, 4), 480, 1080),
        ("Sat,Sun 10:00-14:30", (5, 6), 600, 870),
        ("Fri-Mon,Wed 22:00-06:00", (0, 2, 4, 5, 6), 1320, 360),
        ("00:00-24:00", (0, 1, 2, 3, 4, 5, 6), 0, 1440),
    ],
)
def test_hours_are_read(text: str, days: tuple[int, ...], begins: int, ends: int) -> None:
    found = parse_hours(text)
    assert (found.days, found.begins_minute, found.ends_minute) == (days, begins, ends)


@pytest.mark.parametrize(
    "text", ["8:00-18:00", "Mo 08:00-18:00", "08:00", "08:00-08:00", "24:00-06:00", "mon 1:00-2:00"]
)
def test_what_are_no_hours(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_hours(text)


def test_what_are_no_moments_and_no_zones() -> None:
    with pytest.raises(ValueError, match="time of day"):
        parse_moment("24:00")
    for name in ("Mars/Olympus", "../../etc/passwd", ""):
        with pytest.raises(ValueError, match="time zone"):
            zone(name)


@pytest.mark.parametrize(
    ("at", "regime"),
    [
        ("2026-11-23T07:59:59", Regime.USUAL),
        ("2026-11-23T08:00:00", Regime.AWAKE),
        ("2026-11-23T17:59:59", Regime.AWAKE),
        ("2026-11-23T18:00:00", Regime.USUAL),
        ("2026-11-23T22:00:00", Regime.ASLEEP),
        ("2026-11-24T05:59:59", Regime.ASLEEP),
        ("2026-11-24T06:00:00", Regime.USUAL),
        ("2026-11-28T12:00:00", Regime.USUAL),  # Saturday
    ],
)
def test_what_hours_it_is(at: str, regime: Regime) -> None:
    assert regime_at(OFFICE, unix(at)) is regime


def test_without_a_schedule_all_hours_are_usual() -> None:
    assert regime_at(None, 0.0) is Regime.USUAL


def test_past_midnight_belongs_to_the_day_on_which_it_began() -> None:
    friday = Schedule(BERLIN, asleep=(parse_hours("Fri 22:00-06:00"),))
    assert regime_at(friday, unix("2026-11-28T05:00:00")) is Regime.ASLEEP  # Saturday
    assert regime_at(friday, unix("2026-11-27T05:00:00")) is Regime.USUAL
    sunday = Schedule(BERLIN, asleep=(parse_hours("Sun 22:00-06:00"),))
    assert regime_at(sunday, unix("2026-11-23T05:00:00")) is Regime.ASLEEP  # Monday


def minutes_of(schedule: Schedule, regime: Regime, begins: str, hours: int) -> int:
    first = unix(begins)
    return sum(regime_at(schedule, first + 60 * m) is regime for m in range(hours * 60))


def test_days_of_23_and_25_hours() -> None:
    office = Schedule(BERLIN, awake=(parse_hours("08:00-18:00"),))
    for day in ("2026-03-29T00:00:00", "2026-10-25T00:00:00"):
        assert minutes_of(office, Regime.AWAKE, day, 23) == 600  # ten hours on any day
    night = Schedule(BERLIN, asleep=(parse_hours("02:00-03:00"),))
    assert minutes_of(night, Regime.ASLEEP, "2026-03-29T00:00:00", 20) == 0  # there is no such hour
    assert minutes_of(night, Regime.ASLEEP, "2026-10-25T00:00:00", 20) == 120  # there are two


def test_hours_that_contradict() -> None:
    both = [parse_hours("Mon 08:00-12:00")], [parse_hours("Sun 23:00-08:01")]
    assert clash(*both) == "Mon 08:00"
    assert clash([parse_hours("08:00-18:00")], [parse_hours("18:00-08:00")]) is None


def test_described_as_it_could_be_written() -> None:
    assert described(OFFICE) == (
        "awake Mon,Tue,Wed,Thu,Fri 08:00-18:00, level_2 after 60 s 22:00-06:00 (Europe/Berlin)"
    )


def test_a_time_of_day_comes_once() -> None:
    evening = (parse_moment("22:00"),)

    def came(since: str, now: str) -> bool:
        return has_come(evening, BERLIN, unix(since), unix(now))

    assert came("2026-11-23T21:59:50", "2026-11-23T22:00:00")
    assert not came("2026-11-23T22:00:00", "2026-11-23T22:00:10")
    assert came("2026-11-20T23:00:00", "2026-11-23T21:00:00")  # a machine that was suspended
    assert not came("2026-11-23T22:00:10", "2026-11-23T21:00:00")  # a clock that was put back
    assert has_come((parse_moment("Fri 18:00"),), "UTC", 0.0, unix("2026-11-23T00:00:00"))
    assert not has_come(
        (parse_moment("Fri 18:00"),), BERLIN, *map(unix, ("2026-11-23", "2026-11-26"))
    )


def test_a_time_that_a_change_of_clocks_leaves_out_comes_all_the_same() -> None:
    night = (parse_moment("02:30"),)
    before, after = unix("2026-03-29T01:59:00"), unix("2026-03-29T03:45:00")
    assert has_come(night, BERLIN, before, after)
    begins = unix("2026-10-25T00:00:00")
    came = [has_come(night, BERLIN, begins + 60 * m, begins + 60 * m + 60) for m in range(600)]
    assert sum(came) == 1


async def settled(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_a_fleet_follows_the_wall_also_when_it_jumps() -> None:
    async def story() -> list[tuple[str, Regime]]:
        loop = asyncio.get_running_loop()
        base = unix("2026-11-23T07:58:30")
        jump = [0.0]
        model = spec("a", schedule=OFFICE)
        async with a_fleet(model, spec("b")) as stand:
            told: list[tuple[str, Regime]] = []

            def note() -> None:
                told.append((phases(), stand.driver.fleet.models[model.name].regime))

            def phases() -> str:
                return stand.driver.fleet.state(model.name)

            keeping = asyncio.create_task(
                keep_hours(stand.driver, lambda: base + loop.time() + jump[0])
            )
            await settled(60.0)
            note()
            await settled(60.0)
            note()
            jump[0] = 14.5 * 3600.0
            await settled(60.0)
            jump[0] += 300.0
            await settled(240.0)
            note()
            jump[0] = -3600.0
            await settled(120.0)
            note()
            keeping.cancel()
            return told

    assert run(story()) == [
        ("stopped", Regime.USUAL),
        ("awake", Regime.AWAKE),
        ("level_2", Regime.ASLEEP),
        ("level_2", Regime.USUAL),
    ]
