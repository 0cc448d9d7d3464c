"""The shared table in one process: names, counts, shares, rates, and what lasts over a restart."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrelay._core.table import MAX_SLOTS, Table, TableError

SECOND = 10**9
FOREVER = 2**63 - 1
# No time decides a test, whatever else the host does.
ANY_TIME = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A table that is made at 0 allows bursts from the start: no other boot was before.
Make = Callable[..., Table]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table"


@pytest.fixture
def make(path: Path) -> Make:
    def make(**changes: object) -> Table:
        return Table.create(path, **{"slots": 3, "boot_id": "boot-1", "now_ns": 0, "capacity": 64, **changes})

    return make


# --- names ---


def test_a_name_has_one_cell_in_every_process(make: Make, path: Path) -> None:
    table, other = make(), Table(path)
    first = table.cell(b"conn:a:mx.example")
    assert other.cell(b"conn:a:mx.example") == first >= table.shared
    assert other.cell(b"conn:b:mx.example") == table.cell(b"conn:b:mx.example") == first + 1
    assert table.cells == other.cells == 2


def test_names_beyond_the_capacity_share_cells(make: Make, path: Path) -> None:
    table = make(capacity=32)
    assert table.shared == 4
    cells = [table.cell(b"%d" % number) for number in range(100)]
    assert cells[:28] == list(range(4, 32))
    assert set(cells[28:]) == {0, 1, 2, 3}
    assert table.cells == 28
    assert [Table(path).cell(b"%d" % number) for number in range(100)] == cells
    assert table.overflows == 144
    assert table.acquire(0, 0, 1)
    assert not table.acquire(0, 1, 1)


def test_a_full_size_table_keeps_all_names_apart(path: Path) -> None:
    table = Table.create(path, slots=2, boot_id="b", now_ns=0)
    cells = {table.cell(b"conn:s%d:mx%d.example" % (number % 250, number)) for number in range(100_000)}
    assert len(cells) == 100_000
    assert 0 not in cells


# --- connection counts ---


def test_all_slots_together_stay_within_the_limit(make: Make) -> None:
    table = make()
    assert [table.acquire(1, slot, 4) for slot in (0, 1, 2, 0, 1)] == [True, True, True, True, False]
    assert table.used(1) == 4
    assert [table.held(1, slot) for slot in range(3)] == [2, 1, 1]
    table.release(1, 0)
    assert table.acquire(1, 2, 4)
    assert not table.acquire(1, 0, 4)


def test_releasing_more_than_held_does_not_make_room(make: Make) -> None:
    table = make()
    assert table.acquire(1, 0, 1)
    table.release(1, 1)
    table.release(1, 1)
    assert not table.acquire(1, 1, 1)


def test_a_dead_worker_loses_what_it_held(make: Make) -> None:
    table = make()
    for cell in (1, 2):
        table.cell(b"%d" % cell)
        assert table.acquire(cell, 0, 10)
        assert table.acquire(cell, 1, 10)
        table.demand(cell, 0, 5)
    table.clear_slot(0)
    assert [(table.used(cell), table.held(cell, 1), table.share(cell, 0, 9)) for cell in (1, 2)] == [(1, 1, 0)] * 2


def test_what_does_not_exist_is_refused(make: Make) -> None:
    """Promise 8: a limit that cannot be read is no leave to go on."""
    table = make()
    assert not table.acquire(64, 0, 10)
    assert not table.acquire(1, 3, 10)
    assert table.take(64, SECOND, 1, 1, 1) == FOREVER
    assert table.share(64, 0, 5) == 0
    assert table.used(64) == table.held(1, 99) == 0
    table.release(99, 0)
    table.demand(1, 99, 4)
    table.give_back(99, 1)
    table.clear_slot(99)


def test_during_a_reload_the_stricter_limit_holds(make: Make) -> None:
    table = make()
    assert table.acquire(1, 0, 2)
    table.reloading = True
    assert table.acquire(1, 1, 5)
    assert not table.acquire(1, 1, 5)  # some worker still goes by 2
    table.reloading = False
    assert table.acquire(1, 1, 5)
    table.reloading = True
    assert not table.acquire(1, 1, 3)


# --- shares ---


def shares(table: Table, demands: list[int], limit: int, cell: int = 1) -> list[int]:
    for slot, n in enumerate(demands):
        table.demand(cell, slot, n)
    return [table.share(cell, slot, limit) for slot in range(len(demands))]


@pytest.mark.parametrize(
    ("demands", "limit", "expected"),
    [
        ([0, 0, 0], 10, [0, 0, 0]),
        ([5, 0, 0], 10, [5, 0, 0]),
        ([50, 0, 0], 10, [10, 0, 0]),
        ([50, 50, 0], 10, [5, 5, 0]),
        ([1, 50, 50], 11, [1, 5, 5]),
        ([2, 3, 50], 12, [2, 3, 7]),
        ([9, 9, 9], 2, [1, 1, 1]),
        ([-4, 9, 0], 2, [0, 2, 0]),
        ([5, 5, 5], 0, [1, 1, 1]),
    ],
)
def test_fair_shares(make: Make, demands: list[int], limit: int, expected: list[int]) -> None:
    assert shares(make(), demands, limit) == expected


@ANY_TIME
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 100), st.integers(0, 7))
def test_shares_are_max_min_fair(demands: list[int], limit: int, cell: int) -> None:
    path = f"/dev/shm/test_table.{os.getpid()}"
    try:
        found = shares(Table.create(path, slots=len(demands), boot_id="b", now_ns=0, capacity=8), demands, limit, cell)
    finally:
        os.unlink(path)
    hungry = sum(n > 0 for n in demands)
    for share, n in zip(found, demands, strict=True):
        assert share == 0 if n == 0 else 1 <= share <= n
    if limit >= hungry:
        assert sum(found) == min(limit, sum(demands))
        cut = [share for share, n in zip(found, demands, strict=True) if share < n]
        # Who was cut has as much as anybody else, but for the odd one.
        assert not cut or max(found) - min(cut) <= 1


# --- rates ---


class Bucket:
    """GCRA told as a bucket: `burst` units, one more for each emission."""

    def __init__(self, emission: int, burst: int) -> None:
        self.emission, self.burst = emission, burst
        self.debt = 0  # ns until it is full again
        self.at = 0

    def take(self, now: int, n: int) -> int:
        self.debt = max(0, self.debt - (now - self.at))
        self.at = now
        wait = self.debt + n * self.emission - self.burst * self.emission
        if wait > 0:
            return wait
        self.debt += n * self.emission
        return 0


@given(
    emission=st.integers(1, 10 * SECOND),
    burst=st.integers(1, 50),
    takes=st.lists(st.tuples(st.integers(0, 20 * SECOND), st.integers(1, 60)), max_size=60),
)
@settings(ANY_TIME, max_examples=200)
def test_rates_against_a_bucket(emission: int, burst: int, takes: list[tuple[int, int]]) -> None:
    path = f"/dev/shm/test_table.{os.getpid()}"
    try:
        table, bucket, now = Table.create(path, slots=1, boot_id="b", now_ns=0, capacity=8), Bucket(emission, burst), 1
        for pause, n in takes:
            now += pause
            expected = -1 if n > burst else bucket.take(now, n)
            assert table.take(1, now, n, emission, burst) == expected
            if expected > 0:
                assert table.take(1, now + expected - 1, n, emission, burst) == 1
    finally:
        os.unlink(path)


def test_the_wait_is_exact(make: Make) -> None:
    table = make()
    assert [table.take(1, 5 * SECOND, 1, SECOND, 2) for _ in range(3)] == [0, 0, SECOND]
    assert table.take(1, 6 * SECOND - 1, 1, SECOND, 2) == 1
    assert table.take(1, 6 * SECOND, 1, SECOND, 2) == 0


def test_units_that_were_not_used_are_given_back(make: Make) -> None:
    table = make()
    assert table.take(1, SECOND, 5, SECOND, 5) == 0
    table.give_back(1, 2)
    assert table.take(1, SECOND, 3, SECOND, 5) == SECOND
    assert table.take(1, SECOND, 2, SECOND, 5) == 0


def test_more_than_the_burst_is_never_given(make: Make) -> None:
    assert make().take(1, SECOND, 6, SECOND, 5) == -1


def test_huge_rules_do_not_wrap_round(make: Make) -> None:
    table = make()
    day = 86400 * SECOND
    assert table.take(1, SECOND, 1, day * 1000, 2**40) == 0
    assert table.take(1, SECOND, 2**31 - 1, day * 1000, 2**40) >= 0
    assert table.take(1, SECOND, 1, day, 1) > 0


def test_a_rule_that_grew_laxer_is_not_waited_out(make: Make) -> None:
    """A mistaken rate of one a day is mended by a reload: the one unit stays owed, at the new price."""
    table = make()
    assert table.take(40, SECOND, 1, 86400 * SECOND, 1) == 0
    assert table.take(40, SECOND, 10, SECOND, 10) == SECOND
    assert table.take(40, SECOND, 9, SECOND, 10) == 0


def test_a_fast_name_that_shares_a_cell_waives_nothing_of_a_slow_one(make: Make) -> None:
    table = make()
    assert table.take(1, SECOND, 1, 86400 * SECOND, 1) == 0
    assert table.take(1, SECOND, 1, SECOND, 10) > 80000 * SECOND
    assert table.take(1, SECOND, 1, 86400 * SECOND, 1) >= 86400 * SECOND


def test_during_a_reload_the_stricter_rule_holds(make: Make) -> None:
    table, cell = make(), 40
    assert table.take(cell, SECOND, 1, SECOND, 2) == 0
    table.reloading = True
    assert table.take(cell, SECOND, 1, 1, 1000) == 0
    assert table.take(cell, SECOND, 1, 1, 1000) == SECOND
    assert table.take(cell, SECOND, 3, 1, 1000) == -1
    assert table.take(cell, SECOND, 1, 10 * SECOND, 1) == 20 * SECOND
    assert table.take(cell, SECOND, 1, 1, 1000) == 20 * SECOND
    table.reloading = False
    assert table.take(cell, SECOND, 999, 1, 1000) == 1
    assert table.take(cell, SECOND, 998, 1, 1000) == 0


# --- restarts ---


def test_rates_last_over_a_restart_and_counts_do_not(make: Make) -> None:
    table = make()
    busy, idle = table.cell(b"busy"), table.cell(b"idle")
    assert table.acquire(busy, 0, 5)
    assert table.take(busy, 5 * SECOND, 4, SECOND, 4) == 0
    assert table.take(idle, SECOND, 1, SECOND, 4) == 0
    again = make(slots=5, capacity=100, now_ns=6 * SECOND)
    assert (again.slots, again.capacity) == (5, 100)
    assert again.cells == 1  # the idle one was full again and is forgotten
    assert again.used(again.cell(b"busy")) == 0
    assert again.take(again.cell(b"busy"), 6 * SECOND, 2, SECOND, 4) == SECOND
    assert again.take(again.cell(b"busy"), 6 * SECOND, 1, SECOND, 4) == 0
    assert again.take(again.cell(b"idle"), 6 * SECOND, 4, SECOND, 4) == 0


def test_shared_cells_last_too(make: Make) -> None:
    assert make().take(5, SECOND, 4, SECOND, 4) == 0
    again = make(now_ns=SECOND)
    assert again.take(5, SECOND, 1, SECOND, 4) == SECOND
    assert again.take(4, SECOND, 4, SECOND, 4) == 0
    # In a table of another size their names lie elsewhere: the strictest holds for all of them.
    other = make(now_ns=SECOND, capacity=100)
    assert [other.take(cell, SECOND, 1, SECOND, 4) for cell in range(other.shared)] == [SECOND] * 12
    assert other.take(other.shared, SECOND, 4, SECOND, 4) == 0


def test_after_another_boot_there_is_no_burst(make: Make) -> None:
    make().take(1, 1000 * SECOND, 1, SECOND, 4)
    table = make(boot_id="boot-2", now_ns=50 * SECOND)
    assert table.take(1, 50 * SECOND, 1, SECOND, 4) == SECOND
    assert table.take(1, 51 * SECOND, 1, SECOND, 4) == 0
    assert table.take(1, 51 * SECOND, 1, SECOND, 4) == SECOND
    assert table.take(2, 54 * SECOND, 4, SECOND, 4) == 0
    # and so it stays over a restart in that boot
    assert make(boot_id="boot-2", now_ns=52 * SECOND).take(3, 52 * SECOND, 4, SECOND, 4) == 2 * SECOND


def test_a_lost_table_gives_no_burst(make: Make, path: Path) -> None:
    make()
    path.unlink()
    assert make(now_ns=9 * SECOND).take(1, 9 * SECOND, 1, SECOND, 4) == SECOND


def test_the_first_table_of_a_state_directory_gives_bursts_and_a_lost_one_does_not(make: Make, path: Path) -> None:
    table = make(now_ns=50 * SECOND, first=True)
    assert table.take(table.cell(b"rate:a"), 50 * SECOND, 5, SECOND, 5) == 0
    path.write_bytes(b"damaged")
    table = make(now_ns=100 * SECOND, first=True)
    assert table.take(table.cell(b"rate:a"), 100 * SECOND, 1, SECOND, 5) > 0


@pytest.mark.parametrize("keep", [0, 100, 4095, 4096, 5000])
def test_a_cut_table_is_refused_and_made_anew_without_burst(make: Make, path: Path, keep: int) -> None:
    make()
    os.truncate(path, keep)
    with pytest.raises(TableError, match="table"):
        Table(path)
    assert make(now_ns=9 * SECOND).take(1, 9 * SECOND, 1, SECOND, 4) == SECOND


@ANY_TIME
@given(st.binary(min_size=1, max_size=200), st.integers(0, 8000))
def test_random_damage_never_crashes(junk: bytes, at: int) -> None:
    path = f"/dev/shm/test_table_damage.{os.getpid()}"
    try:
        table = Table.create(path, slots=2, boot_id="b", now_ns=0, capacity=64)
        for number in range(20):
            table.take(table.cell(b"%d" % number), SECOND, 1, SECOND, 2)
        table.set_cap(table.cell(b"cap:a"), 1, 10)
        table.set_rate(table.cell(b"adaptive:a"), SECOND, 10)
        with open(path, "r+b") as file:
            size = file.seek(0, 2)
            file.seek(at)
            file.write(junk[: max(0, size - at)])
        for number in range(40):
            cell = table.cell(b"%d" % number)
            assert 0 <= cell < 64
            table.acquire(cell, 0, 10)
            table.take(cell, 2 * SECOND, 1, SECOND, 2)
            table.share(cell, 0, 10)
            table.take_up_to(cell, 2 * SECOND, 5, 2 * SECOND, 2)
            table.look(cell, 2 * SECOND, SECOND, 2)
            table.give_back_late(cell, 1, SECOND, 2 * SECOND)
            table.take_recorded(cell, 2 * SECOND, 5)
            table.others_want(cell, 0, SECOND)
            granted, period = table.cap_claim(cell, 5)
            table.cap_return(cell, period, granted)
            assert 0 <= granted <= 5
            table.set_cap(cell, 2, 10)
        Table.create(path, slots=3, boot_id="b", now_ns=SECOND, capacity=64)
    finally:
        os.unlink(path)


def test_a_table_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=os.strerror(errno.ENOENT)):
        Table.create(tmp_path / "no" / "table", slots=1, boot_id="b", now_ns=0)
    with pytest.raises(ValueError, match="out of range"):
        Table.create(tmp_path / "table", slots=MAX_SLOTS + 1, boot_id="b", now_ns=0)
