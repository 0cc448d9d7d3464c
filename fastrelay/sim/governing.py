"""The governor of limits (limits/governor.py) in a simulation: what the supervisor does for it, done in process.

It ticks less often than the supervisor's, since every tick is a stop of the simulated clock: each BUSY_SECONDS while
mail moves, each IDLE_SECONDS else. What a worker reports it hears at once.

Known faults: none.
"""

from __future__ import annotations

from typing import Any

from fastrelay._core.lmdb import Environment
from fastrelay.clock import iso_utc
from fastrelay.limits import durable, governor
from fastrelay.limits.governor import Governor, slab_counts
from fastrelay.sim.relay import SimulatedRelay
from fastrelay.sim.timetable import Timetable

BUSY_SECONDS = 10.0
IDLE_SECONDS = 30.0
STORE_MAP_BYTES = 64 << 20
MOST_HAPPENED = 10_000


class Governing:
    """The governor of one simulated relay; `begin`, then start the worker, then `start`, in the end `close`."""

    def __init__(self, relay: SimulatedRelay, timetable: Timetable) -> None:
        self._relay = relay
        self._timetable = timetable
        self._told = -1
        self._moved = 0
        self.happened: list[dict[str, Any]] = []  # its events, oldest first, bounded
        self.governor: Governor | None = None
        self._store: Environment | None = None

    def begin(self) -> None:
        """Before the worker starts: caps and rates must be in the table."""
        relay = self._relay
        self._store = Environment(str(relay.folder / "control"), governor.DATABASES, map_bytes=STORE_MAP_BYTES)
        self.governor = Governor(
            relay.config,
            relay.table,
            self._store,
            relay.clock,
            lambda: slab_counts([relay.app.meters.slab]),
            event=self._note,
            reserved=lambda: durable.reserved(str(relay.folder)),
        )
        relay.app.report = self._hear
        self._tell()

    def start(self) -> None:
        """From now on it ticks."""
        self._timetable.call_later(BUSY_SECONDS, self._tick)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def status(self) -> list[dict[str, Any]]:
        """Where each cold source stands."""
        return list(self.governor.state().get("warmup", [])) if self.governor is not None else []

    def _tick(self) -> None:
        if self.governor is None or self._store is None:
            return
        self.governor.tick()
        self._tell()
        moved, self._moved = self._moved, self._relay.attempts
        busy = moved != self._moved
        self._timetable.call_later(BUSY_SECONDS if busy else IDLE_SECONDS, self._tick)

    def _tell(self) -> None:
        """What changed, to the worker."""
        if self.governor is not None and self.governor.version != self._told:
            self._told = self.governor.version
            self._relay.app.set_limits(self.governor.state())

    def _hear(self, message: dict[str, Any]) -> None:
        if self.governor is not None and message.get("event") in governor.REPORTS:
            self.governor.report(message)
            self._tell()

    def _note(self, name: str, fields: dict[str, Any]) -> None:
        if len(self.happened) < MOST_HAPPENED:
            self.happened.append({"event": name, "time": iso_utc(self._relay.clock.wall()), **fields})
