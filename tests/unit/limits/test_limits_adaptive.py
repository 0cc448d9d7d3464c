"""Adaptive rates against simulated providers: they find what a provider bears without being told."""

from __future__ import annotations

import random
from collections import deque
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay.limits.adaptive import BELOW, FORGET_SECONDS, HOUR, PAUSE_LAST_SECONDS, AdaptiveRate, TrailingHour

LEARNING_HOURS = 6


class Model(Protocol):
    """A provider: whether it takes one more message at `now` (seconds)."""

    per_hour: float

    def take(self, now: float) -> bool: ...


class Bucket:
    """A token bucket."""

    def __init__(self, per_hour: float, burst: float) -> None:
        self.per_hour, self._burst = per_hour, burst
        self._tokens, self._at = burst, 0.0

    def take(self, now: float) -> bool:
        # One part in a million is forgiven: who keeps the rate exactly must not fail by rounding.
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.per_hour / HOUR)
        self._at = now
        if self._tokens < 1 - 1e-6:
            return False
        self._tokens -= 1
        return True


class Sliding:
    """So many in any hour."""

    def __init__(self, per_hour: float) -> None:
        self.per_hour = per_hour
        self._taken: deque[float] = deque()

    def take(self, now: float) -> bool:
        while self._taken and self._taken[0] <= now - HOUR:
            self._taken.popleft()
        if len(self._taken) >= self.per_hour:
            return False
        self._taken.append(now)
        return True


