"""Permits of gates with 1, 4 and 8 rules, and waiting with 10,000 sites, beside plain Python. Prints figures.

    python benchmarks/bench_limits.py

Processor time, so that a busy host shows little. The engine calls from Cython: the figures here hold the call from
Python (see "nothing"). Of each gate: granted at once (the straight path), granted while another process hammers the
same cells, and denied by the last rule (all others give back). Waiting: a site that is denied is put into line, and
woken when a permit comes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from fastrelay._core.limits import Gate, Rule, Waiting
from fastrelay._core.table import Table

CALLS = 200_000
SECOND = 10**9
SITES = 10_000
KINDS = ("fixed", "fixed", "recorded", "cap", "fixed", "recorded", "spread", "fixed")


class PlainBucket:
    """One process's own bucket."""

    def __init__(self, emission: int, burst: int) -> None:
        self.emission, self.burst, self.tat = emission, burst, 0

    def take(self, now: int, most: int) -> int:
        tat = max(self.tat, now)
        n = min((now + self.emission * self.burst - tat) // self.emission, most)
        if n > 0:
            self.tat = tat + n * self.emission
        return n


class PlainGate:
    """The same rules without sharing."""

    def __init__(self, buckets: list[PlainBucket]) -> None:
        self.buckets = buckets

    def permit(self, most: int, now: int, urgent: bool) -> int:
        taken = []
        for bucket in self.buckets:
            most = bucket.take(now, most)
            if most <= 0:
                break
            taken.append(most)
        for bucket, n in zip(self.buckets, taken, strict=False):
            bucket.tat -= (n - max(most, 0)) * bucket.emission
        return max(most, 0)


def per_call(act: Callable[[], None], calls: int = CALLS) -> float:
    """ns, the best of three."""
    best = float("inf")
    for _ in range(3):
        begun = time.thread_time_ns()
        act()
        best = min(best, (time.thread_time_ns() - begun) / calls)
    return best


def rule(table: Table, kind: str, n: int, denies: bool = False) -> Rule:
    if denies:
        return Rule(table, b"rate:none", 10**15, 1)
    name = {"fixed": b"rate:%d", "recorded": b"adaptive:%d:x", "spread": b"spread:%d:x", "cap": b"cap:%d:x"}[kind] % n
    made = Rule(table, name, 1, 1000, kind=kind)
    if kind == "cap":
        table.set_cap(made.cell, 1, 10**12)
    elif kind != "fixed":
        table.set_rate(made.cell, 1, 1000)
    return made


begun_ns = 10**12


def moments() -> range:
    """Times of one round of calls, 100 ns apart, later than all before."""
    global begun_ns
    begun_ns += 100 * CALLS
    return range(begun_ns, begun_ns + 100 * CALLS, 100)


def permits(gate: Gate | PlainGate, granted: bool = True) -> Callable[[], None]:
    def act() -> None:
        permit = gate.permit
        times = moments()
        for now in times:
            permit(1, now, False)
        assert permit(1, times[-1], False) == granted

    return act


def looks(gate: Gate) -> Callable[[], None]:
    def act() -> None:
        available = gate.available
        for now in moments():
            available(now)

    return act


def nothing() -> None:
    def call(a: int, b: int, c: bool) -> None: ...

    for _ in range(CALLS):
        call(1, 2, False)


OTHER = """
import sys
from fastrelay._core.limits import Gate, Rule
from fastrelay._core.table import Table
table = Table(sys.argv[1])
gate = Gate([Rule(table, b"rate:0", 1, 1000, slot=1), Rule(table, b"rate:1", 1, 1000, slot=1)])
print("go", flush=True)
now = 10**12
while True:
    now += 1
    gate.permit(1, now, False)
"""


def gates(folder: Path) -> None:
    table = Table.create(folder / "table", slots=8, boot_id="bench", now_ns=0)
    print("ns a permit from Python           granted   contended   denied   a look   plain Python")
    for number in (1, 4, 8):
        rules = [rule(table, kind, n) for n, kind in enumerate(KINDS[:number])]
        gate = Gate(rules)
        denied = Gate([*rules[: number - 1], rule(table, "fixed", 0, denies=True)])
        denied.permit(1, 10**12, False)
        granted = per_call(permits(gate))
        other = subprocess.Popen([sys.executable, "-c", OTHER, table.path], stdout=subprocess.PIPE)
        try:
            assert other.stdout is not None
            other.stdout.readline()
            contended = per_call(permits(gate))
        finally:
            other.kill()
            other.communicate()
        plain = per_call(permits(PlainGate([PlainBucket(1, 1000) for _ in range(number)])))
        print(f"  {number} {'rule ' if number == 1 else 'rules'}                        {granted:8.0f}", end="")
        print(f"{contended:12.0f}{per_call(permits(denied, False)):9.0f}{per_call(looks(gate)):9.0f}{plain:15.0f}")
    print(f"  nothing (a call of three arguments) {per_call(nothing):4.0f}")


def waiting(folder: Path, sites: int) -> None:
    """Sites that all wait for one rule; every permit wakes one, which takes it and waits again."""
    table = Table.create(folder / f"table.{sites}", slots=8, boot_id="bench", now_ns=0)
    one = Rule(table, b"rate:relay", 1000, 64)
    gate, line = Gate([one]), Waiting()
    names = [object() for _ in range(sites)]
    begun = time.thread_time_ns()
    for name in names:
        line.wait(one, name, SECOND)
    into = (time.thread_time_ns() - begun) / sites
    now, woken = SECOND, 0
    begun = time.thread_time_ns()
    while woken < 100_000:
        for name in line.due(now):
            woken += gate.permit(1, now, False)
            line.wait(one, name, now)
        now = max(now + 16_000, line.next_ns())
    turn = (time.thread_time_ns() - begun) / woken
    begun = time.thread_time_ns()
    for name in names:
        line.forget(name)
    print(
        f"  {sites:6,} sites, one rule: into line {into:4.0f}, woken + permit + into line again {turn:4.0f}, ", end=""
    )
    print(f"out of line {(time.thread_time_ns() - begun) / sites:4.0f}")


def many_rules(folder: Path, rules: int) -> None:
    """As many rules as sites: each has a time of its own."""
    table = Table.create(folder / "table.many", slots=8, boot_id="bench", now_ns=0)
    line = Waiting()
    made = [Rule(table, b"rate:%d" % n, SECOND, 1) for n in range(rules)]
    begun = time.thread_time_ns()
    for n, one in enumerate(made):
        line.wait(one, n, SECOND + (n * 7919) % rules)
    into = (time.thread_time_ns() - begun) / rules
    begun = time.thread_time_ns()
    woken = 0
    while woken < rules:
        woken += len(line.due(line.next_ns()))
    print(
        f"  {rules:6,} sites, a rule each: into line {into:4.0f}, woken {(time.thread_time_ns() - begun) / rules:4.0f}"
    )


def plain_waiting(sites: int) -> None:
    """A deque of one rule."""
    line: deque[int] = deque(range(sites))
    bucket, now, woken = PlainBucket(1000, 64), SECOND, 0
    begun = time.thread_time_ns()
    while woken < 100_000:
        while line and bucket.take(now, 1) > 0:
            line.append(line.popleft())
            woken += 1
        now += 16_000
    print(f"  plain Python, a deque of one rule: {(time.thread_time_ns() - begun) / woken:.0f}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gates(folder)
        print("ns a site from Python")
        for sites in (100, SITES, 100_000):
            waiting(folder, sites)
        many_rules(folder, SITES)
        plain_waiting(SITES)


if __name__ == "__main__":
    main()
