"""A bounded cache, and how long an answer may stay in it.

Why its own: a hit must cost one dict look-up (it happens per queued recipient group), so nothing is moved on a hit.
The oldest *insertion* leaves when the cache is full; what is in use is refreshed before it expires, and so moves back
to the end. No clock: entries carry their own expiry, in the `now` of the caller (monotonic seconds).

Known faults: a flood of new names can push out a useful entry; that costs a query, no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Name → value, at most `max_entries`. `get(name)` is the dict's own."""

    __slots__ = ("_entries", "evictions", "get", "max_entries")

    def __init__(self, max_entries: int) -> None:
        if max_entries < 1:
            raise ValueError("a cache holds at least one entry")
        self.max_entries = max_entries
        self.evictions = 0
        self._entries: dict[str, Value] = {}
        self.get: Callable[[str], Value | None] = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, name: str, value: Value) -> None:
        """Store at the young end; the oldest goes if there is one too many."""
        entries = self._entries
        entries.pop(name, None)
        entries[name] = value
        if len(entries) > self.max_entries:
            del entries[next(iter(entries))]
            self.evictions += 1

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Bounds on how long answers live, all in seconds.

    min_ttl, max_ttl  a positive answer's TTL is brought between them
    negative_ttl      cap for NXDOMAIN and NODATA, whose TTL is the SOA's minimum (RFC 2308 section 5)
    stale             seconds past its end that a positive answer may serve when refreshing fails (RFC 8767); 0: never
    retry             the waits after the first, second, … temporary failure in a row; the last one repeats
    """

    min_ttl: float = 60.0
    max_ttl: float = 86400.0
    negative_ttl: float = 300.0
    stale: float = 3600.0
    retry: tuple[float, ...] = (30.0, 45.0, 60.0)

    def positive(self, ttl: float) -> float:
        """Seconds that a positive answer is kept."""
        return min(max(ttl, self.min_ttl), self.max_ttl)

    def negative(self, ttl: float) -> float:
        """Seconds that a negative answer is kept; at least one, so that a TTL of 0 is no query per message."""
        return max(1.0, min(max(ttl, self.min_ttl), self.negative_ttl))

    def after_failure(self, failures: int) -> float:
        """Seconds to wait after the given number (≥ 1) of temporary failures in a row."""
        return self.retry[min(failures, len(self.retry)) - 1]
