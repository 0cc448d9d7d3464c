"""When days and hours begin: midnights, summer time, leap days, and clocks that lie."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.clock import SimulatedClock
from fastrelay.limits.days import (
    LEAST_DAY_NS,
    LEAST_HOUR_NS,
    Moment,
    Period,
    date_number,
    date_text,
    days_between,
    followed,
    hour_number,
    is_over,
    opened,
    seconds_to_midnight,
)

HOUR = 3600.0


class Days:
    """A day that is open, on a simulated clock; `opened_at` are the wall times of all that opened."""

    def __init__(self, start: str, zone: str = "UTC", hours: bool = False) -> None:
        self.zone = zone
        self.hours = hours
        self.least = LEAST_HOUR_NS if hours else LEAST_DAY_NS
        local = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone))
        self.clock = SimulatedClock(local.timestamp())
        self.period = opened(self.number(), self.now())
        self.opened_at = [self.local()]
        self.boots = [self.clock.boottime_ns()]

    def now(self) -> Moment:
        return Moment(self.clock.wall(), self.clock.boottime_ns(), self.clock.boot_id())

    def number(self) -> int:
        return hour_number(self.clock.wall()) if self.hours else date_number(self.clock.wall(), self.zone)

    def local(self) -> str:
        return datetime.fromtimestamp(self.clock.wall(), ZoneInfo(self.zone)).strftime("%m-%d %H:%M")

    def look(self) -> None:
        if is_over(self.period, self.number(), self.now(), self.least):
            self.period = opened(self.number(), self.now())
            self.opened_at.append(self.local())
            self.boots.append(self.clock.boottime_ns())
        else:
            self.period = followed(self.period, self.number(), self.now(), self.least)

    def pass_hours(self, hours: float, step: float = 1 / 6) -> "Days":
        for _ in range(round(hours / step)):
            self.clock.advance(step * HOUR)
            self.look()
        return self


def test_a_day_begins_at_midnight_of_its_zone() -> None:
    days = Days("2026-11-23 00:00", "Europe/Berlin").pass_hours(49)
    assert days.opened_at == ["11-23 00:00", "11-24 00:00", "11-25 00:00"]


def test_a_day_that_began_late_comes_back_to_midnight() -> None:
    days = Days("2026-11-23 15:00").pass_hours(24 * 9)
    assert days.opened_at[:4] == ["11-23 15:00", "11-24 13:00", "11-25 11:00", "11-26 09:00"]
    assert days.opened_at[-2:] == ["12-01 00:00", "12-02 00:00"]
    assert len(days.opened_at) == 10  # one a date, none left out


def test_an_hour_back_at_midnight_opens_nothing_twice() -> None:
    days = Days("2026-11-23 00:00").pass_hours(24.5)
    days.clock.jump_wall(-HOUR)
    days.pass_hours(25)
    assert days.opened_at == ["11-23 00:00", "11-24 00:00", "11-25 00:00"]


def test_a_day_ahead_waits_for_22_hours() -> None:
    days = Days("2026-11-23 00:00").pass_hours(12)
    days.clock.jump_wall(24 * HOUR)
    days.pass_hours(9.5)
    assert len(days.opened_at) == 1
    days.pass_hours(1)
    assert days.opened_at == ["11-23 00:00", "11-24 22:00"]
    days.pass_hours(24 * 13)
    assert days.opened_at[-1].endswith("00:00")
    assert min(after - before for before, after in zip(days.boots, days.boots[1:], strict=False)) >= LEAST_DAY_NS


def test_years_ahead_and_back_again() -> None:
    """An operator sets the year wrong and mends it: two days late at most, and no day twice."""
    days = Days("2026-11-23 00:00").pass_hours(23)
    days.clock.jump_wall(365 * 24 * HOUR)
    days.pass_hours(0.5)
    assert len(days.opened_at) == 2
    days.clock.jump_wall(-365 * 24 * HOUR)
    days.pass_hours(24 * 4)
    assert len(days.opened_at) == 5
    assert days.opened_at[2] == "11-25 00:00"
    assert days.opened_at[-1].endswith("00:00")


def test_minutes_in_the_past_are_not_believed() -> None:
    """A clock that is wrong for a moment after a boot leaves no trace."""
    days = Days("2026-11-23 00:00").pass_hours(2)
    days.clock.reboot()
    days.clock.jump_wall(-days.clock.wall())
    days.look()
    assert days.period.number == date_number(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp(), "UTC")
    days.clock.jump_wall(datetime(2026, 11, 23, 3, tzinfo=UTC).timestamp() - days.clock.wall())
    days.pass_hours(1)
    assert len(days.opened_at) == 1
    assert days.period.behind_ns is None
    days.pass_hours(21)
    assert days.opened_at[-1] == "11-24 00:00"


@pytest.mark.parametrize(
    ("start", "days_wanted"),
    [
        ("2027-03-27 00:00", ["03-27 00:00", "03-28 00:00", "03-29 00:00", "03-30 00:00"]),  # 23 hours
        ("2026-10-24 00:00", ["10-24 00:00", "10-25 00:00", "10-26 00:00", "10-27 00:00"]),  # 25 hours
        ("2028-02-28 00:00", ["02-28 00:00", "02-29 00:00", "03-01 00:00", "03-02 00:00"]),
    ],
)
def test_summer_time_and_leap_day(start: str, days_wanted: list[str]) -> None:
    assert Days(start, "Europe/Berlin").pass_hours(74).opened_at[:4] == days_wanted


def test_midnight_that_comes_twice_opens_once() -> None:
    """Cuba goes back from 1:00 to 0:00."""
    days = Days("2026-10-31 00:00", "America/Havana").pass_hours(60)
    assert [text[:5] for text in days.opened_at] == ["10-31", "11-01", "11-02"]


def test_a_reboot_within_the_day_opens_nothing() -> None:
    days = Days("2026-11-23 00:00").pass_hours(5)
    for _ in range(10):
        days.clock.reboot(60)
        days.look()
    assert len(days.opened_at) == 1


def test_a_host_that_was_down_over_midnight_has_its_day_at_once() -> None:
    days = Days("2026-11-23 20:00").pass_hours(1)
    days.clock.reboot(6 * HOUR)
    days.look()
    assert days.opened_at == ["11-23 20:00", "11-24 03:00"]


def test_suspension_of_the_host_counts_as_time() -> None:
    days = Days("2026-11-23 00:00").pass_hours(1)
    days.clock.suspend(24 * HOUR)
    days.look()
    assert len(days.opened_at) == 2


def test_boot_time_that_went_back_counts_as_a_boot() -> None:
    period = Period(10, 5 * LEAST_DAY_NS, "unknown")
    assert is_over(period, 11, Moment(0.0, 1, "unknown"), LEAST_DAY_NS)
    assert not is_over(period, 10, Moment(0.0, 1, "unknown"), LEAST_DAY_NS)


def test_hours() -> None:
    days = Days("2026-10-25 00:30", "Europe/Berlin", hours=True).pass_hours(4)
    # The day begins late in its hour, so the first ones creep back; the hour that comes twice is two hours.
    assert len(days.opened_at) == 5
    gaps = [after - before for before, after in zip(days.boots, days.boots[1:], strict=False)]
    assert min(gaps) >= LEAST_HOUR_NS


def test_an_hour_is_not_opened_twice_by_a_clock_that_goes_back() -> None:
    days = Days("2026-11-23 10:00", hours=True).pass_hours(1.5)
    days.clock.jump_wall(-HOUR)
    days.pass_hours(1)
    assert days.opened_at == ["11-23 10:00", "11-23 11:00"]
    days.pass_hours(0.6)
    assert days.opened_at[-1] == "11-23 12:00"


JUMPS = st.lists(
    st.tuples(st.floats(0.1, 30), st.sampled_from([0, 0, -1, 1, 24, -24, 240, -240, 5000]), st.booleans()), max_size=12
)


@given(JUMPS, st.booleans())
def test_no_setting_of_the_clock_opens_two_within_22_hours(jumps: list[tuple[float, int, bool]], hours: bool) -> None:
    days = Days("2026-11-23 07:00", hours=hours)
    for wait, jump, suspend in jumps:
        if suspend:
            days.clock.suspend(wait * HOUR)
        days.clock.jump_wall(jump * HOUR)
        days.pass_hours(wait, step=0.5)
    gaps = [after - before for before, after in zip(days.boots, days.boots[1:], strict=False)]
    assert all(gap >= days.least for gap in gaps)


@given(JUMPS)
def test_after_any_jump_days_go_on(jumps: list[tuple[float, int, bool]]) -> None:
    days = Days("2026-11-23 07:00")
    for wait, jump, _ in jumps:
        days.clock.jump_wall(jump * HOUR)
        days.pass_hours(wait, step=0.5)
    before = len(days.opened_at)
    days.pass_hours(24 * 4, step=0.5)
    assert len(days.opened_at) >= before + 2


def test_days_between_are_bounded_by_boot_time() -> None:
    clock = SimulatedClock()
    day = opened(100, Moment(0.0, clock.boottime_ns(), clock.boot_id()))
    clock.advance(timedelta(days=3).total_seconds())
    now = Moment(0.0, clock.boottime_ns(), clock.boot_id())
    assert days_between(day, 103, now) == 3
    assert days_between(day, 465, now) == 4
    assert days_between(day, 90, now) == 0
    clock.reboot()
    assert days_between(day, 465, Moment(0.0, clock.boottime_ns(), clock.boot_id())) == 365


def test_texts_and_midnights() -> None:
    noon = datetime(2027, 3, 28, 12, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    assert date_text(date_number(noon, "Europe/Berlin")) == "2027-03-28"
    assert seconds_to_midnight(noon, "Europe/Berlin") == 12 * HOUR
    early = datetime(2027, 3, 28, 0, 30, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    assert seconds_to_midnight(early, "Europe/Berlin") == 22.5 * HOUR  # the day of 23 hours
