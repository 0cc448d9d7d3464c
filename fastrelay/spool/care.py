"""What an open spool needs beside its commits: free room on the disk, the ballast, and compaction.

    room on the disk                        what happens
    more than the reserve                   all is well; the ballast is made again if it is gone
    less than the reserve                   no message is accepted (452 4.3.1); delivery goes on
    none, so that even settles fail         the committer removes the ballast, and settles get through (committer.h)

Room is asked for every LOOK_SECONDS, not per message: the reserve has to hold what can arrive meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import Any

from fastrelay._core.commit import Spool
from fastrelay.spool.compaction import Compactor
from fastrelay.spool.errors import REPLY_NO_ROOM
from fastrelay.spool.folder import sync_folder

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
ROOM_AGAIN = 1.05  # of the reserve, before messages are accepted again
BALLAST_ROOM = 2  # times its size must be free beside the reserve, before the ballast is made
STALE_SECONDS = 60.0  # a ballast in the making that is older was left by a crash


class Care:
    """Watches one spool; begins at once, until stop()."""

    def __init__(self, spool: Spool, loop: Any) -> None:
        self._spool = spool
        self._loop = loop
        self._options = spool.options
        self.reserve_bytes: int = spool.options.reserve_bytes
        self.free_bytes = 0
        self._short = False
        self._looks = 0
        self._making: threading.Thread | None = None
        self._compaction: asyncio.Task[int] | None = None
        self.compactor = Compactor(spool, loop)
        self._timer: Any = None
        self._watch()

    def stop(self) -> None:
        """No more looks; compaction ends at its next step."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self.compactor.stop()
        if self._compaction is not None:
            self._compaction.cancel()
        if self._making is not None:
            self._making.join()

    def look(self, reserve_bytes: int | None = None) -> None:
        """Ask for the free room, and act on it."""
        if reserve_bytes is not None:
            self.reserve_bytes = reserve_bytes
        room = os.statvfs(self._spool.path)
        self.free_bytes = room.f_bavail * room.f_frsize
        if self.free_bytes < self.reserve_bytes and not self._short:
            self._short = True
            log.warning(
                "%s: %d MiB free, less than the reserve of %d MiB: no mail is accepted until there is room; "
                "delivery goes on",
                self._spool.path, self.free_bytes >> 20, self.reserve_bytes >> 20,
            )  # fmt: skip
            self._spool.refuse("room", REPLY_NO_ROOM)
        elif self._short and self.free_bytes >= self.reserve_bytes * ROOM_AGAIN:
            self._short = False
            log.warning("%s: %d MiB free: mail is accepted again", self._spool.path, self.free_bytes >> 20)
            self._spool.allow("room")
        self._ballast()

    def _watch(self) -> None:
        self._timer = self._loop.call_later(LOOK_SECONDS, self._watch)
        self.look()
        self._looks += 1
        every = max(1, round(self._options.compact_seconds / LOOK_SECONDS))
        if self._looks % every == 0 and (self._compaction is None or self._compaction.done()):
            self._compaction = self._loop.create_task(self.compactor.run())

    def _ballast(self) -> None:
        path, size = self._options.ballast, self._options.ballast_bytes
        if not path or not size or (self._making is not None and self._making.is_alive()):
            return
        if self.free_bytes < self.reserve_bytes + BALLAST_ROOM * size or os.path.exists(path):
            return
        self._making = threading.Thread(target=make_ballast, args=(path, size), name="ballast", daemon=True)
        self._making.start()


def make_ballast(path: str, size: int) -> bool:
    """Make the ballast, all or nothing; False if another worker does, or there is no room."""
    building = f"{path}.new"
    try:
        if os.path.exists(building) and time.time() - os.stat(building).st_mtime > STALE_SECONDS:
            os.unlink(building)
        descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        os.posix_fallocate(descriptor, 0, size)
        os.fsync(descriptor)
        os.rename(building, path)
        sync_folder(os.path.dirname(path))
        return True
    except OSError as error:
        log.warning("the ballast %s could not be made: %s", path, error)
        os.unlink(building)
        return False
    finally:
        os.close(descriptor)
