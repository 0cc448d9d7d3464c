"""Callbacks at simulated times."""

from fastrelay.clock import SimulatedClock
from fastrelay.sim.timetable import NEVER, Timetable


def test_callbacks_run_in_order_once_their_time_has_come():
    clock = SimulatedClock()
    table, ran = Timetable(clock), []
    assert table.next_at() == NEVER
    table.call_later(5, ran.append, "late")
    table.call_later(1, ran.append, "early")
    table.call_later(1, ran.append, "early too")
    assert table.next_at() == clock.monotonic() + 1
    assert table.run_due() == 0
    clock.advance(1)
    assert table.run_due() == 2
    assert ran == ["early", "early too"]
    clock.advance(10)
    table.run_due()
    assert ran[-1] == "late"
    assert len(table) == 0


def test_a_callback_may_ask_for_the_next_one_at_the_same_time():
    clock = SimulatedClock()
    table, ran = Timetable(clock), []
    table.call_later(0, lambda: table.call_later(0, ran.append, 1))
    assert table.run_due() == 2
    assert ran == [1]
