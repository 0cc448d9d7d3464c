"""SMTP listeners of one worker: accepting, who may relay, TLS, connection limits, idle deadlines.

Every worker has its own socket on each address (SO_REUSEPORT), so the kernel spreads connections. That spread is bad
for few connections, so a worker above its fair share hands an accepted socket to the least loaded one (balance.py).

Sockets are accepted here rather than by uvloop: libuv accepts and closes silently when descriptors run out, and a
connection over the limit deserves its 421.

What becomes of an accepted socket, by the listener (`Door`) it came in by: the PROXY header is read where balancers
speak it (proxy.py), TLS is begun where it is implicit, then the connection greets (ext: ingest.pyx). All of it counts
as a connection, and each step has a deadline of its own. The worker that keeps a connection does all of this: what is
handed to another worker is a socket of which nothing was read.

Known faults: none.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from fastrelay._core.ingest import Connection
from fastrelay._core.server import ServerLimits, SmtpServer
from fastrelay.config.schema import Config, SmtpListener
from fastrelay.config.security import ListenerAuth, ListenerTls
from fastrelay.config.sending import Assignment
from fastrelay.ingest.assign import NOBODY, Assigner
from fastrelay.ingest.auth import Authenticator, is_loopback
from fastrelay.ingest.inbound import Addresses, InboundMail
from fastrelay.ingest.large import LargeContent
from fastrelay.ingest.proxy import ProxyFault, read_header
from fastrelay.ingest.suppressed import verifier
from fastrelay.metrics import names
from fastrelay.tls.server import SHUTDOWN_SECONDS, ServerTls, handshake_result

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

ACCEPTS_AT_ONCE = 64
TOO_MANY = b"421 4.3.2 Too many connections, try again later\r\n"
NOT_HERE = b"421 4.3.2 Reconnect, please\r\n"
BALANCERS_ONLY = b"554 5.7.1 This port is for load balancers only\r\n"
NO_TLS_NOW = b"454 4.7.0 TLS is not available any more; reconnect\r\n"
NETWORKS_CACHED = 4096
PROXY_LOG_SECONDS = 60.0  # at most one line about balancers in so long

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Door:
    """One listener of the configuration, with what was left to us decided."""

    listener: SmtpListener
    tls: ListenerTls
    auth: ListenerAuth
    mail: Assignment | None
    proxies: Networks
    inbound: Addresses | None = None  # the addresses that take what comes back; then nothing is relayed

    @classmethod
    def of(cls, config: Config, listener: SmtpListener) -> Door:
        return cls(
            listener,
            listener.tls or ("none" if config.tls.certificate is None else "starttls"),
            "none" if listener.inbound else listener.auth or ("none" if config.auth.users is None else "optional"),
            listener.mail if listener.mail != NOBODY else None,
            tuple(ipaddress.ip_network(network) for network in listener.proxy_from),
            Addresses(listener.inbound) if listener.inbound else None,
        )


NO_DOOR = Door(SmtpListener(bind="127.0.0.1:0"), "none", "none", None, ())


class Listener:
    """All listening sockets and client connections of a worker."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._sockets: list[socket.socket] = []
        self.connections: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()  # not greeted yet
        self._task_of: dict[Connection, asyncio.Task[None]] = {}
        self._upgrading: set[asyncio.Task[None]] = set()
        self._may_relay_cache: dict[str, bool] = {}
        self._doors: dict[tuple[str, int], Door] = {}
        self._proxy_logged_at = float("-inf")
        self.limits: ServerLimits | None = None
        self.tls = ServerTls(app)
        self.auth = Authenticator(app)
        self.inbound = InboundMail(app)
        self.configure()

    def configure(self) -> None:
        """Takes what matters here from the configuration; also at reload."""
        config = self._app.config
        self._networks = [ipaddress.ip_network(network) for network in config.relay_networks]
        self._may_relay_cache.clear()
        self.most = max(1, config.limits.smtp_connections // self._app.slots)
        self.tls.configure(config.tls)
        self.auth.configure()
        if self.limits is not None and config.tls.certificate is None:
            self.limits.tls_refusal = NO_TLS_NOW  # for clients that were told of STARTTLS before
            self.inbound.limits.tls_refusal = NO_TLS_NOW
        self.limits = ServerLimits(
            message_size=config.limits.message_size_bytes,
            recipients=config.limits.recipients_per_message,
            commands=config.smtp.commands,
            errors=config.smtp.errors,
            idle_seconds=config.smtp.idle_timeout_seconds,
            data_seconds=config.smtp.data_timeout_seconds,
        )
        self.inbound.configure(config)
        self.spill_bytes = min(config.spool.large_message_bytes, 1024 * 1024)
        self.bare_line_ends = config.smtp.bare_line_ends
        self.hostname = config.hostname.encode()
        # A socket that the new configuration does not name listens until the next start, by the rules it began with.
        self._doors |= {one.address: Door.of(config, one) for one in config.listeners.smtp}
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
        self.inbound.start()

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
        task = asyncio.get_running_loop().create_task(self._open(sock, address, refusal))
        self._opening.add(task)
        task.add_done_callback(partial(self._opened_or_gone, sock))

    def _opened_or_gone(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            sock.close()  # it may never have begun
        if task in self._opening:  # it never greeted
            self._opening.discard(task)
            self._app.balance.publish()
        if not task.cancelled() and task.exception() is not None:
            self._app.count_error("ingest")
            log.error("a connection could not be opened; please report this", exc_info=task.exception())

    async def _open(self, sock: socket.socket, address: str, refusal: bytes | None) -> None:
        """From an accepted socket to the greeting."""
        try:
            door = self.door_of(sock.getsockname())
            client: str | None = address
            if door is None:
                door, refusal = NO_DOOR, NOT_HERE
            elif door.proxies:
                if self._is_balancer(door, address):
                    client = (await read_header(sock)).client
                elif door.tls == "implicit":
                    self._app.count_refusal("proxy")
                    sock.close()
                    return
                else:
                    refusal = BALANCERS_ONLY
            if door.inbound is not None and self.inbound.full:
                refusal = TOO_MANY
            await self._greet(sock, door, address, client, refusal)
        except ProxyFault as fault:
            self._bad_proxy(address, str(fault))
            sock.close()
        except TimeoutError:
            self._bad_proxy(address, "its PROXY header did not come in time")
            sock.close()
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise

    async def _greet(
        self, sock: socket.socket, door: Door, peer: str, client: str | None, refusal: bytes | None
    ) -> None:
        """`client` None: a balancer at `peer` does not say whom it comes for, which proves no right to relay."""
        server = self._server(door, client)
        loopback = is_loopback(peer) and (client is None or is_loopback(client)) if door.auth != "none" else False
        connection = Connection(
            server, self._app.engine, self, (client or peer).encode(), refusal, door.mail, door, loopback
        )
        if door.inbound is None:
            server.verify_recipient = verifier(self._app, connection, None)
        if door.tls != "none" or door.auth != "none":
            server.tls = door.tls == "implicit"
            server.offer_starttls = door.tls == "starttls" and self.tls.context is not None
            server.auth_required = door.auth == "required"
            self._offer_auth(connection)
        if door.inbound is not None:
            connection.inbound = self.inbound
            self.inbound.connections.add(connection)
        self._task_of[connection] = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            await self._connect(sock, connection)
        finally:
            self._task_of.pop(connection, None)
            if connection not in self.connections:
                self.inbound.closed(connection)

    def _server(self, door: Door, client: str | None) -> SmtpServer:
        """The machine for a connection that came in by `door`."""
        if door.inbound is None:
            return SmtpServer(
                self.hostname,
                self.limits,  # type: ignore[arg-type]
                may_relay=client is not None and self.may_relay(client),
                spill_bytes=self.spill_bytes,
                bare_line_ends=self.bare_line_ends,
            )
        limits = self.inbound.limits
        server = SmtpServer(
            self.hostname, limits, may_relay=True, spill_bytes=limits.message_size, bare_line_ends="repair"
        )
        server.verify_recipient = door.inbound.verify
        server.without_dsn = True
        return server

    async def _connect(self, sock: socket.socket, connection: Connection) -> None:
        """To a transport, over TLS if that is implicit."""
        loop = asyncio.get_running_loop()
        if not connection.server.tls:
            await loop.connect_accepted_socket(lambda: cast(asyncio.BaseProtocol, connection), sock)
            return
        if connection.refusal is not None or self.tls.context is None:  # no handshake for that
            self._app.count_refusal("connections")
            sock.close()
            return
        error: BaseException | None = ConnectionResetError()
        try:
            await loop.connect_accepted_socket(
                lambda: cast(asyncio.BaseProtocol, connection),
                sock,
                ssl=self.tls.context,
                ssl_handshake_timeout=self._app.config.tls.handshake_timeout_seconds,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
            if connection.tls_version is not None:  # else the client went in the middle, and uvloop calls it a success
                error = None
        except OSError as failure:
            error = failure
        finally:
            self._count_handshake(connection, error)

    def upgrade(self, connection: Connection) -> None:
        """The connection answered STARTTLS: now the handshake. Reading is paused since before the answer."""
        task = asyncio.get_running_loop().create_task(self._upgrade(connection))
        self._upgrading.add(task)
        task.add_done_callback(self._upgraded)

    def _upgraded(self, task: asyncio.Task[None]) -> None:
        self._upgrading.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._app.count_error("ingest")
            log.error("an upgrade to TLS broke; please report this", exc_info=task.exception())

    async def _upgrade(self, connection: Connection) -> None:
        plain = cast(asyncio.WriteTransport, connection.transport)
        error: BaseException | None = ConnectionResetError()
        secured: Any = None
        try:
            if plain.is_closing():
                raise ConnectionResetError
            secured = await asyncio.get_running_loop().start_tls(
                plain,
                cast(asyncio.BaseProtocol, connection),
                cast(ssl.SSLContext, self.tls.context),
                server_side=True,
                ssl_handshake_timeout=self._app.config.tls.handshake_timeout_seconds,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
            if not connection.closed and secured.get_extra_info("ssl_object") is not None:
                error = None
        except OSError as failure:
            error = failure
        finally:
            if error is not None:
                plain.abort()
                connection.connection_lost(error)  # uvloop does not tell in each case
        if error is None:
            connection.tls_started(secured)
        self._count_handshake(connection, error)

    def _count_handshake(self, connection: Connection, error: BaseException | None) -> None:
        version = connection.tls_version or "none"
        self._app.meters.count(names.SMTP_TLS_HANDSHAKES, result=handshake_result(error), version=version)

    def secured(self, connection: Connection) -> None:
        """STARTTLS succeeded; what is offered under TLS may be more."""
        connection.server.tls = True
        self._offer_auth(connection)

    def _offer_auth(self, connection: Connection) -> None:
        door, server = connection.door, connection.server
        if door.auth == "none":
            return
        server.offer_auth = self.auth.offer(door.listener, server.tls, connection.loopback)
        server.auth_needs_tls = server.offer_auth is None and server.offer_starttls

    def _is_balancer(self, door: Door, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        return any(ip.version == network.version and ip in network for network in door.proxies)

    def _bad_proxy(self, address: str, why: str) -> None:
        self._app.count_refusal("proxy")
        now = self._app.clock.monotonic()
        if now - self._proxy_logged_at >= PROXY_LOG_SECONDS:
            self._proxy_logged_at = now
            log.warning("a connection of the load balancer %s was refused: %s (is send-proxy on?)", address, why)

    def door_of(self, local: tuple[Any, ...]) -> Door | None:
        """By which listener a connection with this local address came in: its own listener before one of all
        addresses. (The worker that accepted a connection may have handed it over; the address comes along. None: that
        worker began with other listeners than this one, which was started again after a reload.)"""
        address, port = local[:2]
        if address.startswith("::ffff:"):
            address = address[7:]
        everywhere = "::" if ":" in address else "0.0.0.0"
        keys = [(address, port), (everywhere, port), (address, 0), (everywhere, 0)]  # 0: the system chose one
        return next((self._doors[key] for key in keys if key in self._doors), None)

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
        task = self._task_of.get(connection)
        if task is not None:
            self._opening.discard(task)
        self.connections.add(connection)
        self._app.balance.publish()
        self._app.meters.count(names.SMTP_SESSIONS)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if connection.inbound is not None:
            self.inbound.closed(connection)
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
        self.tls.look(now)
        self.auth.tick(now)
        self.inbound.tick(now)

    def close(self) -> None:
        """The worker ends; connections were cut before."""
        for task in (*self._opening, *self._upgrading):
            task.cancel()
        self.auth.close()
        self.inbound.close()

    def shut_idle(self, now: float) -> int:
        """421 to every connection without a message in hand; gives how many are still busy."""
        busy = 0
        for task in self._opening:
            task.cancel()
        for connection in list(self.connections):
            if connection.busy:
                busy += 1
            else:
                connection.shut(now)
        return busy


# How a refusal is counted: by the start of its reply, the first that fits.
REFUSALS = (
    (b"550 5.7.1", "relay_denied"),
    (b"554 5.7.1 This port", "proxy"),
    (b"53", "auth"),
    (b"504 5.5.4", "auth"),
    (b"454 4.7.0", "auth"),
    (b"525", "auth"),
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
