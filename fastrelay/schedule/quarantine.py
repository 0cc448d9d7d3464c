"""Messages held until an operator looks at them: damaged on disk, or in hand when the worker died, twice in a row.

They count as queued. `fastrelay queue quarantine list` shows them, `release` lets one go on, `remove` ends it.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from fastrelay.schedule.places import IN_FLIGHT, QUARANTINED
from fastrelay.spool import SpoolError

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

HELD = 1  # flag of a message in the index: what of it is still in flight is held when it comes back


class Quarantine:
    """Puts messages there and takes them out."""

    def __init__(self, app: App) -> None:
        self._app = app

    def damaged(self, m: int, error: Exception) -> None:
        """A message whose record or content can't be read."""
        app = self._app
        msgid, _, _, total, _, _, _, spool, _ = app.index.message_info(m)
        name = app.engine.message_id(msgid, spool)
        log.error("message %s can't be read and is quarantined: %s. See fastrelay queue show %s", name, error, name)
        app.count_error("spool")
        self._hold(m, msgid, spool, total, f"damaged: {error}")

    def _hold(self, m: int, msgid: int, spool: int, total: int, why: str) -> None:
        app = self._app
        for r in app.index.recipients_of(m):
            if app.index.recipient_info(r)[3] != IN_FLIGHT:
                app.index.py_place(r, QUARANTINED)
        self.count(m)
        try:
            state = app.settler.states.get(spool, msgid, total)
        except (msgspec.MsgspecError, SpoolError) as error:
            log.error("the state of message %s can't be read: %s", app.engine.message_id(msgid, spool), error)
            return  # held until the next start, which leaves such a message alone
        state.quarantined = why
        app.settler.states.put(spool, msgid, state)

    def count(self, m: int) -> None:
        """Notes that a message is held."""
        if not self.held(m):
            self._app.index.set_message_flag(m, HELD, True)
            self._app.board.quarantined_messages += 1

    def held(self, m: int) -> bool:
        """Whether a message is held."""
        return bool(self._app.index.message_info(m)[8] & HELD)

    def gone(self, m: int) -> None:
        """The last recipient of a message ends: it is no longer held. Called while the index still has it."""
        if self.held(m):
            self._app.index.set_message_flag(m, HELD, False)
            self._app.board.quarantined_messages -= 1

    def mark(self, delivery: Any, error: Exception) -> None:
        """A message that turned out to be damaged while it was sent: what is in flight is held once it is settled."""
        m = delivery.message
        msgid, _, _, total, _, _, _, spool, _ = self._app.index.message_info(m)
        self._hold(m, msgid, spool, total, f"damaged: {error}")

    def unsettled(self, delivery: Any) -> None:
        """A transaction that a bug of ours kept from being settled: nobody may send it again without a look."""
        m = delivery.message
        msgid, _, _, total, _, _, _, spool, _ = self._app.index.message_info(m)
        name = self._app.engine.message_id(msgid, spool)
        log.error(
            "an attempt of message %s could not be settled; it is quarantined. See fastrelay queue show %s", name, name
        )
        self._hold(m, msgid, spool, total, "an attempt could not be settled: it may have been delivered")

    def release(self, m: int) -> int:
        """Lets a message go on; gives how many recipients that are."""
        app = self._app
        msgid, _, _, total, _, _, _, spool, _ = app.index.message_info(m)
        state = app.settler.states.get(spool, msgid, total)
        if not state.quarantined:
            return 0
        state.quarantined = ""
        state.crashes = 0
        self.gone(m)
        app.settler.states.put(spool, msgid, state)
        now = app.clock.monotonic()
        hold = 0.0
        with contextlib.suppress(ValueError):  # a record that is damaged holds nothing back
            record = app.record(spool, msgid)
            hold = record.not_before_ms / 1000 - app.clock.wall() if record is not None else 0.0
        released = 0
        for r in app.index.recipients_of(m):
            if app.index.recipient_info(r)[3] == QUARANTINED:
                if hold > 0:
                    app.index.py_defer(r, int((now + hold) * 1000))
                else:
                    app.engine.place_ready(r, now)
                released += 1
        app.wake_soon()
        return released

    def listed(self) -> list[int]:
        """Numbers of the quarantined messages."""
        index = self._app.index
        _, found = index.select(0, 1 << 31, place=QUARANTINED)
        return sorted({index.recipient_info(r)[0] for r in found})
