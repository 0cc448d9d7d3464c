"""Clocks: the real one moves, the simulated one does as it is told."""

import re

import pytest

from fastrelay.clock import Clock, RealClock, SimulatedClock, iso_utc, read_boot_id


def test_the_real_clocks_do_not_go_back() -> None:
    clock: Clock = RealClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.boottime_ns() <= clock.boottime_ns()
    assert clock.boottime_ns() >= clock.monotonic() * 1e9 - 1e9  # suspension counts, too
    assert clock.wall() > 1_700_000_000
    assert clock.boot_id() == read_boot_id()
    assert re.fullmatch(r"[0-9a-f-]{36}|unknown", clock.boot_id())


def test_simulated_time_moves_all_clocks_together() -> None:
    clock = SimulatedClock(start=1000.0, monotonic=5.0)
    clock.advance(7 * 86400)
    assert clock.monotonic() == 5 + 7 * 86400
    assert clock.wall() == 1000 + 7 * 86400
    assert clock.boottime_ns() == (5 + 7 * 86400) * 10**9


def test_a_jump_of_the_wall_clock_moves_nothing_else() -> None:
    clock = SimulatedClock(start=1000.0, monotonic=5.0)
    clock.jump_wall(-3600)
    assert (clock.wall(), clock.monotonic(), clock.boottime_ns()) == (-2600.0, 5.0, 5 * 10**9)


def test_in_suspension_monotonic_time_stands_still() -> None:
    clock = SimulatedClock(start=1000.0, monotonic=5.0)
    clock.suspend(60)
    assert (clock.wall(), clock.monotonic(), clock.boottime_ns()) == (1060.0, 5.0, 65 * 10**9)


def test_a_reboot_is_another_boot() -> None:
    clock = SimulatedClock(start=1000.0, monotonic=5.0)
    before = clock.boot_id()
    clock.reboot(30)
    assert clock.boot_id() != before
    assert (clock.wall(), clock.monotonic(), clock.boottime_ns()) == (1030.0, 0.0, 0)


def test_time_does_not_pass_backward() -> None:
    clock = SimulatedClock()
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="forward"):
        clock.suspend(-1)


def test_times_for_people_and_events() -> None:
    assert iso_utc(0) == "1970-01-01T00:00:00.000Z"
    assert iso_utc(1_795_424_700.25) == "2026-11-23T09:05:00.250Z"
