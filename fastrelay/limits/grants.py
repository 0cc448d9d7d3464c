"""How many permits of a recorded rate were taken, read off its bucket in the shared table.

Sites of no known provider are not counted one by one (a metric has no room for ten thousand sites). But once such a
site has an adaptive rate, all of its mail passes one bucket, and a bucket tells: its theoretical arrival time moves by
one interval for each permit. What was permitted counts as taken by the host unless a refusal is reported soon.

Known faults: a rate that is used up to a small part only is undercounted, since a bucket that is full does not tell
when it was last empty. Hosts that take longer than MATURE_SECONDS to refuse are believed to have taken the mail first.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

MATURE_SECONDS = 10.0  # until a permit without a refusal counts as taken
MOST_WAITING = 1000  # looks


class Bucket(Protocol):
    """What is needed of the shared table."""

    def rate_of(self, cell: int) -> tuple[int, int]: ...
    def look(self, cell: int, now_ns: int, emission_ns: int, burst: int) -> int: ...


class Grants:
    """Of one cell."""

    def __init__(self) -> None:
        self._rule = (0, 0)
        self._arrival_ns = 0
        self._waiting: deque[list[float]] = deque(maxlen=MOST_WAITING)  # [when seen, how many]

    def rebase(self, table: Bucket, cell: int, now_ns: int) -> None:
        """The rate has changed: permits are counted from here on."""
        self._rule = table.rate_of(cell)
        self._arrival_ns = self._arrival(table, cell, now_ns)

    def look(self, table: Bucket, cell: int, now_ns: int) -> None:
        """Counts what was permitted since the last look."""
        if table.rate_of(cell) != self._rule:
            self.rebase(table, cell, now_ns)
            return
        if not self._rule[0]:
            return
        arrival_ns = self._arrival(table, cell, now_ns)
        granted = (arrival_ns - self._arrival_ns) // self._rule[0]
        if granted > 0:
            self._waiting.append([now_ns / 1e9, float(granted)])
        self._arrival_ns = max(self._arrival_ns + granted * self._rule[0], now_ns)

    def refused(self, n: int) -> None:
        """So many of the newest were refused."""
        while n > 0 and self._waiting:
            newest = self._waiting[-1]
            part = min(n, newest[1])
            newest[1] -= part
            n -= int(part)
            if newest[1] <= 0:
                self._waiting.pop()

    def clear(self) -> None:
        """What is under way tells nothing any more."""
        self._waiting.clear()

    def taken(self, now: float) -> float:
        """How many have been taken since the last call."""
        n = 0.0
        while self._waiting and self._waiting[0][0] <= now - MATURE_SECONDS:
            n += self._waiting.popleft()[1]
        return n

    def _arrival(self, table: Bucket, cell: int, now_ns: int) -> int:
        """The theoretical arrival time: when all that was permitted so far is paid off; not before now."""
        emission_ns, burst = self._rule
        if not emission_ns:
            return now_ns
        found = table.look(cell, now_ns, emission_ns, burst)
        if found > 0:
            return now_ns + max(0, burst - found) * emission_ns
        return now_ns - found + (burst - 1) * emission_ns
