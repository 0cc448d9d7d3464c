"""Time: the one file that reads a clock.

Three clocks, for three questions:

    monotonic()   how long something took, when a timeout is over (s; stands still while the host is suspended)
    wall()        what to write into a header or an event (s since 1970; may jump)
    boottime_ns() rates and caps (ns since boot; goes on while suspended, never jumps), together with boot_id()

Everything else is given `now`, or a Clock. SimulatedClock lets a week of retries pass in milliseconds: all three move
together, and `jump_wall` moves the wall clock alone, as an operator or NTP does.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the parts of the relay need to know about time."""

    def monotonic(self) -> float:
        """Seconds of a clock that does not jump; its zero means nothing."""
        ...

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...

    def boottime_ns(self) -> int:
        """Nanoseconds since this boot, time in suspension included."""
        ...

    def boot_id(self) -> str:
        """Which boot boottime_ns() belongs to."""
        ...


class RealClock:
    """The host's clocks."""

    # The functions themselves, without a frame of ours around them: they are called several times a message.
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def __init__(self) -> None:
        self._boot_id = read_boot_id()

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        return self._boot_id


class SimulatedClock:
    """A clock that moves when it is told to.

    start       the wall time at the beginning (s since 1970)
    monotonic   where the monotonic clock begins (s); boot time begins there too
    """

    def __init__(self, start: float = 1_800_000_000.0, monotonic: float = 1000.0, boot_id: str = "simulated-1") -> None:
        self._monotonic = monotonic
        self._wall = start
        self._boottime_ns = round(monotonic * 1e9)
        self._boot_id = boot_id
        self._boots = 1

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def boottime_ns(self) -> int:
        return self._boottime_ns

    def boot_id(self) -> str:
        return self._boot_id

    def advance(self, seconds: float) -> None:
        """Let time pass, for all clocks."""
        if seconds < 0:
            raise ValueError("time passes forward; jump_wall sets the wall clock back")
        self._monotonic += seconds
        self._wall += seconds
        self._boottime_ns += round(seconds * 1e9)

    def suspend(self, seconds: float) -> None:
        """The host sleeps: wall and boot time pass, monotonic time does not."""
        if seconds < 0:
            raise ValueError("time passes forward")
        self._wall += seconds
        self._boottime_ns += round(seconds * 1e9)

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward or (below 0) back, and nothing else."""
        self._wall += seconds

    def reboot(self, seconds: float = 60.0) -> None:
        """The host restarts and is down for `seconds`: a new boot id, boot and monotonic time from 0."""
        self._wall += seconds
        self._monotonic = 0.0
        self._boottime_ns = 0
        self._boots += 1
        self._boot_id = f"simulated-{self._boots}"


def read_boot_id() -> str:
    """The kernel's id of this boot; "unknown" where /proc does not tell (then every start counts as a new boot)."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def iso_utc(wall: float) -> str:
    """A wall time as ISO 8601 in UTC with milliseconds: 2026-11-23T09:05:00.250Z."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
