"""The shared table under several processes, one of which is killed with -9: limits hold, nothing leaks, all agree.

Each process writes when it certainly held a permit (from after acquire to before release, in CLOCK_MONOTONIC ns, which
all processes share). The sweep over all these spans must never find more than the limit.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastrelay._core.table import Table

Start = Callable[..., subprocess.Popen[str]]

PROCESSES = 4
LIMIT = 2

HOLDER = """
import os, random, sys, time
from fastrelay._core.table import Table
path, slot, seed, rounds, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
table, random_ = Table(path), random.Random(seed * 100 + slot)
cells = [table.cell(b"conn:%d" % n) for n in range(2)]
log = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
held, lines = [], []
def note(line):
    lines.append(line)
    if len(lines) >= 32:
        os.write(log, "".join(lines).encode()); lines.clear()
print("go", flush=True)
sys.stdin.readline()
for _ in range(rounds):
    if held and random_.random() < 0.9:
        cell = held.pop(random_.randrange(len(held)))
        note(f"- {cell} {time.monotonic_ns()}\\n")
        table.release(cell, slot)
    else:
        cell = random_.choice(cells)
        if table.acquire(cell, slot, LIMIT):
            note(f"+ {cell} {time.monotonic_ns()}\\n")
            held.append(cell)
for cell in held:
    note(f"- {cell} {time.monotonic_ns()}\\n")
    table.release(cell, slot)
os.write(log, "".join(lines).encode())
""".replace("LIMIT", str(LIMIT))


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that are ready to go and wait for `release`; none is left at the end."""
    started = []

    def start(code: str, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *[str(word) for word in words]]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def release(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def spans(path: Path) -> list[tuple[int, int, int]]:
    """(time, +1 or -1, cell). What a killed process had not written is only missing from the end, in whole blocks."""
    found = []
    for line in path.read_text().splitlines():
        sign, cell, at = line.split()
        found.append((int(at), 1 if sign == "+" else -1, int(cell)))
    return found


def close_open_spans(found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """A killed process's permits end, for certain knowledge, with the last thing it wrote."""
    if not found:
        return found
    last = found[-1][0]
    open_: dict[int, int] = {}
    for _, step, cell in found:
        open_[cell] = open_.get(cell, 0) + step
    return found + [(last, -1, cell) for cell, n in open_.items() for _ in range(n)]


def most_at_once(found: list[tuple[int, int, int]], cell: int) -> int:
    held = most = 0
    for _, step, _ in sorted(event for event in found if event[2] == cell):  # at one instant: ends before beginnings
        held += step
        most = max(most, held)
    return most


@pytest.mark.parametrize("seed", range(3))
def test_connection_limits_hold_and_nothing_leaks(tmp_path: Path, start: Start, seed: int) -> None:
    table = Table.create(tmp_path / "table", slots=PROCESSES, boot_id="b", now_ns=0, capacity=64)
    rounds = [10**9, *[60_000] * (PROCESSES - 1)]
    holders = [
        start(HOLDER, table.path, slot, seed, rounds[slot], tmp_path / f"log.{slot}") for slot in range(PROCESSES)
    ]
    release(holders)
    # One dies by kill -9 when it has surely held something; its slot is cleared and filled again, as is done at work.
    while not (tmp_path / "log.0").stat().st_size:
        pass
    holders[0].kill()
    assert holders[0].wait() == -signal.SIGKILL
    table.clear_slot(0)
    cells = [table.cell(b"conn:0"), table.cell(b"conn:1")]
    assert [table.held(cell, 0) for cell in cells] == [0, 0]
    holders[0] = start(HOLDER, table.path, 0, seed + 7, 60_000, tmp_path / "log.again")
    release(holders[:1])
    for holder in holders:
        assert holder.wait() == 0
    found = [event for path in sorted(tmp_path.glob("log.*")) for event in close_open_spans(spans(path))]
    for cell in cells:
        assert table.used(cell) == 0
        assert 1 <= most_at_once(found, cell) <= LIMIT


TAKER = """
import sys, time
from fastrelay._core.table import Table
table, taken, n = Table(sys.argv[1]), 0, int(sys.argv[2])
cell = table.cell(b"rate")
print("go", flush=True)
sys.stdin.readline()
for _ in range(60_000):
    if table.take(cell, time.clock_gettime_ns(time.CLOCK_BOOTTIME), n, 20_000, 50) == 0:
        taken += n
print(taken)
"""


def test_a_rate_holds_over_all_processes(tmp_path: Path, start: Start) -> None:
    """In any length of time at most burst + time ÷ emission units are given out."""
    table = Table.create(tmp_path / "table", slots=PROCESSES, boot_id="b", now_ns=0, capacity=64)
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    takers = [start(TAKER, table.path, 1 + n) for n in range(PROCESSES)]
    release(takers)
    taken = 0
    for taker in takers:
        taken += int(taker.communicate()[0])
        assert taker.returncode == 0
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert 50 < taken <= 50 + (ended - began) // 20_000


NAMER = """
import json, random, sys
from fastrelay._core.table import Table
table, names = Table(sys.argv[1]), list(range(3000))
random.Random(int(sys.argv[2])).shuffle(names)
print("go", flush=True)
sys.stdin.readline()
print(json.dumps({name: table.cell(b"name %d" % name) for name in names}))
"""


def test_all_processes_agree_on_the_cells_of_names(tmp_path: Path, start: Start) -> None:
    """Also of those that did not fit, and although one process is killed on its way."""
    table = Table.create(tmp_path / "table", slots=PROCESSES, boot_id="b", now_ns=0, capacity=2000)
    namers = [start(NAMER, table.path, seed) for seed in range(PROCESSES)]
    release(namers)
    namers[0].kill()
    namers[0].wait()
    answers = []
    for namer in namers[1:]:
        answers.append(json.loads(namer.communicate()[0]))
        assert namer.returncode == 0
    mine = {str(name): table.cell(b"name %d" % name) for name in range(3000)}
    assert all(answer == mine for answer in answers)
    own = [cell for cell in mine.values() if cell >= table.shared]
    assert len(set(own)) == len(own)
    # A number may be lost when two processes place the same name at once, never many.
    assert 1700 < len(own) <= 1750