class Clock:
    """So many in each hour of a clock, which is `phase` seconds ahead of ours."""

    def __init__(self, per_hour: float, phase: float = 0.0) -> None:
        self.per_hour, self._phase = per_hour, phase
        self._hour, self._count = -1, 0

    def take(self, now: float) -> bool:
        hour = int((now + self._phase) // HOUR)
        if hour != self._hour:
            self._hour, self._count = hour, 0
        if self._count >= self.per_hour:
            return False
        self._count += 1
        return True


class Sender:
    """A backlog that is sent as the controller allows, second by second.

    at_once   messages a second while there is no limit
    lag       seconds until what was answered is counted
    noise     share of messages deferred for other reasons
    told      whether a rule recognizes the provider's refusals
    """

    def __init__(
        self, model: Model, *, at_once: int = 100, lag: int = 1, noise: float = 0.0, told: bool = True, seed: int = 1
    ) -> None:
        self.model, self.controller = model, AdaptiveRate()
        self.now = 10_000.0
        self._at_once, self._noise, self._told = at_once, noise, told
        self._rng = random.Random(seed)
        self._answers: deque[tuple[int, int, int]] = deque([(0, 0, 0)] * lag)
        self._next, self._interval = self.now, 0.0

    def hours(self, hours: float) -> tuple[float, float]:
        """Sends for so long: messages taken an hour, and the share of attempts that were throttled."""
        taken = noisy = throttled = 0
        for _ in range(int(hours * HOUR)):
            d, n, t = self._second()
            taken, noisy, throttled = taken + d, noisy + n, throttled + t
        return taken / hours, throttled / max(1, taken + noisy + throttled)

    def _second(self) -> tuple[int, int, int]:
        taken = noisy = throttled = 0
        for at in self._times():
            if self._noise and self._rng.random() < self._noise:
                noisy += 1
            elif self.model.take(at):
                taken += 1
            else:
                throttled += 1
        self.now += 1
        self._answers.append((taken, noisy, throttled))
        d, n, t = self._answers.popleft()
        was_blocked = self.controller.mode == "blocked"
        self.controller.observe(self.now, d, n + t, t if self._told else 0)
        if self.controller.mode == "blocked" and not was_blocked:  # the first probe comes after the pause
            self._interval = HOUR / (self.controller.rate_per_hour or 1)
            self._next = self.now + self._interval
        return taken, noisy, throttled

    def _times(self) -> list[float]:
        """When messages leave within this second: one each interval, what is owed scaled when the rate changes."""
        rate = self.controller.rate_per_hour
        if rate is None:
            return [self.now + at / self._at_once for at in range(self._at_once)]
        interval = HOUR / rate
        if self._interval and interval != self._interval:
            self._next = self.now + max(0.0, self._next - self.now) * interval / self._interval
        self._interval = interval
        self._next = max(self._next, self.now)
        times = []
        while self._next < self.now + 1:
            times.append(self._next)
            self._next += interval
        return times


def assert_converged(sender: Sender, rate: float, throttled: float, most: float = 1.005) -> None:
    """Within 90 and 100 % of what the provider bears, and hardly an attempt in vain."""
    share = rate / sender.model.per_hour
    assert 0.9 <= share <= most, f"{share:.3f} of {sender.model.per_hour}/h"
    assert throttled < 0.01


MODELS = {
    "bucket of one": lambda x: Bucket(x, 1),
    "bucket of a minute": lambda x: Bucket(x, max(2.0, x / 60)),
    "sliding": Sliding,
    "clock": Clock,
    "clock, late in its hour": lambda x: Clock(x, 2500),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("per_hour", [100, 1000, 10_000])
def test_the_rate_converges(kind: str, per_hour: int) -> None:
    sender = Sender(MODELS[kind](per_hour))
    sender.hours(LEARNING_HOURS)
    assert_converged(sender, *sender.hours(10))


@pytest.mark.parametrize("kind", ["bucket of a minute", "sliding", "clock"])
def test_the_rate_converges_at_a_large_provider(kind: str) -> None:
    sender = Sender(MODELS[kind](100_000), at_once=500)
    sender.hours(LEARNING_HOURS)
    assert_converged(sender, *sender.hours(4), most=1.01)


@st.composite
def senders(draw: st.DrawFn) -> Sender:
    per_hour = int(10 ** draw(st.floats(2, 3.5)))
    kind = draw(st.sampled_from(["bucket", "sliding", "clock"]))
    if kind == "bucket":
        model: Model = Bucket(per_hour, max(1.0, per_hour * 10 ** draw(st.floats(-4, -1.5))))
    else:
        model = Sliding(per_hour) if kind == "sliding" else Clock(per_hour, draw(st.integers(0, 3599)))
    return Sender(
        model,
        at_once=int(10 ** draw(st.floats(0.7, 2.7))),
        lag=draw(st.sampled_from([0, 1, 3])),
        noise=draw(st.sampled_from([0.0, 0.01, 0.03])),
        seed=draw(st.integers(0, 1000)),
    )


@settings(max_examples=12, deadline=None, derandomize=True)
@given(senders())
def test_the_rate_converges_at_any_provider(sender: Sender) -> None:
    sender.hours(LEARNING_HOURS)
    assert_converged(sender, *sender.hours(10), most=1.01)


@pytest.mark.parametrize("kind", ["sliding", "clock"])
def test_a_ceiling_is_found_where_no_rule_knows_the_refusals(kind: str) -> None:
    sender = Sender(MODELS[kind](2000), told=False)
    sender.hours(LEARNING_HOURS)
    rate, throttled = sender.hours(10)
    assert 0.9 <= rate / 2000 <= 1.0
    assert throttled < 0.05


def test_deferrals_for_other_reasons_are_no_throttling() -> None:
    sender = Sender(Bucket(1e9, 1e9), at_once=3, noise=0.1)
    sender.hours(2)
    assert sender.controller.mode == "free"
    assert sender.controller.rate_per_hour is None


@pytest.mark.parametrize("kind", ["bucket of a minute", "sliding", "clock"])
@pytest.mark.parametrize("factor", [0.2, 2, 10])
def test_a_ceiling_that_moved_is_found_again(kind: str, factor: float) -> None:
    sender = Sender(MODELS[kind](1000))
    sender.hours(8)
    sender.model.per_hour = 1000 * factor
    sender.hours(10)
    assert_converged(sender, *sender.hours(6), most=1.02)


def test_mail_without_backlog_does_not_raise_the_rate() -> None:
    sender = Sender(Sliding(1000))
    sender.hours(3)
    level = sender.controller.rate_per_hour
    assert level is not None
    for _ in range(48 * 60):  # a message a minute, for two days
        sender.now += 60
        sender.controller.observe(sender.now, 1, 0)
    raised = sender.controller.rate_per_hour
    assert raised is not None
    assert raised <= 1.2 * level


def test_a_throttle_of_weeks_ago_is_forgotten() -> None:
    sender = Sender(Sliding(1000))
    sender.hours(3)
    sender.controller.observe(sender.now + FORGET_SECONDS + HOUR, 1, 0)
    assert sender.controller.rate_per_hour is None


def test_the_pause_grows_while_nothing_is_taken() -> None:
    controller = AdaptiveRate()
    controller.observe(0.0, 50, 10, 10)
    pauses = []
    for at in range(1, 20):
        pauses.append(HOUR / (controller.rate_per_hour or 0))
        controller.observe(at * 400.0, 0, 1, 1)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(PAUSE_LAST_SECONDS)


def test_it_never_goes_below_the_slowest_rate_for_long() -> None:
    sender = Sender(Bucket(5, 1))  # less than the slowest rate
    sender.controller = AdaptiveRate(60.0)
    sender.hours(12)
    controller = sender.controller
    if controller.mode != "blocked":
        assert (controller.rate_per_hour or 0) >= 60.0 * BELOW


@pytest.mark.parametrize("at_hours", [0.5, 2, 9])
def test_what_was_learnt_outlasts_a_restart(at_hours: float) -> None:
    sender = Sender(Clock(2000, 1000))
    sender.hours(at_hours)
    kept = sender.controller.keep(sender.now)
    again = AdaptiveRate(60.0, kept, sender.now)
    assert again.rate_per_hour is not None
    before = sender.controller
    if before.mode == "hold":
        assert again.rate_per_hour <= (before.rate_per_hour or 0) * 1.01 or before._room < 1
    sender.controller = again
    sender.hours(LEARNING_HOURS)
    assert_converged(sender, *sender.hours(8), most=1.01)


def test_a_fresh_controller_keeps_nothing_of_value() -> None:
    assert AdaptiveRate(60.0, AdaptiveRate().keep(5.0), 7.0).rate_per_hour is None


@given(st.lists(st.tuples(st.floats(0.1, 2000), st.integers(0, 50)), max_size=60))
def test_the_trailing_hour_against_a_plain_sum(steps: list[tuple[float, int]]) -> None:
    hour, now, seen = TrailingHour(), 0.0, []
    for seconds, taken in steps:
        now += seconds
        hour.add(now, taken)
        seen.append((now, taken))
        # Slots of ten seconds: what is within ten seconds of the edge may count or not.
        least = sum(n for at, n in seen if at > now - HOUR + 10)
        most = sum(n for at, n in seen if at > now - HOUR - 10)
        assert least <= hour.taken <= most
