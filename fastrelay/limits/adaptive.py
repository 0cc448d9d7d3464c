"""The rate that a provider bears, found without being told: one controller for a source at a place.

Nothing is limited until deferrals smell of throttling: replies that a back-off rule calls so, or a share of deferrals
far above what is usual there. From then on the rate follows what the provider shows:

    free      no limit yet
    blocked   something was throttled: only a probe now and then, ever more seldom, until one is taken
    climb     far below anything that failed: the rate doubles
    bracket   between a rate that held and one that failed: the middle is tried
    hold      just below the ceiling; seldom, and only where a budget of deferrals pays for it, a little above

A provider that opens again at once counts by rate (a token bucket): the ceiling lies between the rates that held and
failed. One that stays shut counts by hour: what was taken in the trailing hour when it shut is its ceiling. Either way
we stay 3 % below. A probe above the ceiling that fails costs deferrals; the next one waits until so many attempts
were made that this cost is half a percent of them. One that holds is followed by bolder ones, so that a ceiling that
has moved tenfold is found within hours.

Pure: time comes in (seconds of any clock that only goes forward), counts come in, a rate goes out. It never raises
anything: it is one more rule beside those of the configuration.

Known faults: a provider that counts by day is found again each hour. Mail without backlog says nothing about a ceiling,
so the rate then stays as it is until a throttle is two weeks old.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Literal

Mode = Literal["free", "blocked", "climb", "bracket", "hold"]

SLOT_SECONDS = 10.0  # of the memory of the trailing hour
HOUR = 3600.0
BELOW = 0.97  # of the ceiling: where we stay
WINDOW_NEAR = 0.98  # of an hour's ceiling: from here on slower,
WINDOW_FULL = 0.995  # and from here on nothing more until older mail leaves the hour
PAUSE_FIRST_SECONDS = 20.0
PAUSE_LAST_SECONDS = 300.0
PAUSE_INTERVALS = 2.0  # the first pause is at least so many messages long
GRACE_SECONDS = 5.0  # replies to what was under way when it shut
CLIMB_SECONDS = 60.0
TRIAL_SECONDS = 600.0
PROBE_SECONDS = 1800.0
TRIAL_MESSAGES = 3
BRACKET_TIGHT = 1.04
CONFIRM_SECONDS = HOUR  # a ceiling that was seen once is tried again after so long
REST_SECONDS = 3 * HOUR  # between probes at least
REST_LONGEST_SECONDS = 24 * HOUR
BUDGET = 0.004  # deferrals of probes as a share of attempts
BUDGET_LEARNING = 0.02  # in the first hours
LEARNING_SECONDS = 4 * HOUR
STEP_FIRST = 0.02
STEP_UNSURE = 0.1
STEP_LAST = 0.5
SAME_CEILING = 0.10  # a failure within this of the last one is the same ceiling
SAME_WINDOW = 0.015  # what an hour took at two refusals
TURNOVER = 0.05  # of it passed between the two, so it could have been another
LEAST_WINDOW = 20  # messages; fewer in an hour tell nothing about what an hour takes
EVEN = 0.75  # the trailing hour had so much of the rate at least: it was sent evenly
FALLS = (0.97, 0.95, 0.9, 0.8, 0.6)  # of a rate that failed, soon after one another
FALLS_SECONDS = 1800.0
BLAMELESS_FALLS = 3
BINDING = 0.8  # a rate was tried if this share of it was used
FORGET_SECONDS = 14 * 86400.0
FASTEST_PER_HOUR = 36_000_000.0  # beyond this is no limit

# Deferrals that no rule knows
USUAL_SHARE = 0.03  # before anything is learnt
USUAL_LEAST = 0.002
USUAL_LEARNT = 0.05
USUAL_MOST = 0.5  # where the rate is not to blame
SMELL_SHARE = 0.2  # above the usual one at least, among some hundred attempts
SMELL_FEW_SHARE = 0.5  # among fewer
SMELL_TRIAL_SHARE = 0.01  # in a whole trial
SMELL_SIGMAS = 5.0
SMELL_ATTEMPTS = 30
SMELL_SURE_ATTEMPTS = 100
SMELL_WINDOW = 400  # attempts


class TrailingHour:
    """How much was taken within the last hour, in slots of ten seconds."""

    def __init__(self) -> None:
        self._slots: deque[list[float]] = deque()  # [when the slot began, taken]
        self._taken = 0.0

    def add(self, now: float, taken: int) -> None:
        """Counts; what is older than an hour is forgotten."""
        slots = self._slots
        while slots and slots[0][0] <= now - HOUR:
            self._taken -= slots.popleft()[1]
        if not taken:
            return
        began = math.floor(now / SLOT_SECONDS) * SLOT_SECONDS
        if slots and slots[-1][0] == began:
            slots[-1][1] += taken
        else:
            slots.append([began, taken])
        self._taken += taken

    @property
    def taken(self) -> float:
        """As of the last `add`."""
        return self._taken


class Smell:
    """Whether deferrals that no rule knows are more than usual: the share of the last some hundred attempts against
    that of quiet times. What is usual is learnt at the rates where we stay, up to a bound: else what a place throttles
    would become usual."""

    def __init__(self) -> None:
        self._attempts = 0.0
        self._deferred = 0.0
        self.usual = USUAL_SHARE

    def add(self, delivered: int, deferred: int, *, learns: bool, blameless: bool) -> bool:
        """Counts; True: this smells of throttling.

        learns      the rate is one where we stay
        blameless   it fell and fell, and the deferrals stayed: they have another cause
        """
        self._attempts += delivered + deferred
        self._deferred += deferred
        if self._attempts < SMELL_ATTEMPTS:
            return False
        by = SMELL_SHARE if self._attempts >= SMELL_SURE_ATTEMPTS else SMELL_FEW_SHARE
        if self.exceeds(self._attempts, self._deferred, by):
            if blameless:
                self.usual = min(self._deferred / self._attempts, USUAL_MOST)
            self.clear()
            return True
        if self._attempts >= SMELL_WINDOW:
            share = max(self._deferred / self._attempts, USUAL_LEAST)
            if learns or blameless:
                self.usual = min(0.8 * self.usual + 0.2 * share, USUAL_MOST if blameless else USUAL_LEARNT)
            self.clear()
        return False

    def exceeds(self, attempts: float, deferred: float, by: float) -> bool:
        """Whether a share is above the usual one by so much, and by more than chance explains."""
        spread = math.sqrt(self.usual * (1 - self.usual) / attempts)
        return deferred / attempts > self.usual + max(by, SMELL_SIGMAS * spread)

    def clear(self) -> None:
        self._attempts = self._deferred = 0.0


class AdaptiveRate:
    """The controller of one source at one place. Rates are messages an hour."""

    def __init__(
        self, slowest_per_hour: float = 60.0, kept: dict[str, Any] | None = None, kept_at: float = 0.0
    ) -> None:
        """`kept` is what `keep` gave before a restart, when the clock of now showed `kept_at`."""
        self.slowest_per_hour = slowest_per_hour
        self.mode: Mode = "free"
        self._rate = math.inf
        self._hour = TrailingHour()
        self._smell = Smell()
        self._held = 0.0  # the fastest rate that held lately
        self._failed = math.inf  # the slowest that did not
        self._window = math.inf  # what an hour takes, if the place counts by hour
        self._level = 0.0  # where we stay in `hold`
        self._ceiling = 0.0  # as last found, to know it again
        self._confirmed = False
        self._probing = False
        self._step = STEP_FIRST
        self._falls = 0  # failures at a level, one soon after the other
        self._trial_at = 0.0
        self._trial_attempts = self._trial_deferred = 0
        self._probe_at = 0.0
        self._cost = 0  # deferrals since we last settled
        self._refusals: deque[tuple[float, float, float, float]] = deque(maxlen=6)  # when, rate, hour, passed so far
        self._passed = 0.0
        self._began = math.inf  # when mail began to be taken, as far back as we remember
        self._first_shut = math.inf
        self._settled_at = -math.inf
        self._shut_at = -math.inf
        self._shut_rate = math.inf
        self._refused_hour = 0.0  # the trailing hour at the last refusal
        self._pause = self._pause_first = PAUSE_FIRST_SECONDS
        if kept is not None:
            self._take_up(kept, kept_at)

    # -- what comes out -----------------------------------------------------------------------------------------------

    @property
    def rate_per_hour(self) -> float | None:
        """The rate of now; None: no limit."""
        if self.mode == "free":
            return None
        if self.mode == "blocked":
            return HOUR / self._pause
        return max(self._rate * self._room, HOUR / PAUSE_LAST_SECONDS)

    @property
    def _room(self) -> float:
        """Near 0 when the trailing hour holds as much as the place takes: older mail has to leave it first. Else 1."""
        if self.mode != "hold" or self._probing or not math.isfinite(self._window):
            return 1.0
        return min(1.0, max(0.0, (WINDOW_FULL - self._hour.taken / self._window) / (WINDOW_FULL - WINDOW_NEAR)))

    @property
    def ceiling_per_hour(self) -> float | None:
        """What the place takes, as far as is known."""
        return self._ceiling or None

    # -- what goes in -------------------------------------------------------------------------------------------------

    def observe(self, now: float, delivered: int, deferred: int, throttled: int = 0) -> None:
        """What was answered since the last call. `throttled`: how many of the deferred a rule called so."""
        others = 0 if self._by_share or self.mode == "free" else max(0, deferred - throttled)
        self._passed += delivered + others
        self._hour.add(now, delivered + others)  # the place may count those that it deferred for other reasons
        if delivered and now < self._began:
            self._began = now
        if throttled:
            self._ruled, self._by_share = True, False
        if self.mode == "blocked":
            self._while_blocked(now, delivered, deferred if self._by_share else throttled)
        elif throttled:
            self._shut(now, throttled)
        elif self._smells(delivered, deferred):
            self._by_share = True
            self._shut(now, deferred)
        elif self.mode != "free":
            self._while_open(now, delivered + deferred, deferred)

    def _smells(self, delivered: int, deferred: int) -> bool:
        """Deferrals that no rule knows are far more than usual."""
        stays = self.mode == "hold" and not self._probing
        blameless = stays and self._falls >= BLAMELESS_FALLS
        return self._smell.add(delivered, deferred, learns=stays or self.mode == "free", blameless=blameless)

    _ruled = False  # a rule knows the refusals of this place
    _by_share = False  # the throttling at hand was told by the share of deferrals, not by a rule

    # -- shut ---------------------------------------------------------------------------------------------------------

    def _shut(self, now: float, refused: int) -> None:
        """Something was throttled."""
        self._shut_at = now
        self._shut_rate = self._rate
        self._refused_hour = self._hour.taken
        interval = HOUR / self._rate if math.isfinite(self._rate) else 0.0
        self._pause = self._pause_first = min(max(PAUSE_FIRST_SECONDS, PAUSE_INTERVALS * interval), PAUSE_LAST_SECONDS)
        # What it cost to find that there is a limit at all is no fault of a probe.
        self._cost = 0 if self.mode == "free" else self._cost + refused
        self._first_shut = min(self._first_shut, now)
        self._before = self.mode
        self.mode = "blocked"

    _before: Mode = "free"

    def _while_blocked(self, now: float, delivered: int, refused: int) -> None:
        if refused:
            self._cost += refused
            self._refused_hour = self._hour.taken
            if now - self._shut_at > GRACE_SECONDS:
                self._pause = min(self._pause * 2, PAUSE_LAST_SECONDS)
        elif delivered and now - self._shut_at > GRACE_SECONDS:
            self._open(now)

    def _open(self, now: float) -> None:
        """A probe was taken: what kind of ceiling was that?"""
        self._smell.clear()
        failed, by_hour = self._shut_rate, self._refused_hour
        quick = self._pause == self._pause_first
        telling = by_hour >= max(LEAST_WINDOW, self.slowest_per_hour)
        counts_hours = telling and (not quick or self._seen_before(now, failed, by_hour))
        self._refusals.append((now, failed, by_hour, self._passed))
        if counts_hours:
            self._found_window(now, by_hour)
        elif not math.isfinite(failed) or failed <= 1.5 * self.slowest_per_hour:
            self._failed = math.inf
            self._begin("climb", by_hour if failed == math.inf else self.slowest_per_hour, now)
        elif self._before == "hold" or (now - self._began >= HOUR and by_hour >= EVEN * failed):
            self._found_rate(now, failed, by_hour)
        else:
            self._failed = failed
            if self._held >= failed or not self._held:
                self._held = failed / 2
            self._bracket(now)

    def _seen_before(self, now: float, failed: float, by_hour: float) -> bool:
        """Whether the trailing hour held as much at another refusal, though the rate was another."""
        known = abs(by_hour - self._window) <= (1 - BELOW) * self._window if math.isfinite(self._window) else False
        return known or any(
            now - at <= 2 * HOUR
            and abs(by_hour - hour) <= SAME_WINDOW * by_hour
            and max(rate, failed) > 1.05 * min(rate, failed)
            and self._passed - passed >= TURNOVER * by_hour
            for at, rate, hour, passed in self._refusals
        )

    def _found_window(self, now: float, by_hour: float) -> None:
        """The place takes so much in an hour."""
        self._confirmed = abs(by_hour - self._ceiling) <= SAME_CEILING * self._ceiling
        self._window = self._ceiling = by_hour
        self._failed, self._held = math.inf, 0.0
        self._settle(now, BELOW * by_hour)

    def _found_rate(self, now: float, failed: float, by_hour: float) -> None:
        """A rate that we meant to stay at, or a step above it, failed."""
        whole = now - self._began >= HOUR and by_hour >= EVEN * failed
        ceiling = min(failed, by_hour) if whole else failed
        if self._probing:
            self._falls = 0
            level = self._level
            if failed <= (1 + SAME_CEILING) * level:
                level = max(level, BELOW * BELOW * failed)
        else:
            self._falls = self._falls + 1 if now - self._settled_at < FALLS_SECONDS else 0
            level = min(BELOW * ceiling, failed * FALLS[min(self._falls, len(FALLS) - 1)])
        self._confirmed = self._falls < 2 and abs(ceiling - self._ceiling) <= SAME_CEILING * self._ceiling
        self._ceiling, self._failed = ceiling, failed
        if self._probing and failed > (1 + SAME_CEILING) * level:
            self._held = level  # a bold step: the ceiling is somewhere in it
            self._bracket(now)
            return
        self._settle(now, level)

    # -- open ---------------------------------------------------------------------------------------------------------

    def _begin(self, mode: Mode, rate: float, now: float) -> None:
        """Tries a rate from now on."""
        self.mode = mode
        self._rate = min(max(rate, self.slowest_per_hour), FASTEST_PER_HOUR)
        self._trial_at = now
        self._trial_attempts = self._trial_deferred = 0

    def _bracket(self, now: float) -> None:
        """Between what held and what failed; near enough is found."""
        if self._failed <= self._held * BRACKET_TIGHT:
            self._ceiling = self._failed
            self._confirmed = True
            self._settle(now, max(self._held, BELOW * self._failed))
            return
        self._begin("bracket", math.sqrt(self._held * self._failed), now)

    def _settle(self, now: float, level: float) -> None:
        """Stays at a level, and knows when to try more."""
        level = max(level, self.slowest_per_hour)
        self._level = level
        self._settled_at = now
        self._probing = False
        learning = now - self._first_shut <= LEARNING_SECONDS
        paid = HOUR * self._cost / ((BUDGET_LEARNING if learning else BUDGET) * level)
        paid = min(paid, REST_SECONDS if learning else REST_LONGEST_SECONDS)
        self._step = STEP_FIRST if self._confirmed else STEP_UNSURE
        self._probe_at = now + max(paid, REST_SECONDS if self._confirmed else CONFIRM_SECONDS)
        self._cost = 0
        self._begin("hold", level, now)

    def _while_open(self, now: float, attempts: int, deferred: int) -> None:
        """A trial that lasted long enough, with enough mail, is passed."""
        self._trial_attempts += attempts
        self._trial_deferred += deferred
        elapsed = now - self._trial_at
        if self.mode == "hold" and not self._probing:
            if elapsed >= PROBE_SECONDS and self._trial_smells(now):
                return
            if now - self._shut_at > FORGET_SECONDS:
                self.mode, self._rate, self._window, self._ceiling = "free", math.inf, math.inf, 0.0
            elif now >= self._probe_at and self._room == 1:
                self._probe_on(now)
            return
        seconds = {"climb": CLIMB_SECONDS, "bracket": TRIAL_SECONDS}.get(
            self.mode, PROBE_SECONDS if self._confirmed else TRIAL_SECONDS
        )
        messages = TRIAL_MESSAGES if self.mode == "climb" else 7 * TRIAL_MESSAGES
        if elapsed < max(seconds, messages * HOUR / self._rate):
            return
        if self._trial_attempts < BINDING * self._rate * elapsed / HOUR:  # too little mail to tell
            self._trial_at, self._trial_attempts, self._trial_deferred = now, 0, 0
            return
        if self._trial_smells(now):
            return
        self._held = self._rate
        if self.mode == "hold":
            self._level = self._rate
            self._step = min(2 * self._step, STEP_LAST)
            self._probe_on(now)
        elif self.mode == "climb" and 2 * self._rate < self._failed:
            self._begin("climb", 2 * self._rate, now)
        else:
            self._bracket(now)

    def _trial_smells(self, now: float) -> bool:
        """The end of a trial, where no rule knows the refusals: a share of deferrals that is too small to notice in
        some hundred attempts shows in all of a trial. Then this is shut."""
        attempts, deferred = self._trial_attempts, self._trial_deferred
        if self.mode == "hold" and not self._probing:
            self._trial_at, self._trial_attempts, self._trial_deferred = now, 0, 0
        if self._ruled or attempts < SMELL_WINDOW / 4:
            return False
        if not self._smell.exceeds(attempts, deferred, SMELL_TRIAL_SHARE):
            return False
        self._by_share = True
        self._shut(now, deferred)
        return True

    def _probe_on(self, now: float) -> None:
        """One step above what held."""
        self._probing = True
        rate = self._level * (1 + self._step)
        if rate > (1 + SAME_CEILING) * self._ceiling:  # the ceiling is not where it was
            self._failed = self._window = math.inf
        if rate >= FASTEST_PER_HOUR:
            self.mode, self._rate = "free", math.inf
            return
        self._begin("hold", rate, now)

    # -- over a restart -----------------------------------------------------------------------------------------------

    _KEPT = ("_rate", "_held", "_failed", "_window", "_level", "_ceiling", "_confirmed", "_step")
    _KEPT_TIMES = ("_probe_at", "_shut_at")

    def keep(self, now: float) -> dict[str, Any]:
        """What is to be kept, for JSON; infinities are left out, times are seconds from now."""
        kept = {name[1:]: getattr(self, name) for name in self._KEPT}
        kept |= {name[1:]: getattr(self, name) - now for name in self._KEPT_TIMES}
        kept["mode"] = self.mode
        return {name: value for name, value in kept.items() if value not in (math.inf, -math.inf)}

    def _take_up(self, kept: dict[str, Any], kept_at: float) -> None:
        """The memory of the trailing hour is lost, and what was shut or on trial is on trial again."""
        for name in self._KEPT:
            if name[1:] in kept:
                setattr(self, name, kept[name[1:]])
        for name in self._KEPT_TIMES:
            if name[1:] in kept:
                setattr(self, name, kept_at + kept[name[1:]])
        mode = kept["mode"]
        if mode == "free":
            return
        if mode == "blocked" or not math.isfinite(self._rate):
            self._rate = max(self.slowest_per_hour, self._level or self._held)
        self.mode = "hold" if self._level else "climb"
        if self.mode == "hold":
            self._rate = min(self._rate, self._level)
        self._trial_at = kept_at
