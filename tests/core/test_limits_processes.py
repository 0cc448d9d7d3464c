"""Several real processes on one table, one of them killed with -9: no rate and no cap is exceeded.

Each process writes what it was given, with the boot time it had passed in and the period of the cap. A killed one has
written less than it was given, never more.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastrelay._core.table import Table

Start = Callable[[str, int, Path], subprocess.Popen[str]]

RATES = [(50_000, 100), (333_333, 7), (100_000, 1)]  # ns a unit, burst
CAP = 3_000
CAP_NAME = b"cap:a:google"
PROCESSES = 3
WAIT_SECONDS = 120  # only a test that fails waits so long

TAKER = """
import os, random, sys, time
from fastrelay._core.limits import Gate, Rule
from fastrelay._core.table import Table
path, slot, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
table, choose = Table(path), random.Random(slot)
rates = [Rule(table, b"rate:%d" % n, *rule, slot=slot) for n, rule in enumerate(RATES)]
cap = Rule(table, CAP_NAME, kind="cap", slot=slot)
gates = [Gate(rates), Gate(rates[:1]), Gate([rates[1], cap]), Gate([cap, *rates[::2]])]
log = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print("go", flush=True)
lines, last = [], time.monotonic()
while True:
    which = choose.randrange(4)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    got = gates[which].permit(choose.choice((1, 2, 9)), now, slot == 1)
    if got and choose.random() < 0.1:
        gates[which].unused(1)
        got -= 1
    if got:
        lines.append(f"{now} {which} {got} {cap.period}\\n")
    if len(lines) >= 16 or (lines and time.monotonic() - last > 0.05):
        os.write(log, "".join(lines).encode())
        lines.clear()
        last = time.monotonic()
"""
TAKER = TAKER.replace("RATES", repr(RATES)).replace("CAP_NAME", repr(CAP_NAME))
USES = [(0, 1, 2), (0,), (1, "cap"), ("cap", 0, 2)]  # which rules each gate has


@pytest.fixture
def start() -> Iterator[Start]:
    started = []

    def start(path: str, slot: int, out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TAKER, path, str(slot), str(out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def read(paths: list[Path]) -> list[tuple[int, int, int, int]]:
    """(boot time, gate, units, period of the cap), in order of time. A last line that was cut is left out."""
    lines = [line for path in paths for line in path.read_text().split("\n")[:-1]]
    return sorted(tuple(int(word) for word in line.split()) for line in lines)  # type: ignore[misc]


def most_over(grants: list[tuple[int, int]], emission: int, burst: int) -> int:
    """By how many ns the worst window is over rate × window + burst; 0 where none is."""
    tat, over = 0, 0
    for at, n in grants:
        tat = max(tat, at) + n * emission
        over = max(over, tat - at - burst * emission)
    return over


def check(found: list[tuple[int, int, int, int]], caps: dict[int, int]) -> None:
    for number, (emission, burst) in enumerate(RATES):
        grants = [(at, n) for at, gate, n, _ in found if number in USES[gate]]
        assert len(grants) > 20
        assert most_over(grants, emission, burst) == 0
    for period, cap in caps.items():
        used = sum(n for _, gate, n, of in found if "cap" in USES[gate] and of == period)
        assert used <= cap, period


def test_rates_and_caps_hold_over_processes_and_a_kill(tmp_path: Path, start: Start) -> None:
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    table = Table.create(tmp_path / "table", slots=PROCESSES, boot_id="b", now_ns=now, capacity=256)
    cell = table.cell(CAP_NAME)
    assert table.set_cap(cell, 1, CAP)
    logs = [tmp_path / f"log.{slot}" for slot in range(PROCESSES)]
    takers = [start(table.path, slot, logs[slot]) for slot in range(PROCESSES)]
    wait_for(lambda: all(path.exists() and path.stat().st_size > 500 for path in logs))
    takers[0].kill()
    assert takers[0].wait() == -signal.SIGKILL
    table.clear_slot(0)
    logs.append(tmp_path / "log.again")
    start(table.path, 0, logs[-1])
    wait_for(lambda: logs[-1].exists() and logs[-1].stat().st_size > 500)
    wait_for(lambda: table.cap_used(cell) == CAP)
    used = table.cap_used(cell)
    wait_for(lambda: min(path.stat().st_size for path in logs[1:]) > 2000)
    for taker in takers[1:]:
        taker.kill()
        taker.wait()
    found = read(logs)
    check(found, {1: CAP})
    # What the killed one held unused is lost, and what is in nobody's log yet: not much, and never gained.
    granted = sum(n for _, gate, n, _ in found if "cap" in USES[gate])
    assert used - granted <= (PROCESSES + 1) * (CAP // 100 + 16 * 9)


def test_caps_hold_while_periods_change(tmp_path: Path, start: Start) -> None:
    table = Table.create(tmp_path / "table", slots=PROCESSES, boot_id="b", now_ns=0, capacity=256)
    cell = table.cell(CAP_NAME)
    logs = [tmp_path / f"log.{slot}" for slot in range(PROCESSES)]
    for slot in range(PROCESSES):
        start(table.path, slot, logs[slot])
    caps = {}
    for period in range(1, 30):
        caps[period] = period * 7 % 60
        assert table.set_cap(cell, period, caps[period])
        wait_for(lambda enough=caps[period] * 2 // 3: table.cap_used(cell) >= enough)
    sizes = [path.stat().st_size for path in logs]
    wait_for(lambda: all(path.stat().st_size > size + 2000 for path, size in zip(logs, sizes, strict=True)))
    found = read(logs)
    check(found, caps)
    assert sum(n for _, gate, n, _ in found if "cap" in USES[gate]) > sum(caps.values()) // 3


def test_the_check_can_fail() -> None:
    assert most_over([(0, 3), (10, 1)], 10, 3) == 0
    assert most_over([(0, 3), (9, 1)], 10, 3) == 1
