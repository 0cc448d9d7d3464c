"""Mail that comes back, at a worker: which addresses take it, and its way to the feedback process.

A listener with `inbound` addresses relays nothing. Anybody may write to these addresses, and to no other: bounces,
complaints and reports come from all the world. The message is kept in memory until the feedback process has done all
that follows from it (feedback/intake.py); only then the client hears 250. It is never spooled.

    bounces@example.com     also bounces+anything@, and VERP: bounces+user=far.example@, bounces-user=far.example@
    *@bounces.example.com   every address there

Bounds, each worker's share of the whole: `inbound.connections`; octets of contents in memory (MOST_OCTETS, or three
messages of the largest size), beyond which the connection with the largest unfinished content is cut off (421), so
that some that draw out their mail do not keep others from theirs.

Known faults: what a client sends within one read beyond a bound is in memory for that moment.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastrelay._core.server import ServerLimits
from fastrelay.config.schema import Config
from fastrelay.feedback.line import AWAY, Inbound, Line

if TYPE_CHECKING:
    from fastrelay._core.envelope import Envelope
    from fastrelay._core.ingest import Connection
    from fastrelay.app import App

log = logging.getLogger(__name__)

MOST_OCTETS = 64 << 20  # of contents, over all workers
CONNECT_SECONDS = 5.0  # for which a message waits while the feedback process starts
UNKNOWN = b"550 5.1.1 No such address here\r\n"
LOOP = b"554 5.4.6 Too many Received fields: a loop\r\n"
CROWDED = b"451 4.3.1 Too much mail at the moment, try again later\r\n"
CUT = b"421 4.3.1 Too much mail at the moment, try again later\r\n"
LATE = b"451 4.3.0 Took too long, try again later\r\n"
_TOKEN = rb"f[a-z2-7]{28,}"
_HYPHENATED = re.compile(rb".+=.+|" + _TOKEN)


class Addresses:
    """The inbound addresses of a listener."""

    def __init__(self, addresses: Iterable[str]) -> None:
        pairs = [one.lower().encode().rpartition(b"@") for one in addresses]
        self._domains = {domain for local, _, domain in pairs if local == b"*"}
        self._mailboxes = {local + b"@" + domain for local, _, domain in pairs if local != b"*"}

    def take(self, mailbox: bytes) -> bool:
        """Whether mail to this address comes in; case does not matter."""
        mailbox = mailbox.lower()
        local, _, domain = mailbox.rpartition(b"@")
        domain = domain.removesuffix(b".")
        if domain in self._domains:
            return True
        if local + b"@" + domain in self._mailboxes or local.partition(b"+")[0] + b"@" + domain in self._mailboxes:
            return True
        at = local.find(b"-")
        while at >= 0:  # the address itself may have hyphens
            if local[:at] + b"@" + domain in self._mailboxes and _HYPHENATED.fullmatch(local[at + 1 :]):
                return True
            at = local.find(b"-", at + 1)
        return False

    def verify(self, mailbox: bytes) -> bytes | None:
        """The reply that refuses a recipient, or None (SmtpServer.verify_recipient)."""
        return None if self.take(mailbox) else UNKNOWN


class _Waiting:
    """A message in the hands of the feedback process, or on the way there."""

    __slots__ = ("connection", "deadline", "message", "octets")

    def __init__(self, connection: Connection, message: Inbound, deadline: float) -> None:
        self.connection = connection
        self.message: Inbound | None = message  # None once it is sent
        self.octets = len(message.octets)
        self.deadline = deadline


class InboundMail:
    """Everything inbound of one worker."""

    limits: ServerLimits

    def __init__(self, app: App) -> None:
        self._app = app
        self.connections: set[Connection] = set()
        self._sizes: dict[Connection, int] = {}  # octets of what is being read
        self._collected = 0
        self._waiting: dict[int, _Waiting] = {}
        self._waiting_octets = 0
        self._last = 0
        self._line: Line | None = None

    def configure(self, config: Config) -> None:
        """Also at a reload; connections keep the limits that they began with."""
        inbound = config.inbound
        self.most = max(1, inbound.connections // self._app.slots)
        self.most_octets = max(3 * inbound.message_size_bytes, MOST_OCTETS // self._app.slots)
        self.timeout = inbound.processing_timeout_seconds
        self.received_limit = config.smtp.received_limit
        self.limits = ServerLimits(
            message_size=inbound.message_size_bytes,
            recipients=config.limits.recipients_per_message,
            commands=config.smtp.commands,
            errors=config.smtp.errors,
            idle_seconds=config.smtp.idle_timeout_seconds,
            data_seconds=config.smtp.data_timeout_seconds,
        )

    def start(self) -> None:
        """Connects to the feedback process, where there is a listener for this."""
        if any(one.inbound for one in self._app.config.listeners.smtp):
            self._the_line()

    def _the_line(self) -> Line:
        if self._line is None:
            self._line = Line(self._app.state_dir, self._answered, self._up, self._down)
            self._line.start()
        return self._line

    @property
    def full(self) -> bool:
        """Whether a further connection is one too many."""
        return len(self.connections) >= self.most

    # -- what connections say -----------------------------------------------------------------------------------------

    def grown(self, connection: Connection, octets: int, now: float) -> None:
        """So much of a content is in memory; after every read."""
        before = self._sizes.get(connection, 0)
        if octets == before:
            return
        self._collected += octets - before
        if octets:
            self._sizes[connection] = octets
        else:
            self._sizes.pop(connection, None)
        while self._collected + self._waiting_octets > self.most_octets and self._sizes:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self._forget_size(largest)
            largest.server.refuse(CUT)
            largest.pump(now)

    def _forget_size(self, connection: Connection) -> None:
        self._collected -= self._sizes.pop(connection, 0)

    def take(self, connection: Connection, envelope: Envelope, now: float) -> bytes | None:
        """A whole message came in. Gives a reply that refuses it; None: `connection.stored` follows."""
        self._forget_size(connection)
        if envelope.received_count > self.received_limit:
            return LOOP
        octets = envelope.content
        if octets is None or self._waiting_octets + len(octets) > self.most_octets:
            return CROWDED
        message = Inbound(
            list(envelope.recipients), envelope.reverse_path, octets, connection.client, self._app.clock.wall()
        )
        line = self._the_line()
        patience = self.timeout if line.up else min(self.timeout, CONNECT_SECONDS)
        self._last += 1
        waiting = self._waiting[self._last] = _Waiting(connection, message, now + patience)
        self._waiting_octets += waiting.octets
        if line.up:
            self._send(self._last, waiting)
        return None

    def closed(self, connection: Connection) -> None:
        """The client is gone. Its message, if it is handed over, has its effect all the same."""
        self.connections.discard(connection)
        self._forget_size(connection)

    # -- what the line says -------------------------------------------------------------------------------------------

    def _send(self, number: int, waiting: _Waiting) -> None:
        assert self._line is not None
        assert waiting.message is not None
        self._line.send(number, waiting.message)
        waiting.message = None

    def _up(self) -> None:
        now = self._app.clock.monotonic()
        for number, waiting in self._waiting.items():
            waiting.deadline = now + self.timeout
            if waiting.message is not None:
                self._send(number, waiting)

    def _down(self) -> None:
        """What was sent may have been done or not: the clients try again, and a second time nothing follows."""
        for number, waiting in list(self._waiting.items()):
            if waiting.message is None:
                self._end(number, AWAY)

    def _answered(self, number: int, reply: bytes) -> None:
        self._end(number, reply)

    def _end(self, number: int, reply: bytes) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return  # too late
        self._waiting_octets -= waiting.octets
        waiting.connection.stored(reply, self._app.clock.monotonic())

    # -- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Who waited too long; about once a second."""
        late = [number for number, waiting in self._waiting.items() if waiting.deadline <= now]
        for number in late:
            self._end(number, LATE)

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
