"""The timer wheel against a heap in plain Python. Prints figures; asserts nothing.

    python benchmarks/bench_wheel.py [IDS]

Both hold IDS waiting ids (default 1,000,000) with due times spread over four hours, as retries are. A heap cannot
remove: it marks, and skips what is marked when it comes up.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from collections.abc import Callable

from fastrelay._core.wheel import Wheel

SPREAD_MS = 4 * 3600 * 1000
SLICE = 1000


class Heap:
    """What a plain-Python scheduler would be."""

    def __init__(self, now_ms: int, capacity: int) -> None:
        self.heap: list[tuple[int, int]] = []
        self.due: dict[int, int] = {}

    def add(self, id: int, due_ms: int) -> None:
        self.due[id] = due_ms
        heapq.heappush(self.heap, (due_ms, id))

    def remove(self, id: int) -> None:
        self.due.pop(id, None)

    def advance(self, now_ms: int, limit: int) -> list[int]:
        out: list[int] = []
        while self.heap and self.heap[0][0] <= now_ms and len(out) < limit:
            due, id = heapq.heappop(self.heap)
            if self.due.get(id) == due:
                del self.due[id]
                out.append(id)
        return out


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


def per_id(act: Callable[[], int]) -> float:
    """ns an id."""
    begun = time.perf_counter_ns()
    n = act()
    return (time.perf_counter_ns() - begun) / max(n, 1)


def figures(kind: type, ids: int) -> dict[str, float]:
    dues = random.Random(1).choices(range(SPREAD_MS), k=ids)
    order = list(range(ids))
    random.Random(2).shuffle(order)
    before = resident_bytes()
    timers = kind(0, ids)

    def add() -> int:
        for id in order:
            timers.add(id, dues[id])
        return ids

    def move() -> int:
        for id in order[: ids // 2]:
            timers.remove(id)
            timers.add(id, dues[id])
        return ids // 2

    def expire() -> int:
        found = 0
        for now in range(0, SPREAD_MS + 1000, 1000):
            while part := timers.advance(now, SLICE):
                found += len(part)
        return found

    out = {"add": per_id(add)}
    out["bytes an id"] = (resident_bytes() - before) / ids
    out["remove and add"] = per_id(move)
    out["expire"] = per_id(expire)
    return out


def main() -> None:
    ids = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    ours, plain = figures(Wheel, ids), figures(Heap, ids)
    print(f"{ids:,} ids over four hours (ns an id, called from Python; the loop of the bench is in both)")
    for name in ours:
        print(f"  {name:16s} wheel {ours[name]:8.0f}   heap {plain[name]:8.0f}   ratio {plain[name] / ours[name]:6.1f}")
    jump = Wheel(0, ids)
    for id in range(ids):
        jump.add(id, 60 * 86_400_000 + id % SPREAD_MS)
    begun = time.perf_counter_ns()
    jump.advance(29 * 86_400_000, SLICE)
    print(f"  a jump of 29 days over nothing: {(time.perf_counter_ns() - begun) / 1000:.1f} µs")
    begun = time.perf_counter_ns()
    calls = 0
    slowest = 0
    while len(jump):
        at = time.perf_counter_ns()
        jump.advance(61 * 86_400_000, SLICE)
        slowest = max(slowest, time.perf_counter_ns() - at)
        calls += 1
    total = (time.perf_counter_ns() - begun) / ids
    print(f"  a jump over all {ids:,}: {total:.0f} ns an id, {calls} slices, the slowest {slowest / 1e6:.2f} ms")


if __name__ == "__main__":
    main()
