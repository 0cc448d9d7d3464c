"""Group commit of the feedback process: what is answered for is on stable storage first, many at a time.

    await ledger.commit([(database, key, value), …])

All who ask while one commit runs share the next: one fdatasync of the event log (whatever was written to it before the
call), then one synchronous LMDB commit of their changes. The log comes first: a crash between the two leaves an event
whose cause is told again, with the same key.

Known faults: a commit that fails fails for everybody in it; each of them gets no answer, and tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrelay.feedback.desk import Desk

Change = tuple[str, bytes, bytes | None]

MOST_CHANGES = 20_000  # of one commit


class Ledger:
    """Of one desk, on its loop."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._waiting: list[tuple[list[Change], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def commit(self, changes: Iterable[Change] = ()) -> None:
        """The events so far and these changes are safe when it returns. OSError, LmdbError: they may not be."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((list(changes), done))
        if self._task is None:
            self._task = asyncio.create_task(self._commit_all())
        await done

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                group = self._next_group()
                try:
                    await self._desk.sync_events()
                    changes = [change for some, _ in group for change in some]
                    if changes:
                        self._desk.store.write(changes)
                except Exception as error:
                    for _, done in group:
                        if not done.done():
                            done.set_exception(error)
                else:
                    for _, done in group:
                        if not done.done():
                            done.set_result(None)
        finally:
            self._task = None

    def _next_group(self) -> list[tuple[list[Change], asyncio.Future[None]]]:
        size = taken = 0
        for changes, _ in self._waiting:
            if taken and size + len(changes) > MOST_CHANGES:
                break
            size += len(changes)
            taken += 1
        group, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return group
