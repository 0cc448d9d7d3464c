"""The stage machine, a day at a time: on, held, back, stopped, done; pauses; operators; changed schedules."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.clock import SimulatedClock
from fastrelay.config.sending import Thresholds, WarmupPlan
from fastrelay.limits.days import Moment
from fastrelay.limits.stages import (
    Change,
    Progress,
    Step,
    Tally,
    begin,
    cap_of,
    counted,
    days_left,
    hold,
    needed,
    refitted,
    resume,
    set_stage,
    stages_ahead,
    turned,
    verdict,
)
from fastrelay.limits.warmup import Ramp

HOUR = 3600.0
CAPS = (100, 200, 300, 400)


class Source:
    """A source that warms up, on a simulated clock. It looks once an hour; a day is sent at noon."""

    def __init__(self, caps: tuple[int, ...] = CAPS, per: Any = "day", **plan: Any) -> None:
        self.plan = WarmupPlan(stages=list(caps), per=per, **{"minimum_messages": 10, **plan})
        self.ramp = Ramp(caps, per, "stages")
        self.clock = SimulatedClock(datetime(2026, 11, 23, tzinfo=UTC).timestamp())
        self.progress = begin(self.plan, self.ramp, self.now())
        self.seen = Tally()
        self.changes: list[Change] = []

    def now(self) -> Moment:
        return Moment(self.clock.wall(), self.clock.boottime_ns(), self.clock.boot_id())

    @property
    def cap(self) -> int | None:
        return cap_of(self.progress, self.ramp)

    @property
    def stage(self) -> int:
        """From 1."""
        return self.progress.stage + 1

    def do(self, step: Step) -> None:
        self.progress, changes = step
        self.changes += changes

    def look(self) -> None:
        self.do(turned(self.progress, self.plan, self.ramp, self.now()))

    def send(self, complained: int = 0, **more: int) -> None:
        """What came of attempts, seen at the next look."""
        self.seen = self.seen.plus(Tally(**more))
        self.progress = counted(self.progress, self.seen, complained)
        self.look()

    def hours(self, hours: int) -> None:
        for _ in range(hours):
            self.clock.advance(HOUR)
            self.look()

    def day(self, complained: int = 0, **more: int) -> list[str]:
        """A day from midnight to midnight; what became of the stage in it."""
        before = len(self.changes)
        self.hours(12)
        if more or complained:
            self.send(complained, **more)
        self.hours(12)
        return [change.kind for change in self.changes[before:]]

    def good_day(self) -> list[str]:
        return self.day(delivered=self.cap or 0)


def test_a_schedule_from_beginning_to_end() -> None:
    source = Source()
    seen = []
    for _ in CAPS:
        seen.append((source.cap, source.progress.period))
        source.good_day()
    assert seen == [(100, 1), (200, 2), (300, 3), (400, 4)]
    assert [(change.kind, change.from_stage, change.to_stage) for change in source.changes] == [
        ("advanced", 1, 2),
        ("advanced", 2, 3),
        ("advanced", 3, 4),
        ("done", 4, 5),
    ]
    assert (source.progress.state, source.cap, days_left(source.progress, source.ramp)) == ("done", None, 0)
    source.day(deferred=1000, blocked=1000)
    assert source.progress.state == "done"


@pytest.mark.parametrize(("delivered", "stage"), [(89, 1), (90, 2), (100, 2)])
def test_a_stage_moves_on_when_nine_tenths_were_delivered(delivered: int, stage: int) -> None:
    source = Source()
    source.day(delivered=delivered)
    assert (source.stage, source.progress.state) == (stage, "running")
    assert ("fewer than 90 %" in source.progress.why) == (stage == 1)


def test_no_stage_moves_on_within_a_day() -> None:
    source = Source()
    source.send(delivered=100)
    source.hours(23)
    assert (source.stage, source.progress.period) == (1, 1)
    source.hours(1)
    assert (source.stage, source.progress.period) == (2, 2)


def test_deliveries_of_two_days_are_not_added_up() -> None:
    source = Source()
    source.day(delivered=50)
    source.day(delivered=50)
    assert source.stage == 1


def test_each_day_is_a_new_period_also_when_the_stage_is_held() -> None:
    source = Source()
    for _ in range(3):
        source.day(delivered=10)
    assert (source.stage, source.progress.period) == (1, 4)


@pytest.mark.parametrize(
    ("bad", "act"),
    [
        ({"deferred": 8}, "advanced"),
        ({"deferred": 30}, "held"),
        ({"deferred": 80}, "stepped_back"),
        ({"failed": 3, "blocked": 3}, "held"),
        ({"deferred": 15, "blocked": 15}, "stepped_back"),
        ({"failed": 8}, "held"),
        ({"failed": 20}, "stepped_back"),
        ({"complained": 1}, "stepped_back"),
        ({"failed": 90, "blocked": 90}, "stopped"),
        ({"failed": 50}, "stopped"),
        ({"complained": 3}, "stopped"),
    ],
)
def test_thresholds(bad: dict[str, int], act: str) -> None:
    source = Source()
    source.good_day()
    assert source.day(**{"delivered": 180, **bad}) == [act]
    wanted = {
        "advanced": (3, "running"),
        "held": (2, "held"),
        "stepped_back": (1, "running"),
        "stopped": (2, "stopped"),
    }
    assert (source.stage, source.progress.state) == wanted[act]


def test_a_threshold_is_passed_only_above_it() -> None:
    source = Source()
    source.good_day()
    assert source.day(delivered=180, deferred=20) == ["advanced"]  # exactly 10 %


def test_a_bad_day_holds_and_a_good_one_goes_on() -> None:
    source = Source()
    source.good_day()
    assert source.day(delivered=180, deferred=30) == ["held"]
    assert (source.stage, source.progress.state) == (2, "held")
    assert "deferrals 14.3 %, more than 10 %" in source.progress.why
    assert source.good_day() == ["advanced"]
    assert (source.stage, source.progress.state, source.progress.why) == (3, "running", "")


def test_stopped_at_once_and_until_resumed() -> None:
    source = Source()
    source.hours(3)
    source.send(delivered=5, failed=20, blocked=20)
    assert (source.progress.state, source.cap, source.progress.period) == ("stopped", 0, 1)
    for _ in range(3):
        source.day()
    assert (source.progress.state, source.cap, source.progress.period) == ("stopped", 0, 4)
    source.do(resume(source.progress))
    source.look()
    assert (source.progress.state, source.cap) == ("running", 100)
    assert source.good_day() == ["advanced"]


def test_a_deferral_in_the_morning_stops_nothing() -> None:
    """Greylisting: all of the first hundred are deferred, and delivered later."""
    source = Source((1000, 2000))
    source.hours(1)
    source.send(deferred=100)
    assert (source.progress.state, source.stage) == ("running", 1)
    assert verdict(source.progress, source.plan) == ("step_back", "deferrals 100 %, more than 25 %")
    source.send(delivered=1000)
    source.hours(23)
    assert source.stage == 2


def test_evidence_gathers_until_there_is_enough() -> None:
    """Two of ten are blocked each day: on the fifth day there are fifty attempts, and it steps back."""
    source = Source((10, 12, 14, 16, 18, 20), minimum_messages=50)
    acts = [source.day(delivered=source.cap or 0, failed=2, blocked=2) for _ in range(4)]
    assert acts == [["advanced"], ["advanced"], ["advanced"], ["stepped_back"]]
    assert source.progress.evidence.attempts == 0
    assert source.good_day() == ["advanced"]


def test_held_with_too_little_to_judge_stays_held() -> None:
    source = Source((100, 200), minimum_messages=100)
    assert source.day(delivered=100, deferred=20) == ["held"]
    assert source.day(delivered=5) == []
    assert source.progress.state == "held"


def test_back_at_the_first_stage_stays_there() -> None:
    source = Source()
    assert source.day(delivered=50, deferred=50) == ["stepped_back"]
    assert source.stage == 1


def test_a_day_without_mail_changes_nothing() -> None:
    source = Source()
    source.good_day()
    assert source.day() == []
    assert (source.stage, source.progress.sent_days, source.progress.period) == (2, 1, 3)


def test_calendar_days_count_without_mail() -> None:
    source = Source(count="calendar_days", advance_at_share=0.0)
    for _ in range(3):
        source.day()
    assert source.stage == 4
    held = Source(count="calendar_days")
    held.day()
    assert (held.stage, held.progress.why) == (1, "not moved on: 0 of 100 delivered, fewer than 90 %")


def test_sending_days_wait_for_mail_even_if_any_number_will_do() -> None:
    source = Source(advance_at_share=0.0)
    source.day()
    assert source.stage == 1
    source.day(delivered=1)
    assert source.stage == 2


def test_pauses_step_back() -> None:
    source = Source(idle_days=5)
    for _ in range(3):
        source.good_day()
    assert source.stage == 4
    stages = []
    for _ in range(17):
        source.day()
        stages.append(source.stage)
    # Days 1 to 5 of the pause: nothing; the sixth is longer than idle_days.
    assert stages == [4] * 5 + [3] * 5 + [2] * 5 + [1] * 2
    assert next(change.why for change in source.changes if change.kind == "stepped_back") == "nothing sent for 6 days"


def test_a_pause_ends_with_mail() -> None:
    source = Source(idle_days=5)
    source.good_day()
    source.good_day()
    for _ in range(6):
        source.day()
    assert source.stage == 2
    source.day(delivered=1)
    for _ in range(5):
        source.day()
    assert source.stage == 2
    source.day()
    assert source.stage == 1


def test_a_host_that_was_off_for_weeks_steps_back_for_all_of_them() -> None:
    source = Source(idle_days=10)
    for _ in range(3):
        source.good_day()
    source.clock.reboot(25 * 24 * HOUR)
    source.look()
    assert source.stage == 2


def test_a_clock_years_ahead_is_no_pause() -> None:
    source = Source(idle_days=10)
    for _ in range(3):
        source.good_day()
    source.clock.jump_wall(700 * 24 * HOUR)
    source.hours(24)
    assert source.stage == 4


def test_hours_of_a_day() -> None:
    source = Source((10, 20, 30), per="hour")
    assert source.cap == 10
    source.send(delivered=10)
    source.hours(1)
    assert (source.progress.period, source.stage, source.cap) == (2, 1, 10)
    source.hours(23)
    assert (source.progress.period, source.stage, source.cap) == (25, 2, 20)
    source.hours(2)
    source.send(delivered=5)
    source.hours(22)
    assert source.stage == 2  # its fullest hour delivered 5
    source.hours(1)
    source.send(delivered=10)
    source.hours(1)
    source.send(delivered=10)
    source.hours(22)
    assert source.stage == 2  # no hour alone delivered 18
    source.send(delivered=18)
    source.hours(24)
    assert source.stage == 3


def test_counts_that_go_back_add_nothing() -> None:
    source = Source()
    source.send(delivered=50)
    source.progress = counted(source.progress, Tally(delivered=3))
    assert source.progress.today.delivered == 50
    source.progress = counted(source.progress, Tally(delivered=10))
    assert source.progress.today.delivered == 57


def test_the_same_counts_change_nothing() -> None:
    source = Source()
    source.send(delivered=5)
    assert counted(source.progress, source.seen) is source.progress
    assert turned(source.progress, source.plan, source.ramp, source.now()) == (source.progress, [])
    assert turned(source.progress, source.plan, source.ramp, source.now())[0] is source.progress


def test_held_by_an_operator() -> None:
    source = Source()
    source.do(hold(source.progress, "cleaning the list"))
    for _ in range(3):
        source.good_day()
    assert (source.stage, source.progress.state, source.cap) == (1, "held", 100)
    assert source.progress.why == "cleaning the list"
    source.do(resume(source.progress))
    source.good_day()
    assert source.stage == 2


def test_an_operators_hold_does_not_keep_it_from_going_back_or_stopping() -> None:
    source = Source()
    source.good_day()
    source.do(hold(source.progress, ""))
    source.day(delivered=100, deferred=50)
    assert (source.stage, source.progress.state, source.progress.operator) == (1, "held", True)
    source.send(failed=100, blocked=100)
    assert (source.progress.state, source.progress.operator) == ("stopped", False)


def test_what_cannot_be_held_or_resumed() -> None:
    source = Source()
    with pytest.raises(ValueError, match="it is running, not held"):
        resume(source.progress)
    source.do(set_stage(source.progress, source.plan, source.ramp, 4, source.now()))
    with pytest.raises(ValueError, match="it is done"):
        hold(source.progress, "")
    with pytest.raises(ValueError, match="it is done, not held"):
        resume(source.progress)
    with pytest.raises(ValueError, match="no stage 6"):
        set_stage(source.progress, source.plan, source.ramp, 5, source.now())


def test_set_goes_there_at_once_and_keeps_what_was_used() -> None:
    source = Source()
    source.hours(3)
    source.do(set_stage(source.progress, source.plan, source.ramp, 2, source.now()))
    assert (source.cap, source.progress.period) == (300, 1)
    assert source.day(delivered=300) == ["advanced"]
    assert source.stage == 4


def test_set_back_from_done_opens_a_day_with_nothing_used() -> None:
    source = Source()
    for _ in CAPS:
        source.good_day()
    source.hours(100)
    source.send(delivered=100_000)
    source.do(set_stage(source.progress, source.plan, source.ramp, 1, source.now()))
    assert (source.stage, source.cap, source.progress.state) == (2, 200, "running")
    assert source.progress.today == Tally()
    period = source.progress.period
    assert period == 5
    source.hours(3)
    assert source.progress.period == period
    assert source.day(delivered=10) == []


@pytest.mark.parametrize(("caps", "stage"), [((50, 150, 250, 500), 1), ((100, 200, 300), 1), ((1000, 2000), 0)])
def test_a_changed_schedule_goes_on_at_a_cap_no_higher(caps: tuple[int, ...], stage: int) -> None:
    source = Source()
    source.good_day()
    ramp = Ramp(caps, "day", "stages")
    after = refitted(source.progress, ramp, 200, source.now())
    assert after.stage == stage
    assert (cap_of(after, ramp) or 0) <= 200
    assert after.period == source.progress.period
    assert refitted(after, ramp, 200, source.now()) is after


def test_between_days_and_hours_nothing_rises_before_the_period_is_over() -> None:
    source = Source()
    source.good_day()
    source.good_day()
    hourly = Ramp((5, 10, 20, 40), "hour", "stages")
    source.progress = refitted(source.progress, hourly, 300, source.now())
    source.ramp = hourly
    assert source.cap == 10  # 300 a day are 12.5 an hour
    daily = Ramp((8, 16, 32), "day", "stages")
    source.progress = refitted(source.progress, daily, 10, source.now())
    source.ramp = daily
    assert source.cap == 8
    bigger = Ramp((1000,), "day", "stages")
    source.progress = refitted(source.progress, bigger, 8, source.now())
    source.ramp = bigger
    assert source.cap == 8
    source.hours(24)
    assert source.cap == 1000


def test_done_stays_done_under_a_changed_schedule() -> None:
    source = Source((10,))
    source.good_day()
    assert source.progress.state == "done"
    assert cap_of(refitted(source.progress, Ramp((1, 2), "day", ""), 10, source.now()), source.ramp) is None


def test_dates_ahead() -> None:
    source = Source()
    source.good_day()
    first = source.progress.day.number
    ahead = stages_ahead(source.progress, source.plan, source.ramp)
    assert ahead == [(first, 2, 200), (first + 1, 3, 300), (first + 2, 4, 400)]
    assert stages_ahead(source.progress, source.plan, source.ramp, most=1) == ahead[:1]


@pytest.mark.parametrize(
    ("share", "cap", "wanted"), [(0.9, 100, 90), (0.9, 20, 18), (0.9, 5, 5), (1.0, 7, 7), (0.0, 7, 0)]
)
def test_needed(share: float, cap: int, wanted: int) -> None:
    assert needed(WarmupPlan(advance_at_share=share), cap) == wanted


OUTCOMES = st.fixed_dictionaries(
    {
        "delivered": st.integers(0, 500),
        "deferred": st.integers(0, 100),
        "failed": st.integers(0, 100),
        "blocked": st.integers(0, 60),
        "complained": st.integers(0, 2),
    }
)


@given(
    st.lists(st.tuples(OUTCOMES, st.integers(0, 60), st.sampled_from([0, -3600, 86400, -86400])), max_size=20),
    st.sampled_from(["day", "hour"]),
)
def test_of_any_history(history: list[tuple[dict[str, int], int, int]], per: str) -> None:
    """A stage rises by one at a time and only with a new day; a period is never used twice; caps are of the stage."""
    source = Source(per=per, stop=Thresholds(blocks_share=0.5))
    for outcomes, hours, jump in history:
        source.clock.jump_wall(jump)
        for _ in range(hours + 1):
            before: Progress = source.progress
            source.clock.advance(HOUR)
            source.look()
            after = source.progress
            assert after.stage <= before.stage + 1
            assert before.period <= after.period <= before.period + 1
            if after.stage > before.stage:
                assert after.day.boot_ns - before.day.boot_ns >= 22 * HOUR * 1e9
            if after.state != "done":
                assert source.cap in (0, CAPS[after.stage])
        source.send(**outcomes)
