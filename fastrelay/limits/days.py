"""When a new warm-up period begins: days and hours that no clock can make come early. Pure; time is passed in.

A period is numbered by the wall clock: a day by its date in the plan's time zone, an hour by the hours since 1970 in
UTC (which do not repeat or skip at a change to or from summer time). A new one opens only if

    (a) the number is larger than that of the period open now, and
    (b) at least LEAST_DAY (22 h; an hour: 55 min) of boot time passed since that one opened, or the host was down
        since (its boot id is another one).

Why this keeps a cap exact. CLOCK_BOOTTIME cannot be set, so (b) bounds what any setting of the wall clock can do to one
cap per 22 h: a jump of a day ahead opens the next period no earlier than that, and each later one creeps back by 2 h a
day until it opens at midnight again. (a) keeps a jump back, and the repeated hour in autumn, from opening a second
period for a date that had one. 22 h and not 24: a day of 23 h in spring, and days opened late (above), must be able to
come back to midnight. After a boot there is no boot time to measure, and (a) alone holds: a host that restarts within a
day gets no second cap, because the date that was opened is on disk; a host that was off over midnight gets its new day
at once.

A clock that was far ahead and was set right again leaves a number in the future, for which (a) would wait as long as
the error was large. So when the number has been behind by more than one for 22 h of boot time (55 min), the date of now
is believed: it takes the place of the number, and opens nothing by itself; the next one does.

Known fault: a host whose clock is wrong at boot (no battery) and is then set right, after it was off for days, may open
one period for the wrong and one for the right date, at least 22 h apart.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS
LEAST_DAY_NS = 22 * HOUR_SECONDS * 10**9
LEAST_HOUR_NS = 55 * 60 * 10**9


class Moment(msgspec.Struct, frozen=True):
    """One reading of the clocks: wall time (s since 1970), boot time (ns) and which boot."""

    wall: float
    boot_ns: int
    boot_id: str


class Period(msgspec.Struct, frozen=True):
    """The period that is open: its number, and when it opened. `behind_*`: since when the wall clock says less."""

    number: int
    boot_ns: int
    boot_id: str
    behind_ns: int | None = None
    behind_id: str = ""


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@lru_cache(maxsize=256)  # hundreds of sources ask in the same second
def _day_at(second: int, zone: str) -> tuple[int, float]:
    """(day number, when the next date begins) of a wall time in whole seconds."""
    here = datetime.fromtimestamp(second, _zone(zone))
    following = datetime.combine(here.date() + timedelta(days=1), time(), _zone(zone))
    return here.toordinal(), following.timestamp()


def date_number(wall: float, zone: str) -> int:
    """The date of a wall time in a time zone, as a day number (1 is 0001-01-01)."""
    return _day_at(int(wall), zone)[0]


def date_text(number: int) -> str:
    """A day number as 2026-11-23."""
    return datetime.fromordinal(max(1, number)).date().isoformat()


def seconds_to_midnight(wall: float, zone: str) -> float:
    """Until the next date begins in a time zone."""
    return max(0.0, _day_at(int(wall), zone)[1] - wall)


def hour_number(wall: float) -> int:
    """Hours since 1970 in UTC."""
    return int(wall // HOUR_SECONDS)


def opened(number: int, now: Moment) -> Period:
    """A period that opens now."""
    return Period(number, now.boot_ns, now.boot_id)


def is_over(period: Period, number: int, now: Moment, least_ns: int) -> bool:
    """Whether the period with this number may open now in the place of `period`: rules (a) and (b)."""
    return number > period.number and (host_was_down(period, now) or now.boot_ns - period.boot_ns >= least_ns)


def host_was_down(period: Period, now: Moment) -> bool:
    """Whether the host restarted since the period opened (boot time that went back counts as that)."""
    return period.boot_id != now.boot_id or now.boot_ns < period.boot_ns


def followed(period: Period, number: int, now: Moment, least_ns: int) -> Period:
    """The period with what is to be remembered of a clock that is behind it; the same object when nothing is."""
    if number >= period.number - 1:
        return period if period.behind_ns is None else msgspec.structs.replace(period, behind_ns=None, behind_id="")
    since = period.behind_ns
    if since is None or period.behind_id != now.boot_id or now.boot_ns < since:
        return msgspec.structs.replace(period, behind_ns=now.boot_ns, behind_id=now.boot_id)
    if now.boot_ns - since >= least_ns:
        return msgspec.structs.replace(period, number=number, behind_ns=None, behind_id="")
    return period


def days_between(period: Period, number: int, now: Moment) -> int:
    """Dates from the period's to `number`, but not more than boot time allows where the host was not down.

    For what counts days and could be led astray by a clock that jumps years ahead.
    """
    by_date = max(0, number - period.number)
    if host_was_down(period, now):
        return by_date
    return min(by_date, 1 + (now.boot_ns - period.boot_ns) // LEAST_DAY_NS)


def utc_text(wall: float) -> str:
    """A wall time to the second, for people: 2026-11-23 09:05:00 UTC."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
