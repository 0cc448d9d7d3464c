"""What comes back: the one file of the feedback process that knows all of its parts.

The feedback process reads bounces, complaints and reports, keeps the suppression list, serves the unsubscribe page and
passes events on, so that none of that can slow or break a worker. It alone writes the LMDB `feedback` (workers read the
suppression list there) and the event log `events/feedback.jsonl`.

Custody: what a part answers for (a bounce's 250, an unsubscribe's 200) it first puts into the LMDB or the log, synced
(`Desk.sync_events`). Whoever got no answer sends again, and the same mail gives events with the same key, so a consumer
knows it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fastrelay._core.lmdb import Environment
from fastrelay._core.slab import Slab
from fastrelay.clock import Clock, iso_utc
from fastrelay.config.schema import Config
from fastrelay.errors import FastrelayError
from fastrelay.metrics.meters import Meters
from fastrelay.spool.eventlog import EventLog

log = logging.getLogger("fastrelay.feedback")

STORE = "feedback"  # the LMDB, below the state directory
DATABASES = ("suppression", "soft", "seen", "cursors", "rates", "reports", "suppression_names")
MAP_BYTES = 16 << 30  # sparse
READERS = 1024  # processes that may look at once: every worker does; whoever opens it first decides
SECOND = 1.0


class DeskError(FastrelayError):
    """A request that can't be carried out, in words."""


class Part:
    """One part. `commands`: what it answers on the control channel, by name: method(**arguments), or a coroutine."""

    commands: Mapping[str, Callable[..., Any]] = {}

    def configure(self, config: Config) -> None:
        """A new configuration (at a reload; the first comes with the constructor's desk)."""

    async def start(self) -> list[str]:
        """Begins; gives the addresses it listens at. OSError and FastrelayError are heard by the operator."""
        return []

    def second(self, now: float) -> None:
        """About once a second (monotonic seconds)."""

    async def close(self) -> None:
        """Ends; what it answered for is safe already."""


class Desk:
    """One feedback process. All on one loop."""

    def __init__(self, config: Config, *, state_dir: str, clock: Clock, slab: Slab) -> None:
        self.config = config
        self.state_dir = state_dir
        self.clock = clock
        self.meters = Meters(slab)
        self.store = Environment(os.path.join(state_dir, STORE), DATABASES, map_bytes=MAP_BYTES, max_readers=READERS)
        # Tells the supervisor something unasked: {"event": name, …}.
        self.report: Callable[[dict[str, Any]], None] = lambda message: None
        self.log = EventLog(
            os.path.join(state_dir, "events", "feedback.jsonl"),
            set_log_fd=lambda descriptor: None,
            clock=clock,
            rotate_bytes=config.events.rotate_size_bytes,
            rotate_seconds=config.events.rotate_age_seconds,
            keep_seconds=config.events.keep_seconds,
        )
        self._era = f"f{int(clock.wall() * 1000):x}"
        self._events = 0
        self._timer: asyncio.TimerHandle | None = None
        self.parts: list[Part] = []
        self._make_parts()
        self._commands = {name: act for part in self.parts for name, act in part.commands.items()}

    def _make_parts(self) -> None:
        """In the order in which they start."""
        from fastrelay.feedback.complaints import Complaints
        from fastrelay.feedback.intake import Intake
        from fastrelay.feedback.reports import Reports
        from fastrelay.feedback.suppress_commands import SuppressCommands
        from fastrelay.feedback.suppress_rules import Suppression
        from fastrelay.feedback.tail import Tail
        from fastrelay.feedback.unsubscribe import Unsubscribe
        from fastrelay.feedback.webhooks import Webhooks

        self.tail = Tail(self)
        self.suppression = Suppression(self)
        self.parts += [self.suppression, SuppressCommands(self, self.suppression)]
        self.complaints = Complaints(self)
        self.parts.append(self.complaints)
        self.unsubscribe = Unsubscribe(self)
        self.parts.append(self.unsubscribe)
        # Other parts stand here. The tail starts after those whom it gives events to, and ends before them.
        self.reports = Reports(self)
        self.parts.append(self.reports)
        self.intake = Intake(self)
        self.parts.append(self.intake)
        self.parts.append(self.tail)
        self.parts.append(Webhooks(self))

    async def start(self) -> list[str]:
        """Begins; gives the addresses it listens at."""
        self.log.open()
        bound: list[str] = []
        for part in self.parts:
            bound += await part.start()
        self._timer = asyncio.get_running_loop().call_later(SECOND, self._second)
        return bound

    def _second(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SECOND, self._second)
        now = self.clock.monotonic()
        self.log.tick()
        for part in self.parts:
            try:
                part.second(now)
            except Exception:
                log.exception("a part of the feedback process failed; please report this")

    async def close(self) -> None:
        """Ends every part, last first."""
        if self._timer is not None:
            self._timer.cancel()
        for part in reversed(self.parts):
            await part.close()
        self.log.close()
        self.store.close()

    def reload(self, config: Config) -> None:
        """Takes a new configuration; listeners stay as they are until a restart."""
        self.config = config
        for part in self.parts:
            part.configure(config)

    async def command(self, name: str, arguments: dict[str, Any]) -> Any:
        """A request of the supervisor. Raises DeskError (or other FastrelayErrors, ValueError) in words."""
        act = self._commands.get(name)
        if act is None:
            raise DeskError(f"unknown command {name!r}")
        result = act(**arguments)
        return await result if asyncio.iscoroutine(result) else result

    # -- events -------------------------------------------------------------------------------------------------------

    def event(self, name: str, fields: dict[str, Any], key: str = "") -> None:
        """Writes an event to the log. `key`: the same for the same thing, where it may be told twice. OSError."""
        self._events += 1
        key = key or f"{self._era}-{self._events:x}"
        line = {"key": key, "event": name, "time": iso_utc(self.clock.wall()), **fields}
        os.write(self.log.fd, msgspec.json.encode(line) + b"\n")

    async def sync_events(self) -> None:
        """All events so far are on stable storage. OSError: they may not be, and nothing may be answered for."""
        await asyncio.get_running_loop().run_in_executor(None, os.fdatasync, self.log.fd)
