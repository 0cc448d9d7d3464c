"""Callbacks at simulated times: what `loop.call_later` is for real ones.

The simulated hosts answer late through it, and whoever drives the clock asks it when to stop next.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from fastrelay.clock import Clock

NEVER = float("inf")


class Timetable:
    """Callbacks by monotonic time of a clock; equal times run in the order they were asked for."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._entries: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def call_later(self, seconds: float, callback: Callable[..., Any], *arguments: Any) -> None:
        """Call back once the clock is `seconds` on, when `run_due` is called then."""
        self.call_at(self.clock.monotonic() + seconds, callback, *arguments)

    def call_at(self, when: float, callback: Callable[..., Any], *arguments: Any) -> None:
        """Call back at a monotonic time."""
        heapq.heappush(self._entries, (when, next(self._order), callback, arguments))

    def next_at(self) -> float:
        """When the next one is due (monotonic seconds); NEVER without any."""
        return self._entries[0][0] if self._entries else NEVER

    def run_due(self) -> int:
        """Run everything that is due now; how many that were."""
        now, ran = self.clock.monotonic(), 0
        while self._entries and self._entries[0][0] <= now:
            _, _, callback, arguments = heapq.heappop(self._entries)
            callback(*arguments)
            ran += 1
        return ran
