"""The feedback process as the supervisor sees it: one more slot, with a start message of its own.

Its LMDB is made here before any worker starts, since workers read the suppression list in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from fastrelay._core.lmdb import Environment
from fastrelay._core.slab import Slab
from fastrelay.admin.workers import FEEDBACK_SLOT, WorkerGone, WorkerSlot
from fastrelay.clock import Clock
from fastrelay.config.schema import Config, to_builtins
from fastrelay.errors import FastrelayError
from fastrelay.feedback.desk import DATABASES, MAP_BYTES, READERS, STORE

log = logging.getLogger("fastrelay.workers")

COMMAND = (sys.executable, "-m", "fastrelay.feedback.process")
RELOAD_SECONDS = 30.0
COMMAND_SECONDS = 600.0
WAIT_SECONDS = 5.0
COMPLAINT_RATES = "complaint_rates"  # complaints.EVENT, which is not imported for its weight
# Control commands that it answers, by what stands before the dot.
COMMANDS = ("suppress", "events", "reports", "complaints", "inbound", "unsubscribe")


class FeedbackKeeper:
    """Keeps the feedback process going. `report` takes what it tells unasked."""

    def __init__(
        self,
        config: Config,
        state_dir: str,
        clock: Clock,
        lock_fd: int,
        backoff: float,
        report: Callable[[WorkerSlot, dict[str, Any]], None],
    ) -> None:
        """Makes the LMDB and the metrics file. LmdbError, SlabError, OSError."""
        self.clock = clock
        self._config = config
        self._state_dir = state_dir
        self._report = report
        self._told = config
        # [by, name, deliveries, complaints, share or None] of complaints.window, for the metrics.
        self.complaint_rates: list[list[Any]] = []
        Environment(os.path.join(state_dir, STORE), DATABASES, map_bytes=MAP_BYTES, max_readers=READERS).close()
        self.slab = Slab(os.path.join(state_dir, "slab.feedback"), create=True)
        self.slab.reset_gauges()
        self.slot = WorkerSlot(FEEDBACK_SLOT, self, COMMAND, lock_fd, backoff)

    # --- what the slot asks (admin.workers.Owner) ---

    def start_message(self, slot: int) -> dict[str, Any]:
        self._told = self._config
        return {"config": to_builtins(self._config), "state_dir": self._state_dir, "slab": self.slab.path}

    def on_ready(self, slot: WorkerSlot) -> None:
        log.info("the feedback process is ready (pid %s)", slot.pid)
        if self._told is not self._config:
            task = asyncio.ensure_future(self.reload(self._config))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def on_exit(self, slot: WorkerSlot) -> None:
        self.slab.reset_gauges()

    def on_report(self, slot: WorkerSlot, message: dict[str, Any]) -> None:
        if message.get("event") == COMPLAINT_RATES:
            self.complaint_rates = message["rows"]
        else:
            self._report(slot, message)

    # --- what the supervisor asks ---

    async def reload(self, config: Config) -> None:
        """A new configuration; a process that is down gets it at its start."""
        self._config = config
        if not self.slot.ready.is_set():
            return
        try:
            await self.slot.request("reload", {"config": to_builtins(config)}, RELOAD_SECONDS)
            self._told = config
        except FastrelayError as error:
            log.error("the feedback process has not taken over the new configuration: %s", error)

    async def reopen_logs(self) -> None:
        """After another program renamed the event log."""
        if self.slot.ready.is_set():
            try:
                await self.slot.request("reopen_logs", {}, RELOAD_SECONDS)
            except FastrelayError as error:
                log.warning("the feedback process: reopening the event log: %s", error)

    async def command(self, name: str, arguments: dict[str, Any]) -> Any:
        """A control command. WorkerRefused or WorkerGone, in words."""
        if not self.slot.ready.is_set():
            try:
                await asyncio.wait_for(self.slot.ready.wait(), WAIT_SECONDS)
            except TimeoutError:
                raise WorkerGone(FEEDBACK_SLOT, f"is not running ({self.slot.error or self.slot.state})") from None
        return await self.slot.request(name, arguments, COMMAND_SECONDS)
