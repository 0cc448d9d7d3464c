"""Messages held until an operator looks at them: damaged on disk, or in hand when the worker died, twice in a row.

They count as queued. `fastrelay queue quarantine list` shows them, `release` lets one go on, `remove` ends it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

IN_FLIGHT, QUARANTINED = 4, 6


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
        state = app.settler.states.get(spool, msgid, total)
        if not state.quarantined:
            app.board.quarantined_messages += 1
        state.quarantined = why
        app.settler.states.put(spool, msgid, state)

    def mark(self, delivery: Any, error: Exception) -> None:
        """A message that turned out to be damaged while it was sent: held when its attempt is settled."""
        m = delivery.message
        msgid, _, _, total, _, _, _, spool, _ = self._app.index.message_info(m)
        self._hold(m, msgid, spool, total, f"damaged: {error}")
        self._app.settler.hold_after.add((spool, msgid))

    def release(self, m: int) -> int:
        """Lets a message go on; gives how many recipients that are."""
        app = self._app
        msgid, _, _, total, _, _, _, spool, _ = app.index.message_info(m)
        state = app.settler.states.get(spool, msgid, total)
        if not state.quarantined:
            return 0
        state.quarantined = ""
        state.crashes = 0
        app.board.quarantined_messages -= 1
        app.settler.states.put(spool, msgid, state)
        now = app.clock.monotonic()
        released = 0
        for r in app.index.recipients_of(m):
            if app.index.recipient_info(r)[3] == QUARANTINED:
                app.engine.place_ready(r, now)
                released += 1
        app.wake_soon()
        return released

    def listed(self) -> list[int]:
        """Numbers of the quarantined messages."""
        index = self._app.index
        _, found = index.select(0, 1 << 31, place=QUARANTINED)
        return sorted({index.recipient_info(r)[0] for r in found})
