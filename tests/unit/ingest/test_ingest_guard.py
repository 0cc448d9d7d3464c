"""Guessing is slowed by address, by user and by both; who was right before is not locked out by others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.ingest import guard as module
from fastrelay.ingest.guard import Guard, address_key

HERE, THERE = "192.0.2.1", "198.51.100.7"
WINDOW = 600.0


def guard(failures: int = 3) -> Guard:
    return Guard(failures, WINDOW, 2.0)


def fail(one: Guard, times: int, address: str = HERE, name: str = "shop", now: float = 0.0) -> None:
    for _ in range(times):
        one.failed(address, name, now)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
    ],
)
def test_what_is_one_address(address: str, key: str) -> None:
    assert address_key(address) == key


def test_nobody_waits_before_the_limit_and_the_delay_doubles_from_there() -> None:
    one = guard()
    fail(one, 2)
    assert one.wait(HERE, "shop", 0.0) == 0
    waits = []
    now = 0.0
    for _ in range(10):
        one.failed(HERE, "shop", now)
        waits.append(one.wait(HERE, "shop", now))
        now += waits[-1]
        assert one.wait(HERE, "shop", now) == 0
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 600]


def test_an_address_waits_whatever_name_it_tries_and_others_do_not() -> None:
    one = guard()
    for name in ("a", "b", "c"):
        one.failed(HERE, name, 0.0)
    assert one.wait(HERE, "d", 1.0) == 1
    assert one.wait(THERE, "d", 1.0) == 0
    assert one.wait(THERE, "a", 1.0) == 0


def test_a_name_waits_from_wherever_it_is_tried() -> None:
    one = guard()
    for number in range(3):
        one.failed(f"192.0.2.{number}", "shop", 0.0)
    assert one.wait(THERE, "shop", 0.0) == 2
    assert one.wait(THERE, "other", 0.0) == 0


def test_a_client_that_was_right_here_is_locked_out_by_nobody_else() -> None:
    one = guard()
    assert one.succeeded(HERE, "shop")
    assert not one.succeeded(HERE, "shop")
    fail(one, 50, THERE, "shop")  # guessing at its name
    fail(one, 50, HERE, "admin")  # and from its address
    assert one.wait(HERE, "shop", 0.0) == 0
    assert one.wait(THERE, "shop", 0.0) > 0
    assert one.wait(HERE, "admin", 0.0) > 0


def test_guessing_at_the_right_user_from_his_own_address_is_slowed_too() -> None:
    one = guard()
    one.succeeded(HERE, "shop")
    fail(one, 3)
    assert one.wait(HERE, "shop", 0.0) == 2
    one.succeeded(HERE, "shop")
    assert one.wait(HERE, "shop", 0.0) == 0


def test_a_success_forgives_no_guesses_at_others() -> None:
    one = guard()
    fail(one, 3, HERE, "victim")
    one.succeeded(HERE, "mine")
    assert one.wait(HERE, "victim", 0.0) == 2
    assert one.wait(HERE, "mine", 0.0) == 0


def test_failures_are_forgotten_after_a_quiet_window() -> None:
    one = guard()
    fail(one, 2, now=0.0)
    one.failed(HERE, "shop", WINDOW + 1)
    assert one.wait(HERE, "shop", WINDOW + 1) == 0
    fail(one, 2, now=WINDOW + 2)
    assert one.wait(HERE, "shop", WINDOW + 2) == 2
    fail(one, 8, now=WINDOW + 2)  # due in 256 s; the window begins there
    one.failed(HERE, "shop", WINDOW + 2 + 512 + WINDOW - 1)
    assert one.wait(HERE, "shop", WINDOW + 2 + 512 + WINDOW - 1) > 2


def test_the_first_failure_over_the_limit_is_told() -> None:
    one = guard()
    assert [one.failed(HERE, name, 0.0) for name in "abcde"] == [False, False, True, False, False]
    other = guard()
    assert other.failed(HERE, "a", 0.0, 7)


def test_failures_without_a_name_count_for_the_address() -> None:
    one = guard()
    for _ in range(3):
        one.failed_without_name(HERE, 0.0)
    assert one.wait(HERE, "anybody", 0.0) == 2


def test_another_password_ends_the_privilege() -> None:
    one = guard()
    one.succeeded(HERE, "shop")
    fail(one, 3, THERE, "shop")
    one.forget_user("shop")
    assert not one.was_right(HERE, "shop")
    assert one.wait(HERE, "shop", 0.0) == 2


def test_the_tables_are_bounded_and_who_failed_most_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS", 10)
    one = guard()
    for table in (one.addresses, one.names, one.pairs):
        table._bound = 10
    fail(one, 20, "203.0.113.1", "victim")
    for number in range(100):
        one.failed(f"10.0.0.{number}", f"user{number}", 0.0)
        one.succeeded(f"10.0.1.{number}", f"user{number}")
        one.failed(f"10.0.1.{number}", f"user{number}", 0.0)
    assert (len(one.addresses), len(one.names), len(one.pairs)) == (10, 10, 10)
    assert len(one) == 30
    assert len(one._right) == 10
    assert one.wait("203.0.113.1", "anybody", 0.0) == WINDOW
    assert one.wait("203.0.113.9", "victim", 0.0) == WINDOW


def test_old_entries_are_swept() -> None:
    one = guard()
    fail(one, 5)
    assert one.waiting(0.0) == 2
    one.sweep(100.0)
    assert len(one) == 2
    one.sweep(8 + WINDOW + 1)
    assert len(one) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fail", "right", "forget", "sweep"]),
            st.sampled_from([HERE, THERE]),
            st.sampled_from(["a", "b"]),
            st.floats(0, 2000),
        ),
        max_size=60,
    )
)
def test_nobody_waits_longer_than_the_window(steps: list[tuple[str, str, str, float]]) -> None:
    one, now = guard(), 0.0
    for act, address, name, later in steps:
        now += later
        if act == "fail":
            one.failed(address, name, now)
        elif act == "right":
            one.succeeded(address, name)
        elif act == "forget":
            one.forget_user(name)
        else:
            one.sweep(now)
        for who in ("a", "b"):
            for where in (HERE, THERE):
                assert 0 <= one.wait(where, who, now) <= WINDOW
