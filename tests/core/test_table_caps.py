"""Caps of a period in the shared table: claims, periods, restarts, and what is never granted."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrelay._core.table import Table

Make = Callable[..., Table]
NAME = b"cap:a:google"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(**changes: object) -> Table:
        return Table.create(
            tmp_path / "table", **{"slots": 3, "boot_id": "boot-1", "now_ns": 0, "capacity": 128, **changes}
        )

    return make


def test_claims_stop_at_the_cap(make: Make, tmp_path: Path) -> None:
    table, other = make(), Table(tmp_path / "table")
    cell = table.cell(NAME)
    assert table.cap_claim(cell, 5) == (0, 0)  # nothing was said yet: nothing is granted
    assert table.set_cap(cell, 7, 12)
    assert [table.cap_claim(cell, 5), other.cap_claim(cell, 5), table.cap_claim(cell, 5)] == [(5, 7), (5, 7), (2, 7)]
    assert table.cap_claim(cell, 5) == (0, 7)
    assert (other.cap_used(cell), other.cap_of(cell), other.cap_period(cell)) == (12, 12, 7)
    table.cap_return(cell, 7, 3)
    assert other.cap_claim(cell, 5) == (3, 7)
    assert table.cap_claim(cell, 0) == table.cap_claim(cell, -4) == (0, 0)


def test_a_new_period_begins_with_nothing_used_and_an_old_one_is_refused(make: Make) -> None:
    table = make()
    cell = table.cell(NAME)
    table.set_cap(cell, 7, 10)
    assert table.cap_claim(cell, 10) == (10, 7)
    assert table.set_cap(cell, 8, 20)
    table.cap_return(cell, 7, 10)  # of yesterday
    assert table.cap_used(cell) == 0
    assert table.cap_claim(cell, 15) == (15, 8)
    assert not table.set_cap(cell, 7, 1000)
    assert not table.set_used(cell, 7, 1)
    assert (table.cap_used(cell), table.cap_of(cell)) == (15, 20)


def test_between_two_periods_nothing_is_granted(make: Make) -> None:
    """The governor died after it began a period and before it said the cap of it."""
    table = make()
    cell = table.cell(NAME)
    table.set_cap(cell, 7, 10)
    assert table.set_used(cell, 8, 0)
    assert table.cap_claim(cell, 1) == (0, 8)
    assert (table.cap_used(cell), table.cap_of(cell)) == (0, 0)
    assert table.set_cap(cell, 8, 10)
    assert table.cap_claim(cell, 1) == (1, 8)


def test_a_cap_may_change_within_its_period(make: Make) -> None:
    table = make()
    cell = table.cell(NAME)
    table.set_cap(cell, 7, 10)
    table.cap_claim(cell, 8)
    table.set_cap(cell, 7, 5)
    assert table.cap_claim(cell, 1) == (0, 7)
    table.set_cap(cell, 7, 9)
    assert table.cap_claim(cell, 5) == (1, 7)
    table.set_cap(cell, 7, -3)
    assert table.cap_of(cell) == 0


def test_what_was_used_before_counts_at_least(make: Make) -> None:
    table = make(boot_id="boot-2")
    cell = table.cell(NAME)
    assert table.set_used(cell, 7, 8)
    assert table.set_used(cell, 7, 3)
    assert table.set_cap(cell, 7, 10)
    assert table.cap_claim(cell, 5) == (2, 7)
    assert table.set_used(cell, 7, 2**60)  # more than any cap
    assert table.cap_used(cell) == 10
    table.set_cap(cell, 7, 2**60)
    assert table.cap_claim(cell, 1) == (0, 7)


def test_caps_last_over_a_restart_and_not_over_a_boot(make: Make) -> None:
    table = make()
    for n in range(30):
        table.take(table.cell(b"rate:campaign:%d" % n), 10**9, 1, 10**15, 1)
    table.set_cap(table.cell(NAME), 7, 10)
    table.cap_claim(table.cell(NAME), 6)
    again = make(slots=5, capacity=40, now_ns=10**9)  # too small for all: caps come first
    cell = again.cell(NAME)
    assert (again.cap_used(cell), again.cap_of(cell), again.cap_period(cell)) == (6, 10, 7)
    boot = make(boot_id="boot-2")
    assert boot.cap_claim(boot.cell(NAME), 1) == (0, 0)


def test_names_of_clients_leave_room_for_caps(make: Make) -> None:
    table = make(capacity=640)
    for n in range(2000):
        table.cell(b"rate:campaign:%d" % n)
    cell = table.cell(NAME)
    assert cell >= table.shared
    assert table.cell(NAME) == cell
    assert table.set_cap(cell, 1, 5)
    assert table.cell(b"rate:one more") < table.shared


def test_a_shared_cell_grants_nothing_of_a_cap(make: Make) -> None:
    table = make()
    assert not table.set_cap(3, 7, 10)
    assert not table.set_used(3, 7, 10)
    assert table.cap_claim(3, 1) == (0, 0)
    table.cap_return(3, 7, 1)
    assert not table.set_cap(40, 0, 10)
    assert not table.set_cap(40, 1 << 20, 10)
    assert not table.set_cap(128, 1, 10)
    assert table.cap_claim(128, 1) == (0, 0)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("cap"), st.integers(1, 4), st.integers(0, 60)),
            st.tuples(st.just("claim"), st.integers(1, 20), st.just(0)),
            st.tuples(st.just("return"), st.integers(1, 20), st.just(0)),
            st.tuples(st.just("restart"), st.just(0), st.just(0)),
        ),
        max_size=60,
    )
)
def test_against_two_numbers(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "caps"
    table = Table.create(path, slots=2, boot_id="b", now_ns=0, capacity=64)
    cell = table.cell(b"cap:new")
    period = cap = used = 0
    held: list[tuple[int, int]] = []
    path.unlink()
    table = Table.create(path, slots=2, boot_id="b", now_ns=0, capacity=64)
    cell = table.cell(NAME)
    for what, n, other in steps:
        if what == "cap":
            assert table.set_cap(cell, n, other) == (n >= period)
            if n >= period:
                used = 0 if n > period else used
                period, cap = n, other
        elif what == "claim":
            expected = max(0, min(n, cap - used))
            assert table.cap_claim(cell, n) == (expected, period)
            used += expected
            held.append((period, expected))
        elif what == "return" and held:
            of, n = held.pop()
            table.cap_return(cell, of, n)
            used -= n if of == period else 0
        else:
            table = Table.create(path, slots=2, boot_id="b", now_ns=5, capacity=64)
            cell = table.cell(NAME)
        assert (table.cap_used(cell), table.cap_of(cell), table.cap_period(cell)) == (used, cap, period)
