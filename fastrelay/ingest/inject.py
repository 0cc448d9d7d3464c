"""Our own mail (TLS reports, bounce messages) on its way into the queue: the one door, as for any other.

A server machine without a socket is told the transaction, so that addresses, sizes and line ends pass the very checks
that a client's pass; then the engine accepts the envelope. `inject` returns once the message is on stable storage;
`submit` puts it into the open batch of the spool, so that its caller can have more committed with it.
The Received field names the relay itself, and the event has an empty client.

Known fault: a content larger than LARGEST_BYTES is refused; own mail is small.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastrelay._core.envelope import Envelope
from fastrelay._core.server import MESSAGE, ServerLimits, SmtpServer
from fastrelay.config.sending import Assignment
from fastrelay.errors import FastrelayError

if TYPE_CHECKING:
    from fastrelay.app import App

LARGEST_BYTES = 1 << 20
LIMITS = ServerLimits(message_size=LARGEST_BYTES, recipients=1000, commands=10, errors=1, header_size=256 << 10)
LINE_END = re.compile(rb"\r\n|\r|\n")


class InjectRefused(FastrelayError):
    """The message was not taken. `reply` is the SMTP reply a client would have had; `code` its first three digits."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply.rstrip(b"\r\n").decode("utf-8", "replace")
        self.code = int(reply[:3]) if reply[:3].isdigit() else 451
        super().__init__(self.reply)


class OwnMail:
    """Who submits, in the place of a client's connection: `mail` is what the message is assigned."""

    def __init__(self, mail: Assignment) -> None:
        self.mail = mail
        self.user: bytes | None = None
        self.tls_version: bytes | None = None
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.then: Callable[[bytes], None] | None = None  # called with the reply, before anybody is told

    def stored(self, reply: bytes, now: float) -> None:
        """The engine: on stable storage, or not."""
        if self.then is not None:
            self.then(reply)
        if not self.reply.done():  # whoever waited may have been cancelled
            self.reply.set_result(reply)


async def inject(
    app: App,
    reverse_path: bytes,
    recipients: list[bytes],
    content: bytes,
    *,
    tenant: bytes = b"",
    campaign: bytes = b"",
    parameters: bytes = b"",
) -> str:
    """Accepts a message of our own; its id, once it is on stable storage.

    reverse_path  without brackets; b"" is the null reverse-path
    content       header and body; line ends may be LF or CRLF
    parameters    of MAIL, such as b" RET=HDRS"
    Raises InjectRefused with the reply that a client would have had. It counts as transactional mail.
    """
    own = submit(app, reverse_path, recipients, content, tenant=tenant, campaign=campaign, parameters=parameters)
    reply = await own.reply
    if not reply.startswith(b"250 "):
        raise InjectRefused(reply)
    return reply.split()[-1].decode()


def submit(
    app: App,
    reverse_path: bytes,
    recipients: list[bytes],
    content: bytes,
    *,
    tenant: bytes = b"",
    campaign: bytes = b"",
    parameters: bytes = b"",
) -> OwnMail:
    """The same without waiting: the message is in the open batch, `reply` of what is returned comes with the commit."""
    if app.draining:
        raise InjectRefused(b"421 4.3.2 The relay is stopping\r\n")
    now = app.clock.monotonic()
    envelope = envelope_of(app.config.hostname.encode(), reverse_path, recipients, content, parameters, now)
    mail = Assignment(
        campaign=campaign.decode("utf-8", "replace") or None,
        tenant=tenant.decode("utf-8", "replace") or None,
        priority="transactional",
    )
    own = OwnMail(mail)
    hostname = app.config.hostname.encode()
    trace_head = b"Received: by %b (fastrelay, mail of its own)\r\n\tid " % hostname
    refusal = app.engine.accept(own, envelope, b"", trace_head, None, now)
    if refusal is not None:
        raise InjectRefused(refusal)
    return own


def envelope_of(
    hostname: bytes, reverse_path: bytes, recipients: list[bytes], content: bytes, parameters: bytes, now: float
) -> Envelope:
    """The envelope that the server machine makes of a transaction. Raises InjectRefused with its first refusal."""
    if not recipients:
        raise InjectRefused(b"554 5.5.1 No recipients\r\n")
    content = LINE_END.sub(b"\r\n", content)
    content = content if content.endswith(b"\r\n") else content + b"\r\n"
    if len(content) > LARGEST_BYTES:  # the machine would give it out in pieces, for a file
        raise InjectRefused(b"552 5.3.4 Message larger than %d octets\r\n" % LARGEST_BYTES)
    machine = SmtpServer(hostname, LIMITS, may_relay=True, spill_bytes=2 * LARGEST_BYTES)
    machine.greeting(now)
    machine.take_output()
    if not all(map(bytes.isascii, (reverse_path, *recipients))):
        parameters += b" SMTPUTF8"
    if not content.isascii():
        parameters += b" BODY=8BITMIME"
    for line in (
        b"EHLO %b" % hostname,
        b"MAIL FROM:<%b>%b" % (reverse_path, parameters),
        *(b"RCPT TO:<%b>" % recipient for recipient in recipients),
        b"BDAT %d LAST" % len(content),
    ):
        if b"\r" in line or b"\n" in line:
            raise InjectRefused(b"501 5.1.3 An address holds a line end\r\n")
        machine.receive(line + b"\r\n", now)
        _refused_by(machine)
    machine.receive(content, now)
    _refused_by(machine)
    event = machine.next_event()
    if event != MESSAGE or machine.envelope is None:
        raise InjectRefused(b"451 4.3.0 The message was not understood\r\n")
    envelope = machine.envelope
    if (envelope.reverse_path, envelope.recipients) != (reverse_path, recipients):  # "a@b.test> ORCPT=…" says more
        raise InjectRefused(b"501 5.1.3 An address is not what it seems\r\n")
    return envelope


def _refused_by(machine: SmtpServer) -> None:
    """Raises the machine's last reply where it refuses."""
    out = machine.take_output()
    if out[:1] in (b"4", b"5"):
        raise InjectRefused(out)
