"""The shared table against a dict in plain Python, alone and with other processes on the same cell. Prints figures.

    python benchmarks/bench_table.py

A call from Cython costs less than what is shown: the figures hold the call from Python (see "nothing").
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fastrelay._core.table import Table

CALLS = 300_000


class Plain:
    """One process's own counts and buckets: no sharing, no crash safety."""

    def __init__(self) -> None:
        self.cells: dict[bytes, int] = {}
        self.counts: dict[int, int] = {}
        self.tats: dict[int, int] = {}

    def cell(self, name: bytes) -> int:
        return self.cells.setdefault(name, len(self.cells))

    def acquire(self, cell: int, slot: int, limit: int) -> bool:
        n = self.counts.get(cell, 0)
        if n >= limit:
            return False
        self.counts[cell] = n + 1
        return True

    def release(self, cell: int, slot: int) -> None:
        self.counts[cell] -= 1

    def take(self, cell: int, now: int, n: int, emission: int, burst: int) -> int:
        tat = max(self.tats.get(cell, 0), now)
        wait = tat + n * emission - now - burst * emission
        if wait > 0:
            return wait
        self.tats[cell] = tat + n * emission
        return 0


def per_call(act: Callable[[], None], calls: int = CALLS) -> float:
    """ns, the best of three."""
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter_ns()
        act()
        best = min(best, (time.perf_counter_ns() - begun) / calls)
    return best


def acquire_release(table: Table | Plain, slot: int = 0) -> Callable[[], None]:
    cell = table.cell(b"conn:a:mx.example")

    def act() -> None:
        acquire, release = table.acquire, table.release
        for _ in range(CALLS):
            acquire(cell, slot, 1000)
            release(cell, slot)

    return act


def take(table: Table | Plain) -> Callable[[], None]:
    cell = table.cell(b"rate:a:mx.example")

    def act() -> None:
        take = table.take
        for now in range(10**12, 10**12 + CALLS):
            take(cell, now, 1, 1, 100)

    return act


def lookups(table: Table | Plain) -> Callable[[], None]:
    names = [b"conn:source:mx%d.example" % n for n in range(CALLS // 10)]

    def act() -> None:
        for name in names:
            table.cell(name)

    return act


def nothing() -> None:
    def call(a: int, b: int, c: int) -> None: ...

    for _ in range(CALLS):
        call(1, 2, 3)


OTHER = """
import sys
from fastrelay._core.table import Table
table = Table(sys.argv[1]); cell = table.cell(b"conn:a:mx.example")
print("go", flush=True)
while True:
    table.acquire(cell, 1, 1000); table.release(cell, 1)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("ns a call from Python                     table    dict")
        for slots in (2, 16):
            table = Table.create(Path(folder) / f"table.{slots}", slots=slots, boot_id="bench", now_ns=0)
            plain = Plain()
            print(f"  acquire + release, {slots:2d} slots         {per_call(acquire_release(table)):8.0f}", end="")
            print(f"{per_call(acquire_release(plain)):8.0f}")
        print(f"  take                                {per_call(take(table)):8.0f}{per_call(take(plain)):8.0f}")
        print(
            f"  cell by name                        {per_call(lookups(table), CALLS // 10):8.0f}"
            f"{per_call(lookups(plain), CALLS // 10):8.0f}"
        )
        print(f"  nothing (a call of three arguments) {per_call(nothing):8.0f}")
        path = Path(folder) / "table.2"
        other = subprocess.Popen([sys.executable, "-c", OTHER, str(path)], stdout=subprocess.PIPE)
        try:
            assert other.stdout is not None
            other.stdout.readline()
            contended = per_call(acquire_release(Table(path)))
        finally:
            other.kill()
            other.communicate()
        print(f"  acquire + release, another process on the same cell: {contended:.0f}")
        begun = time.perf_counter_ns()
        for n in range(100_000):
            table.cell(b"fill %d" % n)
        table.clear_slot(0)
        begun = time.perf_counter_ns()
        table.clear_slot(0)
        print(f"  clear_slot with {table.cells:,} cells: {(time.perf_counter_ns() - begun) / 1e6:.1f} ms")


if __name__ == "__main__":
    main()
