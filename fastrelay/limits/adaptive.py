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
WINDOW_FULL = 0.985  # of an hour's ceiling: nothing more until older mail leaves the hour
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
REST_SECONDS = 2 * HOUR  # between probes at least
REST_LONGEST_SECONDS = 24 * HOUR
BUDGET = 0.004  # deferrals of probes as a share of attempts
STEP_FIRST = 0.02
STEP_LAST = 0.5
SAME_CEILING = 0.10  # a failure within this of the last one is the same ceiling
BINDING = 0.8  # a rate was tried if this share of it was used
FORGET_SECONDS = 14 * 86400.0
FASTEST_PER_HOUR = 36_000_000.0  # beyond this is no limit

# Deferrals that no rule knows
USUAL_SHARE = 0.02
SMELL_SHARE = 0.03  # above the usual one at least
SMELL_SIGMAS = 4.0
SMELL_ATTEMPTS = 30
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
    that of quiet times."""

    def __init__(self) -> None:
        self._attempts = 0.0
        self._deferred = 0.0
        self._usual = USUAL_SHARE

    def add(self, delivered: int, deferred: int) -> bool:
        """Counts; True: this smells of throttling."""
        self._attempts += delivered + deferred
        self._deferred += deferred
        if self._attempts < SMELL_ATTEMPTS:
            return False
        share = self._deferred / self._attempts
        spread = math.sqrt(self._usual * (1 - self._usual) / self._attempts)
        if share > self._usual + max(SMELL_SHARE, SMELL_SIGMAS * spread):
            self.clear()
            return True
        if self._attempts >= SMELL_WINDOW:
            self._usual = 0.9 * self._usual + 0.1 * max(share, USUAL_SHARE / 10)
            self._attempts /= 2
            self._deferred /= 2
        return False

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
        self._trial_attempts = 0
        self._probe_at = 0.0
        self._cost = 0  # deferrals of the failure at hand
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
        if self.full:
            return min(self._rate, HOUR / PAUSE_LAST_SECONDS)
        return self._rate

    @property
    def full(self) -> bool:
        """The trailing hour holds as much as the place takes; older mail has to leave it first."""
        return self.mode == "hold" and not self._probing and self._hour.taken >= WINDOW_FULL * self._window

    @property
    def ceiling_per_hour(self) -> float | None:
        """What the place takes, as far as is known."""
        return self._ceiling or None

    # -- what goes in -------------------------------------------------------------------------------------------------

    def observe(self, now: float, delivered: int, deferred: int, throttled: int = 0) -> None:
        """What was answered since the last call. `throttled`: how many of the deferred a rule called so."""
        self._hour.add(now, delivered)
        smells = throttled > 0
        if not smells and (self.mode != "blocked" or deferred):
            smells = self._smell.add(delivered, max(0, deferred)) if self.mode != "blocked" else self._by_share
        elif smells:
            self._by_share = False
        if self.mode == "blocked":
            self._while_blocked(now, delivered, throttled or deferred if smells else 0)
        elif smells:
            self._by_share = not throttled
            self._shut(now, delivered + deferred, throttled or deferred)
        elif self.mode != "free":
            self._while_open(now, delivered + deferred)

    _by_share = False  # the throttling at hand was told by the share of deferrals, not by a rule

    # -- shut ---------------------------------------------------------------------------------------------------------

    def _shut(self, now: float, attempts: int, refused: int) -> None:
        """Something was throttled."""
        self._shut_at = now
        self._shut_rate = self._rate
        self._refused_hour = self._hour.taken
        interval = HOUR / self._rate if math.isfinite(self._rate) else 0.0
        self._pause = self._pause_first = min(max(PAUSE_FIRST_SECONDS, PAUSE_INTERVALS * interval), PAUSE_LAST_SECONDS)
        self._cost = refused
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
        quick = self._pause == self._pause_first
        by_hour = self._refused_hour
        known_window = math.isfinite(self._window) and abs(by_hour - self._window) <= (1 - BELOW) * self._window
        if not quick or known_window:
            self._found_window(now, max(by_hour, 1.0))
        elif not math.isfinite(self._shut_rate):
            self._begin("climb", max(self.slowest_per_hour, by_hour), now)
        elif self._before == "hold":
            self._failed_in_hold(now)
        else:
            self._failed = self._shut_rate
            if self._held >= self._failed or not self._held:
                self._held = max(self.slowest_per_hour, self._failed / 2)
            self._bracket(now)

    def _found_window(self, now: float, by_hour: float) -> None:
        """The place takes so much in an hour."""
        self._confirmed = abs(by_hour - self._ceiling) <= SAME_CEILING * self._ceiling
        self._window = self._ceiling = by_hour
        self._failed, self._held = math.inf, 0.0
        self._settle(now, max(self.slowest_per_hour, BELOW * by_hour))

    def _failed_in_hold(self, now: float) -> None:
        failed = self._shut_rate
        self._failed = failed
        if self._probing and failed > self._level:
            self._confirmed = abs(failed - self._ceiling) <= SAME_CEILING * self._ceiling
            self._ceiling = failed
            if failed > (1 + SAME_CEILING) * self._level:  # a bold step: the ceiling is somewhere in it
                self._held = self._level
                self._bracket(now)
            else:
                self._settle(now, max(self._level, BELOW * BELOW * failed))
            return
        self._falls = self._falls + 1 if now - self._trial_at < TRIAL_SECONDS * 3 else 0
        self._ceiling = failed
        level = max(self.slowest_per_hour, failed * max(0.5, 1 - (1 - BELOW) * 2.0**self._falls))
        if self._falls >= 2:
            self._held = level
            self._confirmed = False
        self._settle(now, level)

    # -- open ---------------------------------------------------------------------------------------------------------

    def _begin(self, mode: Mode, rate: float, now: float) -> None:
        """Tries a rate from now on."""
        self.mode = mode
        self._rate = min(max(rate, self.slowest_per_hour), FASTEST_PER_HOUR)
        self._trial_at = now
        self._trial_attempts = 0

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
        self._level = level
        self._probing = False
        paid = HOUR * self._cost / (BUDGET * level)
        rest = max(REST_SECONDS, min(paid, REST_LONGEST_SECONDS)) if self._confirmed else CONFIRM_SECONDS
        self._step = STEP_FIRST if self._confirmed else 5 * STEP_FIRST
        self._probe_at = now + rest
        self._cost = 0
        self._begin("hold", level, now)

    def _while_open(self, now: float, attempts: int) -> None:
        """A trial that lasted long enough, with enough mail, is passed."""
        self._trial_attempts += attempts
        elapsed = now - self._trial_at
        if self.mode == "hold" and not self._probing:
            if now - self._shut_at > FORGET_SECONDS:
                self.mode, self._rate, self._window, self._ceiling = "free", math.inf, math.inf, 0.0
            elif now >= self._probe_at and not self.full:
                self._probe_on(now)
            return
        seconds = {"climb": CLIMB_SECONDS, "bracket": TRIAL_SECONDS}.get(
            self.mode, PROBE_SECONDS if self._confirmed else TRIAL_SECONDS
        )
        messages = TRIAL_MESSAGES if self.mode == "climb" else 7 * TRIAL_MESSAGES
        if elapsed < max(seconds, messages * HOUR / self._rate):
            return
        if self._trial_attempts < BINDING * self._rate * elapsed / HOUR:  # too little mail to tell
            self._trial_at, self._trial_attempts = now, 0
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
