"""The bounded cache, lifetimes, and look-ups that share a task."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.route.cache import BoundedCache, Lifetimes
from fastrelay.route.flights import Flights


def test_the_oldest_insertion_leaves() -> None:
    cache: BoundedCache[int] = BoundedCache(3)
    for number in range(3):
        cache.put(str(number), number)
    cache.put("0", 10)  # a refresh moves to the young end
    cache.put("3", 3)
    assert [cache.get(name) for name in "0123"] == [10, None, 2, 3]
    assert cache.evictions == 1
    cache.clear()
    assert len(cache) == 0
    assert cache.get("3") is None


@given(st.integers(1, 5), st.lists(st.integers(0, 9)))
def test_bounded_like_a_plain_oracle(bound: int, names: list[int]) -> None:
    cache: BoundedCache[int] = BoundedCache(bound)
    oracle: list[int] = []
    for name in names:
        cache.put(str(name), name)
        oracle = [*(other for other in oracle if other != name), name][-bound:]
        assert len(cache) <= bound
    assert {name for name in range(10) if cache.get(str(name)) is not None} == set(oracle)


def test_a_cache_holds_something() -> None:
    with pytest.raises(ValueError):
        BoundedCache(0)


def test_lifetimes_have_bounds() -> None:
    lifetimes = Lifetimes(min_ttl=60, max_ttl=3600, negative_ttl=300)
    assert [lifetimes.positive(ttl) for ttl in (0, 60, 100, 1 << 31)] == [60, 60, 100, 3600]
    assert [lifetimes.negative(ttl) for ttl in (0, 100, 1 << 31)] == [60, 100, 300]
    assert Lifetimes(min_ttl=60, negative_ttl=10).negative(5) == 10
    assert Lifetimes(min_ttl=0, negative_ttl=0).negative(0) == 1
    assert [Lifetimes().after_failure(failures) for failures in (1, 2, 3, 4, 99)] == [30, 45, 60, 60, 60]


def test_one_task_for_one_name() -> None:
    started = []

    async def scenario() -> list[int]:
        gate = asyncio.Event()
        flights: Flights[int] = Flights(10)

        async def look_up() -> int:
            started.append(1)
            await gate.wait()
            return len(started)

        waiting = [asyncio.ensure_future(flights.join("a", look_up)) for _ in range(50)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # does not take the look-up from the others
        await asyncio.sleep(0)
        gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0)
        assert isinstance(results[0], asyncio.CancelledError)
        assert len(flights) == 0
        return [result for result in results if isinstance(result, int)]

    assert asyncio.run(scenario()) == [1] * 49
    assert len(started) == 1


def test_flights_are_bounded_and_close() -> None:
    async def scenario() -> None:
        flights: Flights[int] = Flights(1)

        async def look_up() -> int:
            await asyncio.Event().wait()
            return 0

        task = flights.start("a", look_up)
        assert flights.full("b")
        assert not flights.full("a")
        await flights.close()
        assert task.cancelled()
        assert not flights.full("b")

    asyncio.run(scenario())


def test_a_look_up_that_raises_is_not_kept() -> None:
    started = []

    async def scenario() -> None:
        flights: Flights[int] = Flights(1)

        async def look_up() -> int:
            started.append(1)
            raise RuntimeError("no")

        flights.start("a", look_up)  # nobody waits: no "exception was never retrieved" either
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await flights.join("a", look_up)
        await asyncio.sleep(0)
        assert len(flights) == 0

    asyncio.run(scenario())
    assert len(started) == 2
