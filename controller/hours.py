"""Hours as people write them, and what they say at a moment by the clock on the wall.

``Mon-Fri 08:00-18:00``, ``Sat,Sun 10:00-14:00``, ``22:00-06:00`` (every day, past midnight): the
words of cron and of opening hours that everybody reads alike. Local time decides, so that a day of
23 or 25 hours needs no rule of its own: hours that a change of the clocks leaves out do not come,
and those that come twice count twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from controller.core.names import Hours, Regime, Schedule

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MINUTES = 24 * 60
_DAY = "(?:" + "|".join(DAYS) + ")"
_DAYS = rf"{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d"
HOURS_PATTERN = rf"^(?:({_DAYS}) )?({_TIME})-({_TIME}|24:00)$"
MOMENT_PATTERN = rf"^(?:({_DAYS}) )?({_TIME})$"


def parse_hours(text: str) -> Hours:
    """Raises ValueError."""
    found = re.fullmatch(HOURS_PATTERN, text)
    if found is None:
        raise ValueError('must be hours as in "Mon-Fri 08:00-18:00" or "22:00-06:00"')
    begins, ends = _minute(found[2]), _minute(found[3])
    if begins == ends:
        raise ValueError("must begin and end at different times")
    return Hours(_days(found[1]), begins, ends)


def parse_moment(text: str) -> Hours:
    """A time of day, as the minute that begins with it. Raises ValueError."""
    found = re.fullmatch(MOMENT_PATTERN, text)
    if found is None:
        raise ValueError('must be a time of day as in "22:00" or "Fri 18:00"')
    at = _minute(found[2])
    return Hours(_days(found[1]), at, at + 1)


def zone(name: str) -> ZoneInfo:
    """Raises ValueError."""
    try:
        return _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"no time zone {name!r} is known here") from error


def regime_at(schedule: Schedule | None, unix_s: float) -> Regime:
    if schedule is None:
        return Regime.USUAL
    now = datetime.fromtimestamp(unix_s, _zone(schedule.time_zone))
    minute = now.hour * 60 + now.minute
    if any(_covers(hours, now.weekday(), minute) for hours in schedule.awake):
        return Regime.AWAKE
    if any(_covers(hours, now.weekday(), minute) for hours in schedule.asleep):
        return Regime.ASLEEP
    return Regime.USUAL


def clash(awake: Sequence[Hours], asleep: Sequence[Hours]) -> str | None:
    """The first moment of the week that both claim."""
    for day, name in enumerate(DAYS):
        for minute in range(DAY_MINUTES):
            if any(_covers(h, day, minute) for h in awake) and any(
                _covers(h, day, minute) for h in asleep
            ):
                return f"{name} {minute // 60:02}:{minute % 60:02}"
    return None


def has_come(moments: Sequence[Hours], time_zone: str, since_s: float, now_s: float) -> bool:
    """Whether one of them came after ``since_s``, by ``now_s``."""
    where = _zone(time_zone)
    first = datetime.fromtimestamp(max(since_s, now_s - 8 * 86400), where).date()
    last = datetime.fromtimestamp(now_s, where).date()
    for ahead in range((last - first).days + 1):
        day = first + timedelta(days=ahead)
        for moment in moments:
            if day.weekday() in moment.days:
                at = datetime.combine(day, time(*divmod(moment.begins_minute, 60)), where)
                if since_s < at.timestamp() <= now_s:
                    return True
    return False


def described(schedule: Schedule) -> str:
    """As it could have been written."""
    parts = []
    if schedule.awake:
        parts.append(f"awake {_joined(schedule.awake)}")
    if schedule.asleep:
        depth = schedule.asleep_to.name.lower()
        parts.append(f"{depth} after {schedule.asleep_after_s:g} s {_joined(schedule.asleep)}")
    return f"{', '.join(parts)} ({schedule.time_zone})"


def _joined(all_hours: Sequence[Hours]) -> str:
    return " and ".join(map(_written, all_hours))


def _written(hours: Hours) -> str:
    times = f"{_time(hours.begins_minute)}-{_time(hours.ends_minute)}"
    if len(hours.days) == len(DAYS):
        return times
    return f"{','.join(DAYS[day] for day in hours.days)} {times}"


def _time(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _covers(hours: Hours, day: int, minute: int) -> bool:
    if hours.begins_minute < hours.ends_minute:
        return day in hours.days and hours.begins_minute <= minute < hours.ends_minute
    if minute >= hours.begins_minute:
        return day in hours.days
    return minute < hours.ends_minute and (day - 1) % len(DAYS) in hours.days


def _minute(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)


def _days(text: str | None) -> tuple[int, ...]:
    if text is None:
        return tuple(range(len(DAYS)))
    return tuple(sorted({day for part in text.split(",") for day in _range(part)}))


def _range(part: str) -> Iterator[int]:
    """A range may pass the end of the week."""
    first, _, last = part.partition("-")
    begin, end = DAYS.index(first), DAYS.index(last or first)
    yield from ((begin + step) % len(DAYS) for step in range((end - begin) % len(DAYS) + 1))


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
