"""The timer wheel against a heap that does the same slowly."""

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay._core.wheel import NEVER, TICK_MS, Wheel

DAY = 86_400_000


class Oracle:
    """Due times rounded up to ticks that are counted from the start; what is due comes by tick."""

    def __init__(self, start_ms: int) -> None:
        self.start = start_ms
        self.now = start_ms
        self.due: dict[int, int] = {}

    def tick(self, due_ms: int) -> int:
        return max(0, -(-(due_ms - self.start) // TICK_MS))

    def advance(self, now_ms: int) -> list[tuple[int, int]]:
        self.now = max(self.now, now_ms)
        passed = (self.now - self.start) // TICK_MS
        heap = [(self.tick(due), id) for id, due in self.due.items()]
        heapq.heapify(heap)
        out = []
        while heap and heap[0][0] <= passed:
            out.append(heapq.heappop(heap))
            del self.due[out[-1][1]]
        return out


def drain(wheel: Wheel, now_ms: int, limit: int) -> list[int]:
    """All that is due, in slices, until the wheel says there is no more."""
    out: list[int] = []
    while True:
        part = wheel.advance(now_ms, limit)
        out += part
        assert len(part) <= limit
        if len(part) < limit and wheel.next_due_ms() > now_ms:
            return out


delays = st.one_of(
    st.integers(-1000, 1000),
    st.integers(0, 100_000),
    st.integers(0, DAY),
    st.integers(0, 40 * DAY),
    st.sampled_from([TICK_MS * 255, TICK_MS * 256, TICK_MS * 257, TICK_MS * 65535, TICK_MS * 65536, TICK_MS * 2**24]),
)
steps = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 60), delays),
    st.tuples(st.just("remove"), st.integers(0, 60), st.just(0)),
    st.tuples(st.just("advance"), st.integers(1, 7), delays),
)


@given(start=st.integers(-(10**12), 10**13), plan=st.lists(steps, max_size=120))
@settings(max_examples=400, deadline=None)
def test_agrees_with_a_heap_also_when_time_jumps_by_days(start: int, plan: list[tuple[str, int, int]]) -> None:
    wheel, oracle = Wheel(start, 4), Oracle(start)
    now = start
    for act, number, amount in plan:
        if act == "add":
            wheel.add(number, now + amount)
            oracle.due[number] = now + amount
            assert number in wheel
            assert wheel.due(number) == now + amount
        elif act == "remove":
            assert wheel.remove(number) == (oracle.due.pop(number, None) is not None)
            assert number not in wheel
        else:
            now = max(now, now + amount)
            ours, theirs = drain(wheel, now, number), oracle.advance(now)
            assert sorted(ours) == sorted(id for _, id in theirs)
        assert len(wheel) == len(oracle.due)
        if oracle.due:
            first = min(oracle.tick(due) for due in oracle.due.values()) * TICK_MS + start
            assert wheel.next_due_ms() <= max(first, now)
        else:
            assert wheel.next_due_ms() == NEVER
    assert sorted(drain(wheel, now + 400 * DAY, 3)) == sorted(oracle.due)


@given(st.lists(st.integers(0, 3 * DAY), min_size=1, max_size=50))
def test_what_was_due_for_longer_comes_first(dues: list[int]) -> None:
    wheel = Wheel(0)
    for id, due in enumerate(dues):
        wheel.add(id, due)
    ticks = [-(-dues[id] // TICK_MS) for id in drain(wheel, 4 * DAY, 1000)]
    assert ticks == sorted(ticks)


def test_never_early_and_at_most_a_tick_late() -> None:
    wheel = Wheel(0)
    wheel.add(1, 150)
    assert wheel.advance(199) == []
    assert wheel.advance(200) == [1]


def test_a_time_that_is_past_is_due_at_once() -> None:
    wheel = Wheel(1_000_000)
    wheel.add(3, 5)
    assert wheel.next_due_ms() <= 1_000_000
    assert wheel.advance(1_000_000) == [3]


def test_adding_again_moves() -> None:
    wheel = Wheel(0)
    wheel.add(1, 100)
    wheel.add(1, 5000)
    assert len(wheel) == 1
    assert wheel.advance(4900) == []
    assert wheel.advance(5000) == [1]


def test_time_that_goes_back_is_ignored() -> None:
    wheel = Wheel(0)
    wheel.advance(10_000)
    wheel.add(1, 10_500)
    assert wheel.advance(0) == []
    assert wheel.advance(10_500) == [1]


def test_a_jump_over_a_year_of_empty_slots() -> None:
    wheel = Wheel(0)
    wheel.add(1, 30 * DAY)
    wheel.add(2, 365 * DAY)
    assert wheel.advance(364 * DAY) == [1]
    assert wheel.advance(365 * DAY) == [2]


def test_next_due_leads_to_every_time_in_a_few_calls() -> None:
    """A caller that sleeps until next_due_ms() is called at most once a level for one id."""
    for due in (100, 25_600, 6_553_600, 30 * DAY + 100):
        wheel = Wheel(0)
        wheel.add(9, due)
        calls = 0
        while not wheel.advance(wheel.next_due_ms()):
            calls += 1
        assert calls <= 4
        assert len(wheel) == 0


def test_a_huge_slot_comes_out_in_bounded_slices() -> None:
    wheel = Wheel(0, 200_000)
    for id in range(200_000):
        wheel.add(id, 3_000_000 + id % 7)
    out: list[int] = []
    calls = 0
    while len(wheel):
        out += wheel.advance(4_000_000, 10_000)
        calls += 1
        assert wheel.next_due_ms() <= 4_000_000 or not len(wheel)
    assert sorted(out) == list(range(200_000))
    assert calls >= 20


def test_removal_of_what_is_due_but_not_handed_out() -> None:
    wheel = Wheel(0)
    for id in range(5):
        wheel.add(id, 100)
    first = wheel.advance(100, 2)
    rest = [id for id in range(5) if id not in first]
    assert wheel.remove(rest[-1])
    wheel.add(7, 50)
    assert sorted(wheel.advance(100, 10)) == sorted([*rest[:-1], 7])


def test_ids_have_a_bound() -> None:
    wheel = Wheel(0, 4, max_ids=10)
    wheel.add(9, 100)
    with pytest.raises(ValueError, match="bound of 10"):
        wheel.add(10, 100)
    with pytest.raises(ValueError, match="between"):
        Wheel(0, 4, max_ids=2**31)
    assert not wheel.remove(4_000_000)
    assert wheel.due(4_000_000) == NEVER


def test_churn_keeps_every_id_once() -> None:
    """Many adds, removals and moves with a fixed seed; each id comes out exactly once for each time it was added."""
    random_ = random.Random(7)
    wheel, waiting, now, out = Wheel(0), set(), 0, 0
    added = removed = 0
    for _ in range(20_000):
        id = random_.randrange(500)
        if random_.random() < 0.7:
            added += id not in waiting
            wheel.add(id, now + random_.randrange(1, 200_000))
            waiting.add(id)
        elif wheel.remove(id):
            waiting.remove(id)
            removed += 1
        now += random_.randrange(0, 300)
        for done in wheel.advance(now, 50):
            waiting.remove(done)
            out += 1
    assert added == removed + out + len(wheel)
    assert len(wheel) == len(waiting)
