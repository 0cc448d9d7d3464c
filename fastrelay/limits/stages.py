"""The stage machine of warm-up: what a day that is over, or a bad hour, does to a stage. Pure; time is passed in.

    running    the stage's cap holds; at the end of a day that counts it moves on, holds or steps back
    held       it stays on its stage: a share was too high (until a day that is well), or an operator said so
    stopped    the cap is 0 until an operator resumes: a share passed a `stop` threshold
    done       the schedule is over: the source is warm, without a cap

A day counts when it sent anything; with `count: calendar_days` every day does. When a day that counts is over:

    too little   fewer than advance_at of the cap delivered: the stage is held for another day, state running
    judged       the shares of the evidence (below), worst act first: step_back, hold, else on to the next stage

`stop` is judged at any time, so that a block ends the day at once; the others only at the end of a day, because a day
begins with what is deferred first (greylisting) and ends with what was delivered later.

Evidence is what was attempted since the last judgement that had minimum_messages of them: a day of a small stage is not
judged on its own 20 messages, but what went wrong in it is not forgotten either. A stage that steps back begins
its evidence anew, and so does one that an operator set or resumed.

Delivered of an hourly schedule is that of the fullest hour of the day: a cap per hour says nothing of how many hours of
a day there was mail for.

A pause: after more than idle_days whole days without sending it steps back one stage, and one more after each further
idle_days. A schedule that is done stays done.

Known fault: with `advance_at: 0%` and calendar_days a schedule moves on over days that sent nothing, as is usual
elsewhere; that is what such a plan says.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fastrelay.config.sending import Thresholds, WarmupPlan
from fastrelay.limits.days import (
    LEAST_DAY_NS,
    LEAST_HOUR_NS,
    Moment,
    Period,
    date_number,
    days_between,
    followed,
    hour_number,
    is_over,
    opened,
)
from fastrelay.limits.warmup import Ramp

State = Literal["running", "held", "stopped", "done"]
SHARES = ("deferrals", "blocks", "bounces", "complaints")


class Tally(msgspec.Struct, frozen=True):
    """Outcomes of attempts. blocked: of deferred and failed, those that refuse the source; complained: reports."""

    delivered: int = 0
    deferred: int = 0
    failed: int = 0
    blocked: int = 0
    complained: int = 0

    @property
    def attempts(self) -> int:
        return self.delivered + self.deferred + self.failed

    def plus(self, other: Tally) -> Tally:
        return Tally(*[mine + theirs for mine, theirs in zip(values(self), values(other), strict=True)])

    def share(self, name: str) -> float:
        """The share of attempts (complaints: of delivered) of one of SHARES; 0 without attempts."""
        part = {
            "deferrals": self.deferred,
            "blocks": self.blocked,
            "bounces": max(0, self.failed - self.blocked),  # a block is no bounce
            "complaints": self.complained,
        }[name]
        whole = self.delivered if name == "complaints" else self.attempts
        return min(1.0, part / whole) if whole else 0.0


def values(tally: Tally) -> tuple[int, ...]:
    """Its counts, in order."""
    return msgspec.structs.astuple(tally)


class Progress(msgspec.Struct, frozen=True):
    """Where one source is with one key; what is kept on disk.

    stage          from 0; len(caps) when done
    period         number of the cap in the shared table; grows with each day (hour) that opens
    day, hour      the periods that are open (days.py); hour only of an hourly schedule
    ramp           fingerprint of the schedule that `stage` belongs to
    why            words of the last act that was not an advance; operator: it was theirs
    today          attempts of the open day; evidence: since the last judgement
    hour_delivered, best_hour   of the open hour; of the fullest hour of the open day
    ceiling        a cap that the open period does not exceed, whatever its stage (after a change of the schedule)
    sent           period of the last day that sent; idle_steps: stages stepped back in the pause since
    sent_days      days that sent, in all
    seen           cumulative outcome counts up to which `today` and `evidence` know
    """

    ramp: str
    stage: int
    period: int
    day: Period
    hour: Period | None = None
    state: State = "running"
    why: str = ""
    operator: bool = False
    today: Tally = Tally()
    evidence: Tally = Tally()
    hour_delivered: int = 0
    best_hour: int = 0
    sent: Period | None = None
    idle_steps: int = 0
    sent_days: int = 0
    ceiling: int | None = None
    seen: Tally = Tally()


class Change(msgspec.Struct, frozen=True):
    """What became of a stage, for the log and the events. Stages from 1; `to` = stages + 1: done."""

    kind: Literal["advanced", "done", "held", "stepped_back", "stopped", "resumed", "set"]
    from_stage: int
    to_stage: int
    why: str


Step = tuple[Progress, list[Change]]


def begin(plan: WarmupPlan, ramp: Ramp, now: Moment, period: int = 1, stage: int = 0) -> Progress:
    """A source that is cold: its first day opens now. period: above any that the table or a spool knows."""
    day = opened(date_number(now.wall, plan.time_zone), now)
    hour = opened(hour_number(now.wall), now) if ramp.per == "hour" else None
    return Progress(ramp=ramp.fingerprint, stage=stage, period=period, day=day, hour=hour, sent=day)


def cap_of(progress: Progress, ramp: Ramp) -> int | None:
    """The cap of the period that is open; None: no cap (warm)."""
    if progress.state == "done":
        return None
    if progress.state == "stopped":
        return 0
    cap = ramp.caps[min(progress.stage, len(ramp.caps) - 1)]
    return cap if progress.ceiling is None else min(cap, progress.ceiling)


# --- what comes in ---


def counted(progress: Progress, seen: Tally, complained: int = 0) -> Progress:
    """With outcomes up to the cumulative counts `seen`. Counts that went back (a new metrics file) add nothing."""
    if progress.state == "done":
        return progress if seen == progress.seen else msgspec.structs.replace(progress, seen=seen)
    known = values(progress.seen)
    more = Tally(*[max(0, count - before) for count, before in zip(values(seen), known, strict=True)])
    more = msgspec.structs.replace(more, complained=more.complained + complained)
    if seen == progress.seen and not complained:
        return progress
    return msgspec.structs.replace(
        progress,
        seen=seen,
        today=progress.today.plus(more),
        evidence=progress.evidence.plus(more),
        hour_delivered=progress.hour_delivered + more.delivered,
    )


def passed(tally: Tally, thresholds: Thresholds, minimum: int) -> str | None:
    """Words on the first threshold that the shares are above; None if none is, or there is too little to judge."""
    if tally.attempts < minimum:
        return None
    for name in SHARES:
        bound = getattr(thresholds, f"{name}_share")
        share = tally.share(name)
        if bound is not None and share > bound:
            return f"{name} {percent(share)}, more than {percent(bound)}"
    return None


def percent(share: float) -> str:
    """12.5 %, with as many digits as it needs."""
    return f"{share * 100:.3g} %"


def verdict(progress: Progress, plan: WarmupPlan) -> tuple[str, str] | None:
    """(step_back, hold or stop; why) as the evidence stands; None: nothing is wrong."""
    for act in ("stop", "step_back", "hold"):
        why = passed(progress.evidence, getattr(plan, act), plan.minimum_messages)
        if why is not None:
            return act, why
    return None


# --- time ---


def turned(progress: Progress, plan: WarmupPlan, ramp: Ramp, now: Moment) -> Step:
    """What is due: a stop, a new hour, a new day; the same object if nothing is. A new `period`: a new cap."""
    if progress.state == "done":
        return progress, []
    changes: list[Change] = []
    if progress.state != "stopped":
        why = passed(progress.evidence, plan.stop, plan.minimum_messages)
        if why is not None:
            stage = progress.stage + 1
            progress = msgspec.structs.replace(progress, state="stopped", why=why, operator=False)
            changes.append(Change("stopped", stage, stage, why))
    number = date_number(now.wall, plan.time_zone)
    new_day = is_over(progress.day, number, now, LEAST_DAY_NS)
    if new_day:
        progress, more = _day_over(progress, plan, ramp, number, now)
        changes += more
    else:
        day = followed(progress.day, number, now, LEAST_DAY_NS)
        if day is not progress.day:
            progress = msgspec.structs.replace(progress, day=day)
    if progress.state == "done":
        return progress, changes
    if progress.hour is not None:
        return _hour_turned(progress, now), changes
    if new_day:
        progress = msgspec.structs.replace(progress, period=progress.period + 1, ceiling=None)
    return progress, changes


def _hour_turned(progress: Progress, now: Moment) -> Progress:
    assert progress.hour is not None
    number = hour_number(now.wall)
    if not is_over(progress.hour, number, now, LEAST_HOUR_NS):
        hour = followed(progress.hour, number, now, LEAST_HOUR_NS)
        return progress if hour is progress.hour else msgspec.structs.replace(progress, hour=hour)
    return msgspec.structs.replace(
        progress,
        hour=opened(number, now),
        period=progress.period + 1,
        ceiling=None,
        best_hour=max(progress.best_hour, progress.hour_delivered),
        hour_delivered=0,
    )


def _day_over(progress: Progress, plan: WarmupPlan, ramp: Ramp, number: int, now: Moment) -> Step:
    """The open day is over: judge it, and open that of `number`."""
    sent = progress.today.attempts > 0
    changes: list[Change] = []
    if sent:
        progress = msgspec.structs.replace(progress, sent=progress.day, idle_steps=0, sent_days=progress.sent_days + 1)
    if progress.state != "stopped" and (sent or plan.count == "calendar_days"):
        progress, changes = _judged(progress, plan, ramp)
    progress, more = _idle(progress, plan, number, now)
    return (
        msgspec.structs.replace(progress, day=opened(number, now), today=Tally(), best_hour=0, hour_delivered=0),
        changes + more,
    )


def delivered_of(progress: Progress, ramp: Ramp) -> int:
    """What counts against advance_at: the day's deliveries, or those of its fullest hour."""
    return progress.today.delivered if ramp.per == "day" else max(progress.best_hour, progress.hour_delivered)


