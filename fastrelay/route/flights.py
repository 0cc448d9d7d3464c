"""Coalescing: concurrent look-ups of one name share one task.

A caller that is cancelled leaves the look-up running for the others. `max_flights` bounds how many names are being
looked up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Flights(Generic[Value]):
    """Name → the task that looks it up."""

    def __init__(self, max_flights: int) -> None:
        self.max_flights = max_flights
        self._tasks: dict[str, asyncio.Task[Value]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def full(self, name: str) -> bool:
        """Whether a look-up of that name would be one too many."""
        return len(self._tasks) >= self.max_flights and name not in self._tasks

    def start(self, name: str, look_up: Callable[[], Coroutine[Any, Any, Value]]) -> asyncio.Task[Value]:
        """The task that looks the name up; a new one only if there is none. Needs a running loop."""
        task = self._tasks.get(name)
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(look_up())
            self._tasks[name] = task
            task.add_done_callback(lambda done: self._ended(name, done))
        return task

    async def join(self, name: str, look_up: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Wait for the look-up, started here if nobody did."""
        return await asyncio.shield(self.start(name, look_up))

    def _ended(self, name: str, task: asyncio.Task[Value]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any more

    async def close(self) -> None:
        """Cancel what is under way and wait for it to end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
