"""Rates of the shared table beyond a plain take: as many as there are, rules that change or are recorded, giving back
late, demand for units."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrelay._core.table import Table

SECOND = 10**9
FOREVER = 2**63 - 1
Make = Callable[..., Table]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(**changes: object) -> Table:
        return Table.create(
            tmp_path / "table", **{"slots": 3, "boot_id": "boot-1", "now_ns": 0, "capacity": 128, **changes}
        )

    return make


# --- as many as there are ---


def test_as_many_as_there_are_then_the_wait_for_one(make: Make) -> None:
    table, cell = make(), 40
    assert table.take_up_to(cell, SECOND, 3, SECOND, 5) == 3
    assert table.look(cell, SECOND, SECOND, 5) == 2
    assert table.take_up_to(cell, SECOND, 100, SECOND, 5) == 2
    assert table.take_up_to(cell, SECOND, 100, SECOND, 5) == -SECOND
    assert table.look(cell, SECOND + 1, SECOND, 5) == 1 - SECOND
    assert table.take_up_to(cell, 3 * SECOND, 100, SECOND, 5) == 2


def test_a_look_takes_and_records_nothing(make: Make) -> None:
    table, cell = make(), 40
    assert [table.look(cell, SECOND, SECOND, 5) for _ in range(3)] == [5] * 3
    assert table.take_up_to(cell, SECOND, 5, SECOND, 5) == 5
    assert table.look(cell, SECOND, 1, 7) == 2  # under another rule as much is owed
    assert table.look(cell, SECOND, 10 * SECOND, 5) == -10 * SECOND
    assert table.take_up_to(cell, SECOND, 5, SECOND, 5) == -SECOND


def test_nothing_is_given_where_nothing_is(make: Make) -> None:
    table = make()
    assert table.take_up_to(128, SECOND, 1, 1, 1) == -FOREVER
    assert table.take_recorded(128, SECOND, 1) == -FOREVER
    assert table.look(128, SECOND, 1, 1) == -FOREVER
    assert table.take_up_to(40, SECOND, 0, 1, 1) == -FOREVER
    assert table.rate_of(128) == (0, 0)
    table.set_rate(128, 1, 1)
    table.give_back_late(128, 1, 0, 1)
    table.want(128, 0, SECOND, SECOND)
    table.want(40, 3, SECOND, SECOND)
    assert not table.others_want(128, 0, SECOND)


# --- a rule that changes ---


def test_units_stay_owed_under_a_slower_rule(make: Make) -> None:
    """Ten in one instant under the old rule are ten owed under the new one, not one."""
    table, cell = make(), 40
    assert table.take_up_to(cell, SECOND, 10, SECOND, 10) == 10
    assert table.take_up_to(cell, SECOND, 10, 10 * SECOND, 10) == -10 * SECOND
    assert table.take_up_to(cell, 11 * SECOND, 10, 10 * SECOND, 10) == 1


def test_a_faster_rule_is_no_gift(make: Make) -> None:
    table, cell = make(), 40
    assert table.take_up_to(cell, SECOND, 4, 10 * SECOND, 10) == 4
    assert table.take_up_to(cell, SECOND, 10, SECOND, 10) == 6
    assert table.take_up_to(cell, SECOND, 10, SECOND, 10) == -SECOND
    assert table.take_up_to(cell, 4 * SECOND, 10, SECOND, 10) == 3
    assert table.take_up_to(cell, 4 * SECOND, 10, SECOND, 4) == -7 * SECOND  # ten owed, and four may be


def test_a_worker_that_has_not_reloaded_goes_by_the_stricter_rule(make: Make, tmp_path: Path) -> None:
    new, old, cell = make(), Table(tmp_path / "table"), 40
    assert old.take_up_to(cell, SECOND, 1, SECOND, 10) == 1
    new.reloading = True
    assert new.take_up_to(cell, SECOND, 1, 60 * SECOND, 3) == 1
    assert old.take_up_to(cell, SECOND, 10, SECOND, 10) == 1
    assert old.take_up_to(cell, SECOND, 10, SECOND, 10) == -60 * SECOND
    assert old.acquire(cell, 0, 5)
    assert new.acquire(cell, 1, 2)
    assert not old.acquire(cell, 0, 5)


@given(
    st.lists(
        st.tuples(st.integers(0, 5 * SECOND), st.integers(1, 3 * SECOND), st.integers(1, 20), st.integers(1, 30)),
        min_size=2,
        max_size=30,
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_window_over_changes_admits_more(steps: list[tuple[int, int, int, int]]) -> None:
    """(pause, emission, burst, most): in every window at most what each rule lets flow in its time, and the larger
    burst of those that held."""
    path = f"/dev/shm/test_table_rates.{os.getpid()}"
    now, taken = SECOND, []
    rules: list[tuple[int, int, int]] = []
    try:
        table = Table.create(path, slots=1, boot_id="b", now_ns=0, capacity=8)
        for pause, emission, burst, most in steps:
            now += pause
            rules.append((now, emission, burst))
            got = table.take_up_to(1, now, most, emission, burst)
            assert got != 0
            if got > 0:
                taken.append((now, got))
    finally:
        os.unlink(path)
    for first in range(len(taken)):
        used = 0
        for at, n in taken[first:]:
            used += n
            start = taken[first][0]
            flowed, bursts = 0.0, 0
            for k, (since, emission, burst) in enumerate(rules):
                until = rules[k + 1][0] if k + 1 < len(rules) else now
                low, high = max(since, start), min(until, at)
                if high >= low:
                    flowed += (high - low) / emission
                    bursts = max(bursts, burst)
                elif since <= start <= until:
                    bursts = max(bursts, burst)
            assert used <= flowed + bursts + 1e-6


# --- giving back ---


def test_what_flowed_in_meanwhile_does_not_come_back(make: Make) -> None:
    """Ten taken at 0 and given back at 5 s: with them untaken, the bucket would have been full all the time, so only
    what is still owed of them returns."""
    table, cell = make(), 40
    assert table.take_up_to(cell, SECOND, 10, SECOND, 10) == 10
    assert table.take_up_to(cell, 6 * SECOND, 10, SECOND, 10) == 5
    table.give_back_late(cell, 10, SECOND, 6 * SECOND)
    assert table.take_up_to(cell, 6 * SECOND, 10, SECOND, 10) == 5
    table.give_back_late(cell, 3, 6 * SECOND, 60 * SECOND)
    assert table.take_up_to(cell, 60 * SECOND, 100, SECOND, 10) == 10
    table.give_back_late(cell, 3, 60 * SECOND, 59 * SECOND)  # from the future: no
    assert table.take_up_to(cell, 60 * SECOND, 100, SECOND, 10) == -SECOND


# --- recorded rules ---


def test_a_rule_that_the_governor_records(make: Make, tmp_path: Path) -> None:
    governor, table = make(), Table(tmp_path / "table")
    cell = table.cell(b"adaptive:a:google")
    assert table.take_recorded(cell, SECOND, 50) == 50
    assert table.take_recorded(cell, SECOND, 50, True) == -SECOND
    governor.set_rate(cell, SECOND, 5)
    assert table.rate_of(cell) == (SECOND, 5)
    assert table.take_recorded(cell, SECOND, 50) == 5
    assert table.take_recorded(cell, SECOND, 50) == -SECOND
    governor.set_rate(cell, 0, 0)
    assert table.rate_of(cell) == (0, 0)
    assert table.take_recorded(cell, SECOND, 50) == 50


def test_recorded_rules_last_over_a_restart_and_not_over_a_boot(make: Make) -> None:
    table = make()
    cell = table.cell(b"adaptive:a:google")
    table.set_rate(cell, 60 * SECOND, 5)
    table.set_rate(table.cell(b"adaptive:a:gone"), SECOND, 5)
    table.set_rate(table.cell(b"adaptive:a:gone"), 0, 0)
    again = make(capacity=256, now_ns=SECOND)
    assert again.cells == 1
    assert again.rate_of(again.cell(b"adaptive:a:google")) == (60 * SECOND, 5)
    boot = make(boot_id="boot-2", now_ns=SECOND)
    assert boot.rate_of(boot.cell(b"adaptive:a:google")) == (0, 0)


def test_names_that_share_a_cell_have_the_slowest_rule(make: Make) -> None:
    table = make()
    shared = 3
    assert shared < table.shared
    table.set_rate(shared, 10 * SECOND, 5)
    table.set_rate(shared, SECOND, 5)
    assert table.rate_of(shared)[0] == 10 * SECOND
    assert make(now_ns=1).rate_of(shared)[0] == 10 * SECOND
    other = make(now_ns=1, capacity=256)
    assert {other.rate_of(cell)[0] for cell in range(other.shared)} == {10 * SECOND}


# --- demand for units ---


def test_who_waits_with_transactional_mail_is_seen_by_the_others(make: Make) -> None:
    table, cell, now = make(), 40, 5 * SECOND
    assert not table.others_want(cell, 0, now)
    table.want(cell, 1, now, SECOND)
    assert table.others_want(cell, 0, now)
    assert table.others_want(cell, 0, now + SECOND)
    assert not table.others_want(cell, 1, now)
    assert not table.others_want(cell, 0, now + 2 * SECOND)  # it may have lost interest: nobody waits for ever
    table.want(cell, 1, now, 0)
    assert not table.others_want(cell, 0, now)


def test_a_want_of_long_ago_does_not_come_back(make: Make) -> None:
    """The published time wraps round after 26 days."""
    table, cell = make(), 40
    table.want(cell, 1, SECOND, 10**6 * SECOND)
    assert table.others_want(cell, 0, 60 * SECOND)
    for day in range(1, 26):
        assert not table.others_want(cell, 0, day * 86400 * SECOND)


def test_a_dead_worker_wants_nothing(make: Make) -> None:
    table = make()
    cell = table.cell(b"rate:relay")
    table.want(cell, 1, SECOND, SECOND)
    table.clear_slot(1)
    assert not table.others_want(cell, 0, SECOND)
