"""One holder of a state directory.

The lock is a flock on state/lock. It belongs to the open file description, which the workers inherit: as long as one
process of a relay lives, nobody else gets it. The file holds the supervisor's pid, for the words of the refusal only.
"""

from __future__ import annotations

import fcntl
import os
import time

from fastrelay.errors import StateHeld

# After a kill -9 of the supervisor the kernel needs a moment to take the workers along.
GRACE_TRIES = 100
GRACE_PAUSE_SECONDS = 0.02


class StateLock:
    """The lock of a state directory, held until `close` (and by each process that inherited `fd`)."""

    def __init__(self, state_dir: str) -> None:
        """Take it. Raises StateHeld (with the holder's pid if known) or OSError."""
        self.path = os.path.join(state_dir, "lock")
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(state_dir)
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(self.fd)
            raise

    def _take(self, state_dir: str) -> None:
        for _ in range(GRACE_TRIES):
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pid = self._holder()
                if pid is not None:
                    raise StateHeld(state_dir, pid) from None
            time.sleep(GRACE_PAUSE_SECONDS)
        raise StateHeld(state_dir)

    def _holder(self) -> int | None:
        """The supervisor that holds it; None if that one is dead (then its workers are about to be)."""
        try:
            pid = int(os.pread(self.fd, 32, 0).split()[0])
            os.kill(pid, 0)
        except (ValueError, IndexError, ProcessLookupError):
            return None
        except PermissionError:
            return pid
        return pid

    def close(self) -> None:
        os.close(self.fd)
