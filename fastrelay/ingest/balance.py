"""Spreads client connections over the workers.

SO_REUSEPORT hashes: ten connections over eight workers leave two idle. So each worker publishes how many clients it has
in the shared table, and one that is above its fair share passes a freshly accepted socket to the worker with the
fewest, over a Unix datagram socket in the state directory (SCM_RIGHTS). Nothing waits for an answer: where the other
worker is gone, the socket stays here.

Known faults: two workers may hand to the same third at once; it ends up a connection or two above the mean.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

TAKES_AT_ONCE = 64
ADDRESS_BYTES = 64


class Balance:
    """One worker's side of the hand-over."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._cell = app.table.cell(b"smtp-connections")
        self._socket: socket.socket | None = None

    def _path(self, slot: int) -> str:
        return os.path.join(self._app.state_dir, f"worker.{slot}.sock")

    def start(self) -> None:
        """Begins to take sockets of other workers."""
        if self._app.slots == 1:
            return
        path = self._path(self._app.slot)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(path)
        os.chmod(path, 0o600)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._take)

    def stop(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(self._app.slot))

    def hand_over(self, sock: socket.socket) -> bool:
        """Passes an accepted socket on if this worker has more than its share; False: it stays."""
        app = self._app
        own = app.listener.load
        app.table.demand(self._cell, app.slot, own + 1)
        if app.slots == 1 or self._socket is None:
            return False
        loads = [app.table.demanded(self._cell, slot) for slot in range(app.slots)]
        least = min(range(app.slots), key=loads.__getitem__)
        if own <= loads[least]:
            return False
        try:
            address = sock.getpeername()[0].encode()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))]
            self._socket.sendmsg([address], rights, socket.MSG_DONTWAIT, self._path(least))
        except OSError:
            return False
        app.table.demand(self._cell, least, loads[least] + 1)
        app.table.demand(self._cell, app.slot, own)
        sock.close()
        return True

    def _take(self) -> None:
        assert self._socket is not None
        for _ in range(TAKES_AT_ONCE):
            try:
                address, rights, _, _ = self._socket.recvmsg(ADDRESS_BYTES, socket.CMSG_SPACE(4))
            except (BlockingIOError, InterruptedError):
                return
            for level, kind, octets in rights:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptor = array.array("i", octets[:4])[0]
                    sock = socket.socket(fileno=descriptor)
                    sock.setblocking(False)
                    self._app.listener.take(sock, address.decode())

    def publish(self) -> None:
        """Says how many clients this worker has; after each that went."""
        self._app.table.demand(self._cell, self._app.slot, self._app.listener.load)
