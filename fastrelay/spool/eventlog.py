"""The event log of a worker: one line of JSON an event, appended by the committer, rotated here by size and age.

    wN.jsonl                       being written
    wN.jsonl.20261103T040506Z      closed at that time (UTC), removed after `keep_seconds`

The spool appends to a copy of the descriptor (Spool.set_log_fd); after a rotation it syncs the old file, then goes on
in the new one. A crash or a full disk can leave a line unfinished; what follows begins on a line of its own, and
events whose line was not safe are written again with the same key. Readers skip a line that is no JSON and know an
event by its key.

Renaming and opening are two system calls; files that are due for removal go in a thread, since that can take long.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

log = logging.getLogger(__name__)

TIME_FORM = "%Y%m%dT%H%M%SZ"
REMOVAL_SECONDS = 3600.0  # between looks for files that are due
FIRST_LINE_BYTES = 4096


class Wall(Protocol):
    """What is needed of a clock."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...


class EventLog:
    """Opens, rotates and removes the files of one event log.

    set_log_fd      told the descriptor to append to, at every change
    rotate_bytes    a new file after this size
    rotate_seconds  a new file after this age
    keep_seconds    rotated files are removed after this long
    """

    def __init__(
        self,
        path: str,
        *,
        set_log_fd: Callable[[int], object],
        clock: Wall,
        rotate_bytes: int = 256 << 20,
        rotate_seconds: float = 86400.0,
        keep_seconds: float = 14 * 86400.0,
    ) -> None:
        self.path = path
        self.fd = -1
        self.rotate_bytes = rotate_bytes
        self.rotate_seconds = rotate_seconds
        self.keep_seconds = keep_seconds
        self._set_log_fd = set_log_fd
        self._clock = clock
        self._begun_at = 0.0
        self._looked_at = float("-inf")

    def open(self) -> None:
        """Open (or make) the file and tell the spool. OSError."""
        os.makedirs(os.path.dirname(self.path), mode=0o750, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
        self._begun_at = self._time_of_first_line(descriptor)
        former, self.fd = self.fd, descriptor
        self._set_log_fd(descriptor)
        if former >= 0:
            os.close(former)

    def reopen(self) -> None:
        """Open the path anew, as after another program renamed the file (SIGUSR1)."""
        self.open()

    def tick(self) -> None:
        """Rotate and remove what is due; call it about once a second."""
        if self.fd < 0:
            return
        now = self._clock.wall()
        size = os.fstat(self.fd).st_size
        if size >= self.rotate_bytes or (size and now - self._begun_at >= self.rotate_seconds):
            try:
                self.rotate(now)
            except OSError as error:
                log.warning("the event log %s could not be rotated: %s; it goes on in the same file", self.path, error)
                self._begun_at = now
        if abs(now - self._looked_at) >= REMOVAL_SECONDS:
            self._looked_at = now
            self._remove_due(now)

    def rotate(self, now: float) -> None:
        """Close the file under the name of this second, and begin a new one."""
        name = closed = f"{self.path}.{datetime.fromtimestamp(now, UTC).strftime(TIME_FORM)}"
        number = 1
        while os.path.exists(closed):
            number += 1
            closed = f"{name}.{number}"
        os.rename(self.path, closed)
        self.open()
        self._begun_at = now

    def close(self) -> None:
        """Close; after the spool was closed, or was given another descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def due(self, now: float) -> list[str]:
        """Rotated files that are older than they are kept."""
        folder, name = os.path.split(self.path)
        found = []
        for one in os.listdir(folder):
            if not one.startswith(name + "."):
                continue
            try:
                closed = datetime.strptime(one[len(name) + 1 :].split(".")[0], TIME_FORM).replace(tzinfo=UTC)
            except ValueError:
                continue
            if now - closed.timestamp() > self.keep_seconds:
                found.append(os.path.join(folder, one))
        return sorted(found)

    def _remove_due(self, now: float) -> None:
        paths = self.due(now)
        if paths:
            threading.Thread(target=_remove, args=(paths,), name="event-log", daemon=True).start()

    def _time_of_first_line(self, descriptor: int) -> float:
        """When the file was begun, as its first event tells; else now."""
        line = os.pread(descriptor, FIRST_LINE_BYTES, 0).split(b"\n")[0]
        try:
            return datetime.fromisoformat(json.loads(line)["time"]).timestamp()
        except (ValueError, KeyError, TypeError):
            return self._clock.wall()


def _remove(paths: list[str]) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue  # whoever else removes old files (logrotate, the removal before this one) was faster
        except OSError as error:
            log.warning("the old event log %s could not be removed: %s", path, error)
