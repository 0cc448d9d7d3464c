"""systemd's notify protocol (sd_notify(3)): readiness, reloads, the watchdog. Without systemd it does nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from fastrelay.clock import RealClock


class Notifier:
    """Sends to $NOTIFY_SOCKET; errors are ignored, since nobody could act on them."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.path = environ.get("NOTIFY_SOCKET", "")
        self.watchdog_seconds = _watchdog_seconds(environ)

    def send(self, *states: str) -> None:
        """Send assignments, as send("READY=1", "STATUS=2 workers")."""
        if not self.path.startswith(("/", "@")):
            return
        address = "\0" + self.path[1:] if self.path.startswith("@") else self.path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
                link.setblocking(False)
                link.sendto("\n".join(states).encode(), address)
        except OSError:
            pass

    def ready(self, status: str) -> None:
        self.send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        # MONOTONIC_USEC is asked for by Type=notify-reload; it must be of the moment of the message.
        self.send("RELOADING=1", f"MONOTONIC_USEC={RealClock().monotonic() * 1e6:.0f}", "STATUS=reloading")

    def stopping(self) -> None:
        self.send("STOPPING=1", "STATUS=finishing open transactions")

    def starting(self, seconds: float) -> None:
        """Ask for `seconds` more of time to start (a large spool is being read)."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        self.send("WATCHDOG=1")


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """How often the watchdog wants a sign at the least; None: there is no watchdog for this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None
