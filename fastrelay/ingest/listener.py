"""SMTP listeners of one worker: accepting, who may relay, connection limits, idle deadlines.

Every worker has its own socket on each address (SO_REUSEPORT), so the kernel spreads connections. That spread is bad
for few connections, so a worker above its fair share hands an accepted socket to the least loaded one (balance.py).

Sockets are accepted here rather than by uvloop: libuv accepts and closes silently when descriptors run out, and a
connection over the limit deserves its 421.

Known faults: none.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING, cast

from fastrelay._core.ingest import Connection
from fastrelay._core.server import ServerLimits, SmtpServer
from fastrelay.config.sending import Assignment
from fastrelay.ingest.assign import NOBODY, Assigner
from fastrelay.ingest.large import LargeContent
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

ACCEPTS_AT_ONCE = 64
TOO_MANY = b"421 4.3.2 Too many connections, try again later\r\n"
NETWORKS_CACHED = 4096


class Listener:
    """All listening sockets and client connections of a worker."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._sockets: list[socket.socket] = []
        self.connections: set[Connection] = set()
        self._opening: set[Connection] = set()
        self._may_relay_cache: dict[str, bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.configure()

    def configure(self) -> None:
        """Takes what matters here from the configuration; also at reload."""
        config = self._app.config
        self._networks = [ipaddress.ip_network(network) for network in config.relay_networks]
        self._may_relay_cache.clear()
        self.most = max(1, config.limits.smtp_connections // self._app.slots)
        self.limits = ServerLimits(
            message_size=config.limits.message_size_bytes,
            recipients=config.limits.recipients_per_message,
            commands=config.smtp.commands,
            errors=config.smtp.errors,
            idle_seconds=config.smtp.idle_timeout_seconds,
            data_seconds=config.smtp.data_timeout_seconds,
        )
        self.spill_bytes = min(config.spool.large_message_bytes, 1024 * 1024)
        self.bare_line_ends = config.smtp.bare_line_ends
        self.hostname = config.hostname.encode()
        self._mail = {one.address: one.mail for one in config.listeners.smtp if one.mail != NOBODY}
        assigner = Assigner(config)
        self._app.engine.assign = assigner.assign
        self._app.engine.assigned = assigner.by_sender

    # -- sockets ------------------------------------------------------------------------------------------------------

    def listen(self) -> list[str]:
        """Binds every listener. OSError with the address in its text."""
        bound = []
        for listener in self._app.config.listeners.smtp:
            address, port = listener.address
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address, port))
                sock.listen(self._app.config.smtp.backlog)
            except OSError as error:
                sock.close()
                self.stop_listening()
                raise OSError(error.errno, f"can't listen at {listener.bind}: {error.strerror}") from error
            self._sockets.append(sock)
            bound.append(listener.bind)
        return bound

    def start(self) -> None:
        """Begins to accept."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.add_reader(sock.fileno(), self._accept, sock)

    def stop_listening(self) -> None:
        """Closes the listening sockets; connections go on."""
        for sock in self._sockets:
            try:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            except RuntimeError:
                pass
            sock.close()
        self._sockets = []

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._app.count_error("ingest")
                    log.warning("no descriptor for a new connection (%s): raise LimitNOFILE", error.strerror)
                    self._pause_accepting()
                    return
                raise
            sock.setblocking(False)
            if not self._app.balance.hand_over(sock):
                self.take(sock, address[0])

    def _pause_accepting(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
        loop.call_later(1.0, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if self._sockets and not self._app.draining:
            self.start()

    # -- connections --------------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Connections open or being opened."""
        return len(self.connections) + len(self._opening)

    def take(self, sock: socket.socket, address: str) -> None:
        """An accepted socket becomes a connection of this worker."""
        refusal = None
        if self.load >= self.most:
            refusal = TOO_MANY
            if self.load >= self.most + ACCEPTS_AT_ONCE:
                sock.close()
                return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.startswith("::ffff:"):
            address = address[7:]
        server = SmtpServer(
            self.hostname,
            self.limits,
            may_relay=self.may_relay(address),
            spill_bytes=self.spill_bytes,
            bare_line_ends=self.bare_line_ends,
        )
        mail = self.mail_of(sock.getsockname()) if self._mail else None
        connection = Connection(server, self._app.engine, self, address.encode(), refusal, mail)
        self._opening.add(connection)
        task = asyncio.get_running_loop().create_task(self._start(connection, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, connection: Connection, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: cast(asyncio.BaseProtocol, connection), sock
            )
        except OSError:
            sock.close()
        finally:
            if connection in self._opening:
                self._opening.discard(connection)
                self._app.balance.publish()

    def mail_of(self, local: tuple[str, int]) -> Assignment | None:
        """What the listener gives to mail that comes in at a local address: its own listener's before one of all
        addresses. (The worker that accepted a connection may have handed it over; the address comes along.)"""
        address, port = local[:2]
        everywhere = "::" if ":" in address else "0.0.0.0"
        return next((mail for at in (address, everywhere) if (mail := self._mail.get((at, port))) is not None), None)

    def may_relay(self, address: str) -> bool:
        """Whether a client at this address may relay without authentication."""
        known = self._may_relay_cache.get(address)
        if known is None:
            ip = ipaddress.ip_address(address.partition("%")[0])
            known = any(ip.version == network.version and ip in network for network in self._networks)
            if len(self._may_relay_cache) >= NETWORKS_CACHED:
                self._may_relay_cache.clear()
            self._may_relay_cache[address] = known
        return known

    def opened(self, connection: Connection) -> None:
        self._opening.discard(connection)
        self.connections.add(connection)
        self._app.balance.publish()
        self._app.meters.count(names.SMTP_SESSIONS)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._app.balance.publish()

    def refused(self, replies: bytes) -> None:
        """Counts the refusals in what goes to a client."""
        for line in replies.split(b"\r\n"):
            if line[:1] in (b"4", b"5"):
                self._app.count_refusal(refusal_class(line))

    def broke(self, connection: Connection, error: Exception) -> None:
        """A bug of ours in this connection: it is cut off, and said. The client still has its message."""
        self._app.count_error("ingest")
        log.error("connection from %s broke; please report this", connection.client.decode(), exc_info=error)
        if connection.transport is not None:
            connection.transport.abort()

    def large_file(self, connection: Connection) -> LargeContent:
        """Where a content that is too large for memory goes."""
        return LargeContent(self._app, connection)

    def tick(self, now: float) -> None:
        """Idle deadlines; about once a second."""
        for connection in list(self.connections):
            connection.tick(now)

    def shut_idle(self, now: float) -> int:
        """421 to every connection without a message in hand; gives how many are still busy."""
        busy = 0
        for connection in list(self.connections):
            if connection.busy:
                busy += 1
            else:
                connection.shut(now)
        return busy


# How a refusal is counted: by the start of its reply, the first that fits.
REFUSALS = (
    (b"550 5.7.1", "relay_denied"),
    (b"552 5.3.4", "size"),
    (b"452 4.5.3", "recipients"),
    (b"421 4.3.2", "connections"),
    (b"452 4.3.1 Queue", "queue_full"),
    (b"452 4.3.1", "disk_full"),
    (b"451", "error"),
    (b"50", "syntax"),
    (b"550 5.5.2", "syntax"),
    (b"555", "syntax"),
)


def refusal_class(line: bytes) -> str:
    """The word of the metric for a 4xx or 5xx reply line."""
    return next((word for start, word in REFUSALS if line.startswith(start)), "policy")