def needed(plan: WarmupPlan, cap: int) -> int:
    """Deliveries of a day (hour) that let the stage move on: advance_at of the cap, rounded up."""
    return -(-round(plan.advance_at_share * cap * 1_000_000) // 1_000_000)


def _judged(progress: Progress, plan: WarmupPlan, ramp: Ramp) -> Step:
    """One stage on, one back, or held, at the end of a day that counts."""
    stage = progress.stage + 1
    found = verdict(progress, plan)
    enough = progress.evidence.attempts >= plan.minimum_messages
    if enough:
        progress = msgspec.structs.replace(progress, evidence=Tally())
    if found is not None and found[0] == "step_back":
        back = max(0, progress.stage - 1)
        state: State = "held" if progress.operator and progress.state == "held" else "running"
        progress = msgspec.structs.replace(progress, stage=back, state=state, why=f"stepped back: {found[1]}")
        return progress, [Change("stepped_back", stage, back + 1, found[1])]
    if progress.state == "held" and (progress.operator or (found is None and not enough)):
        return progress, []
    if found is not None:
        progress = msgspec.structs.replace(progress, state="held", why=found[1], operator=False)
        return progress, [Change("held", stage, stage, found[1])]
    cap = ramp.caps[progress.stage]
    delivered = delivered_of(progress, ramp)
    if delivered < needed(plan, cap):
        why = f"not moved on: {delivered} of {cap} delivered, fewer than {percent(plan.advance_at_share)}"
        return msgspec.structs.replace(progress, state="running", why=why), []
    progress = msgspec.structs.replace(progress, stage=progress.stage + 1, state="running", why="")
    why = f"{delivered} of {cap} delivered"
    if progress.stage >= len(ramp.caps):
        return msgspec.structs.replace(progress, state="done"), [Change("done", stage, stage + 1, why)]
    return progress, [Change("advanced", stage, stage + 1, why)]


def _idle(progress: Progress, plan: WarmupPlan, number: int, now: Moment) -> Step:
    """One stage back for each pause of idle_days: the first when it is longer, more after each further idle_days."""
    if progress.state == "done" or progress.sent is None:
        return progress, []
    days = days_between(progress.sent, number, now) - 1  # whole days without sending
    steps = max(0, (days - 1) // plan.idle_days) - progress.idle_steps
    if steps <= 0:
        return progress, []
    back = max(0, progress.stage - steps)
    why = f"nothing sent for {days} days"
    stage = progress.stage + 1
    progress = msgspec.structs.replace(
        progress,
        stage=back,
        idle_steps=progress.idle_steps + steps,
        evidence=Tally(),
        why=f"stepped back: {why}",
    )
    return progress, [Change("stepped_back", stage, back + 1, why)] if back + 1 != stage else []


# --- an operator, and a changed configuration ---


def set_stage(progress: Progress, plan: WarmupPlan, ramp: Ramp, stage: int, now: Moment, why: str = "") -> Step:
    """Go to a stage (from 0; len(caps): done). Its cap holds at once; what the open day used stays used.

    A source that was done had no cap, so nothing is used yet: its first day opens. Raises ValueError.
    """
    if not 0 <= stage <= len(ramp.caps):
        raise ValueError(f"there is no stage {stage + 1}; the schedule has the stages 1 to {len(ramp.caps)}")
    state: State = "done" if stage == len(ramp.caps) else "running"
    before = progress.stage + 1
    if progress.state == "done":
        anew = begin(plan, ramp, now, progress.period + 1)
        progress = msgspec.structs.replace(anew, seen=progress.seen, sent_days=progress.sent_days)
    progress = msgspec.structs.replace(
        progress, stage=stage, state=state, why="", operator=False, evidence=Tally(), ceiling=None, idle_steps=0
    )
    return progress, [Change("set", before, stage + 1, why or "by an operator")]


def hold(progress: Progress, why: str) -> Step:
    """Stay on this stage until resumed. Raises ValueError where there is nothing to hold."""
    if progress.state in ("done", "stopped"):
        raise ValueError(
            "it is done, and has no cap" if progress.state == "done" else f"it is stopped already ({progress.why})"
        )
    stage = progress.stage + 1
    why = why or "by an operator"
    return msgspec.structs.replace(progress, state="held", why=why, operator=True), [Change("held", stage, stage, why)]


def resume(progress: Progress, why: str = "") -> Step:
    """Go on from the present stage, with evidence begun anew. Raises ValueError where nothing is held."""
    if progress.state not in ("held", "stopped"):
        raise ValueError(f"it is {progress.state}, not held")
    stage = progress.stage + 1
    progress = msgspec.structs.replace(progress, state="running", why="", operator=False, evidence=Tally())
    return progress, [Change("resumed", stage, stage, why or "by an operator")]


def refitted(progress: Progress, ramp: Ramp, cap: int, now: Moment) -> Progress:
    """For a schedule that the configuration changed: the last stage whose cap is not above `cap`, that of the old one.

    The open period and what it used go on, and until it is over nothing rises. A source that is done stays done.
    """
    if progress.ramp == ramp.fingerprint:
        return progress
    was_hourly = progress.hour is not None
    comparable = cap if ramp.per == "day" or was_hourly else cap // 24
    return msgspec.structs.replace(
        progress,
        ramp=ramp.fingerprint,
        stage=len(ramp.caps) if progress.state == "done" else ramp.stage_at(comparable),
        hour=(progress.hour or opened(hour_number(now.wall), now)) if ramp.per == "hour" else None,
        hour_delivered=0,
        best_hour=0,
        ceiling=cap if progress.ceiling is None else min(cap, progress.ceiling),
    )


def days_left(progress: Progress, ramp: Ramp) -> int:
    """Days that count until it is done, if each advances."""
    return max(0, len(ramp.caps) - progress.stage)


def stages_ahead(progress: Progress, plan: WarmupPlan, ramp: Ramp, most: int = 1000) -> list[tuple[int, int, int]]:
    """(date number, stage from 1, cap) of the days to come from the open one on, if every one counts and advances."""
    ahead = range(progress.stage, min(len(ramp.caps), progress.stage + most))
    return [(progress.day.number + n, stage + 1, ramp.caps[stage]) for n, stage in enumerate(ahead)]
