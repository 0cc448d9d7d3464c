"""kill -9 at every step of reserving a block of a cap, and of a worker's end: never more than the cap, and little less.

Two things may happen next. The host goes on: the shared table still counts, and a new worker uses the rest. Or it goes
down too: a table of another boot is told what the spools have reserved.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.cap_child import NAME

from fastrelay._core.commit import STEPS
from fastrelay._core.lmdb import Environment
from fastrelay._core.table import Table
from fastrelay.limits.durable import EVERYTHING, RECORD, cap_name, reserved, restore

CHILD = Path(__file__).parents[1] / "support" / "cap_child.py"
CRASHED = 9
CAP = 400
UNUSED = CAP // 100  # what a worker may hold unused
ALL = 10**6


def make(path: Path, boot: str, state: Path, cap: int = CAP, period: int = 1) -> Table:
    """The table as a supervisor makes it at its start."""
    table = Table.create(path, slots=2, boot_id=boot, now_ns=1, capacity=64)
    if not table.cap_period(table.cell(NAME)):
        restore(table, reserved(str(state)), [("a", "google", period)])
    assert table.set_cap(table.cell(NAME), period, cap)
    return table


def run(
    state: Path, table: Path, step: str = "-", after: int = 0, units: int = ALL
) -> tuple[int, dict[int, int], bool]:
    """(exit code, units used by period, whether it ended well)"""
    (state / "spool").mkdir(parents=True, exist_ok=True)
    child = subprocess.run(
        [sys.executable, CHILD, state, table, step, str(after), str(units)],
        stdout=subprocess.PIPE,
        timeout=120,
        text=True,
    )
    used: dict[int, int] = {}
    for line in child.stdout.splitlines():
        if line.startswith("used "):
            _, period, n = line.split()
            used[int(period)] = used.get(int(period), 0) + int(n)
    return child.returncode, used, "closed" in child.stdout


def test_a_worker_that_is_not_killed_uses_all_of_it(tmp_path: Path) -> None:
    table = make(tmp_path / "table", "boot-1", tmp_path)
    assert run(tmp_path, tmp_path / "table") == (0, {1: CAP}, True)
    assert table.cap_used(table.cell(NAME)) == CAP
    assert reserved(str(tmp_path)) == {("a", "google"): (1, CAP)}


def test_the_rest_of_a_block_goes_back_at_a_good_end(tmp_path: Path) -> None:
    table = make(tmp_path / "table", "boot-1", tmp_path)
    assert run(tmp_path, tmp_path / "table", units=7) == (0, {1: 7}, True)
    assert table.cap_used(table.cell(NAME)) == 7
    assert reserved(str(tmp_path)) == {("a", "google"): (1, 7)}


@pytest.mark.parametrize(("step", "after"), [("commit", 0), ("committed", 0), *((step, 3) for step in STEPS[1:])])
def test_killed_at(step: str, after: int, tmp_path: Path) -> None:
    make(tmp_path / "table", "boot-1", tmp_path)
    code, first, _ = run(tmp_path, tmp_path / "table", step, after)
    assert code in (CRASHED, 0)  # 0: it passes there less often
    used = first.get(1, 0)
    found = reserved(str(tmp_path))
    assert not found.unreadable
    assert used <= found.used("a", "google", 1) <= used + UNUSED
    shutil.copytree(tmp_path / "spool", tmp_path / "later" / "spool")

    # The host goes on.
    again = make(tmp_path / "table", "boot-1", tmp_path)
    assert used <= again.cap_used(again.cell(NAME)) <= used + UNUSED
    code, second, closed = run(tmp_path, tmp_path / "table")
    assert (code, closed) == (0, True)
    assert CAP - UNUSED <= used + second.get(1, 0) <= CAP

    # The host went down.
    make(tmp_path / "table.later", "boot-2", tmp_path / "later")
    code, second, closed = run(tmp_path / "later", tmp_path / "table.later")
    assert (code, closed) == (0, True)
    assert CAP - UNUSED <= used + second.get(1, 0) <= CAP


def test_killed_again_and_again(tmp_path: Path) -> None:
    make(tmp_path / "table", "boot-0", tmp_path)
    used, kills = 0, 0
    for number, step in enumerate(("committed", "commit", "done", "put", "begin", "committed", "log_write", "done")):
        code, first, _ = run(tmp_path, tmp_path / "table", step, 5 + number)
        kills += code == CRASHED
        used += first.get(1, 0)
        assert used <= CAP
        boot = number // 2  # every other time the host goes down too
        make(tmp_path / "table", f"boot-{boot}", tmp_path)
    assert kills == 8
    used += run(tmp_path, tmp_path / "table")[1].get(1, 0)
    assert CAP - kills * UNUSED <= used <= CAP


def test_a_period_that_began_anew_counts_for_itself(tmp_path: Path) -> None:
    make(tmp_path / "table", "boot-1", tmp_path)
    run(tmp_path, tmp_path / "table", units=100)
    make(tmp_path / "table", "boot-1", tmp_path, period=2)
    assert run(tmp_path, tmp_path / "table", "done", 10)[0] == CRASHED
    found = reserved(str(tmp_path))
    assert 0 < found.used("a", "google", 2) < 100
    assert found.used("a", "google", 3) == 0
    assert found.used("a", "google", 1) == found.used("a", "google", 2)  # a clock set back: what is known counts
    table = make(tmp_path / "table", "boot-2", tmp_path, period=3)
    assert table.cap_used(table.cell(NAME)) == 0


# --- what the supervisor reads ---


def spool(state: Path, number: int, rows: dict[bytes, bytes]) -> Path:
    path = state / "spool" / f"w{number}"
    path.mkdir(parents=True)
    environment = Environment(str(path / "lmdb"), ("msg", "meta"))
    for name, octets in {b"tag": b"abcdef", b"state": b"", b"zz": b"", **rows}.items():
        environment.put("meta", name, octets)
    environment.close()
    return path


def test_the_sum_over_all_spools(tmp_path: Path) -> None:
    assert reserved(str(tmp_path)) == {}
    one, other = cap_name("a", "google"), cap_name("b", "*")
    spool(tmp_path, 0, {one: RECORD.pack(5, 10), other: RECORD.pack(9, 1)})
    spool(tmp_path, 1, {one: RECORD.pack(5, 32)})
    spool(tmp_path, 17, {one: RECORD.pack(4, 1000), other: RECORD.pack(10, 3)})  # of a worker that is no more
    found = reserved(str(tmp_path))
    assert found == {("a", "google"): (5, 42), ("b", "*"): (10, 3)}
    assert found.unreadable == []
    assert [found.used("a", "google", period) for period in (5, 6)] == [42, 0]
    assert found.used("c", "*", 1) == 0


def test_many_caps_are_read_to_the_end(tmp_path: Path) -> None:
    spool(tmp_path, 0, {cap_name(f"s{n}", "*"): RECORD.pack(1, n) for n in range(1500)})
    assert len(reserved(str(tmp_path))) == 1500


@pytest.mark.parametrize("how", ["junk", "gone", "folder", "record"])
def test_a_spool_that_cannot_be_read_may_have_used_everything(how: str, tmp_path: Path) -> None:
    spool(tmp_path, 0, {NAME: RECORD.pack(5, 10)})
    path = spool(tmp_path, 1, {NAME: RECORD.pack(5, 10)[: 7 if how == "record" else None]}) / "lmdb"
    if how == "junk":
        (path / "data.mdb").write_bytes(b"\xff" * 16384)
    elif how == "gone":
        (path / "data.mdb").unlink()
    elif how == "folder":
        shutil.rmtree(path.parent)
        path.parent.write_text("no folder")
    found = reserved(str(tmp_path))
    assert bool(found.unreadable) == (how != "record")
    assert found.used("a", "google", 5) == EVERYTHING
    table = make(tmp_path / "table", "boot-2", tmp_path, period=5)
    assert table.cap_claim(table.cell(NAME), 1) == (0, 5)


def test_a_spool_that_was_set_aside_counts_for_as_long_as_it_may_matter(tmp_path: Path) -> None:
    live = spool(tmp_path, 0, {NAME: RECORD.pack(5, 10)})
    aside = tmp_path / "spool" / "w1.damaged-20261123T010203Z"
    aside.mkdir()
    assert "set aside" in reserved(str(tmp_path)).unreadable[0]
    (live / "lmdb" / "data.mdb").touch()
    at = (live / "lmdb" / "data.mdb").stat().st_mtime - 49 * 3600
    os.utime(aside, (at, at))
    found = reserved(str(tmp_path))
    assert found.unreadable == []
    assert found.used("a", "google", 5) == 10
