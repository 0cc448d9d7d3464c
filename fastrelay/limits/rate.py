"""Rates as people write them: `3000/h burst 50`, `5/s`.

A rate is `units` in each period, and up to `burst` of them at once after a pause. It is kept as GCRA wants it: one
unit each `emission_ns`, rounded up, so that rounding never makes a rate faster than written. Over any window of t
nanoseconds at most t ÷ emission_ns + burst units leave.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SECOND_NS = 10**9
PERIODS_NS = {"s": SECOND_NS, "min": 60 * SECOND_NS, "h": 3600 * SECOND_NS, "d": 86400 * SECOND_NS}
# What people write for ours.
_MEANT = {
    **dict.fromkeys(("sec", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "mn", "minute", "minutes"), "min"),
    **dict.fromkeys(("hr", "hour", "hours"), "h"),
    **dict.fromkeys(("day", "days"), "d"),
}
# A cell keeps burst × emission in 63 bits of nanoseconds. Far below that, a burst longer than a month is no burst.
MAX_BURST_NS = 31 * 86400 * SECOND_NS
MAX_PER_SECOND = 1_000_000

_RATE = re.compile(r"([0-9]+)\s*/\s*([a-z]+)(?:\s+burst\s+([0-9]+))?")
_LOOSE = re.compile(r"([0-9.,_]+)\s*/\s*([0-9]*)\s*([A-Za-z]*)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rate:
    """`units` per `period_ns` nanoseconds, at most `burst` at once. `text` reads back to the same rate."""

    units: int
    period_ns: int
    burst: int
    text: str

    @property
    def emission_ns(self) -> int:
        """Nanoseconds between units, rounded up: never faster than written."""
        return -(-self.period_ns // self.units)

    @property
    def per_second(self) -> float:
        return self.units * SECOND_NS / self.period_ns

    @property
    def per_hour(self) -> float:
        return self.per_second * 3600

    def __str__(self) -> str:
        return self.text


def make_rate(units: int, period: str, burst: int | None = None) -> Rate:
    """The rate of `units` per period (`s`, `min`, `h`, `d`). Without a burst: half a second's worth, at least one."""
    period_ns = PERIODS_NS[period]
    natural = max(1, -(-units * SECOND_NS // (2 * period_ns)))
    shown = f"{units}/{period}" if burst is None or burst == natural else f"{units}/{period} burst {burst}"
    return Rate(units, period_ns, natural if burst is None else burst, shown)


def period_name(period_ns: int) -> str:
    """`h` of an hour in nanoseconds."""
    return next(name for name, ns in PERIODS_NS.items() if ns == period_ns)


def parse_rate(text: str) -> Rate:
    """The rate of `3000/h burst 50`. Raises ValueError, "problem; mend"."""
    match = _RATE.fullmatch(text.strip())
    if match is None or match[2] not in PERIODS_NS:
        raise ValueError(_refusal(text))
    units, period, burst = int(match[1]), match[2], int(match[3]) if match[3] else None
    if units == 0:
        raise ValueError(f"{text!r} would let nothing out; write 1/d or more, or suspend the source or domain instead")
    if burst == 0:
        raise ValueError(f"{text!r} has a burst of 0, which would let nothing out; write burst 1 or more")
    if units * SECOND_NS > MAX_PER_SECOND * PERIODS_NS[period]:
        raise ValueError(f"{text!r} is more than {MAX_PER_SECOND} a second; leave the limit out if none is meant")
    rate = make_rate(units, period, burst)
    if (rate.burst - 1) * rate.emission_ns > MAX_BURST_NS:
        raise ValueError(f"{text!r} has a burst that takes more than a month to come back; write a smaller burst")
    return rate


def _refusal(text: str) -> str:
    """What is wrong with a text that is not a rate, and the mend."""
    form = "write a number, a slash and s, min, h or d, such as 3000/h or 3000/h burst 50"
    loose = _LOOSE.fullmatch(text.strip())
    if loose is None:
        if re.fullmatch(r"[0-9]+", text.strip()):
            return f"{text!r} has no period; write {text.strip()}/s, {text.strip()}/min, {text.strip()}/h or /d"
        return f"{text!r} is not a rate; {form}"
    number, count, period, rest = loose.groups()
    if not number.isdigit():
        mend = "write a whole number, over a longer period where it is a fraction, such as 30/min for 0.5/s"
        return f"{text!r} has {number!r} for a number; {mend}"
    if count:
        return f"{text!r} has a period of {count}{period}; write it for one period: s, min, h or d"
    if period not in PERIODS_NS:
        meant = _MEANT.get(period.lower(), period.lower())
        mend = f"did you mean {number}/{meant}?" if meant in PERIODS_NS else "the periods are s, min, h and d"
        return f"{text!r} has the unknown period {period!r}; {mend}"
    return f"{text!r} has {rest.strip()!r} behind it; a burst is written as {number}/{period} burst 50"
