"""One test message, sent at once over a connection of its own, with the whole dialogue (`fastrelay send`).

It goes through the same router, TLS policy, client machine, source binding and permits as queued mail, but is not
queued: what the far side answers is the result.

Known fault: its one connection is not among those that limits of open connections count.
"""

from __future__ import annotations

import asyncio
import email.utils
import secrets
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastrelay._core.client import ErrorKind, Event, SmtpClient
from fastrelay._core.transaction import Transaction
from fastrelay.deliver.handshake import host_plan, session_options
from fastrelay.deliver.source import open_socket
from fastrelay.errors import FastrelayError
from fastrelay.tls.client import classify, describe, describe_certificate
from fastrelay.tls.policy import NORMAL, HostPlan

if TYPE_CHECKING:
    from fastrelay.app import App

READ_BYTES = 65536
WHOLE_SECONDS = 60.0
NEVER_SECONDS = 10 * 365 * 86400.0
PERMIT_SECONDS = 1.0  # a permit that comes so soon is waited for


class SendError(FastrelayError):
    """The test message can't even be tried."""


class Dialogue:
    """What was said, with seconds since the start."""

    def __init__(self, app: App) -> None:
        self._clock = app.clock
        self._began = app.clock.monotonic()
        self.lines: list[dict[str, Any]] = []
        self.rcpt_written = False

    def note(self, direction: str, octets: bytes | str) -> None:
        text = octets.decode("utf-8", "backslashreplace") if isinstance(octets, bytes) else octets
        at = round(self._clock.monotonic() - self._began, 4)
        for line in text.splitlines() or [""]:
            self.lines.append({"at_seconds": at, "direction": direction, "text": line})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One test message on its way."""

    app: App
    talk: Dialogue
    source: Any
    site_queue: Any
    to: str
    reverse: str


async def send_test_message(app: App, to: str, *, source: str | None, reverse_path: str) -> dict[str, Any]:
    """Sends it; {"dialogue", "outcome": delivered|deferred|failed, "reply"}. Raises SendError, ValueError."""
    local, at, domain = to.rpartition("@")
    if not at or not local or any(c in to for c in "\r\n<> "):
        raise SendError(f"{to!r} is no mailbox: give local-part@domain")
    if source is not None and source not in app.sources:
        raise SendError(f"no source is named {source!r}; there are: {', '.join(app.sources)}")
    chosen = app.sources[source] if source is not None else app.sources_of("default")[0]
    talk = Dialogue(app)
    now = app.clock.monotonic()
    route = await app.router.resolve(domain, now)
    if route.action != "site" or route.site is None:
        outcome = "deferred" if route.action == "defer" else "failed"
        talk.note("-", f"route of {domain}: {route.action}: {route.text}")
        return {"dialogue": talk.lines, "outcome": outcome, "reply": f"{route.code} {route.enhanced} {route.text}"}
    talk.note("-", f"site {route.site.key}, provider {route.site.provider}, source {chosen.name}")
    targets, failure = await app.router.targets(route.site, now)
    if failure is not None:
        outcome = "deferred" if failure.action == "defer" else "failed"
        return {
            "dialogue": talk.lines,
            "outcome": outcome,
            "reply": f"{failure.code} {failure.enhanced} {failure.text}",
        }
    policy = await app.tls.policy(domain, route, NORMAL, now)
    site_queue = app.board.site_queue(route.site, b"", now, policy)
    attempt = Attempt(app, talk, chosen, site_queue, to, reverse_path or f"postmaster@{app.config.hostname}")
    gate, taken_ns = await _permit(app, site_queue, chosen)
    try:
        return await _try_all(attempt, targets)
    finally:
        if not talk.rcpt_written:
            gate.give_back(1, taken_ns, app.clock.boottime_ns())


async def _permit(app: App, site: Any, source: Any) -> tuple[Any, int]:
    """A permit for one RCPT, and when it was taken. Raises SendError where a limit denies it."""
    gate = app.gates.gate(site, source.number)
    end_ns = app.clock.boottime_ns() + int(PERMIT_SECONDS * 1e9)
    while True:
        now_ns = app.clock.boottime_ns()
        if gate.permit(1, now_ns, True):
            return gate, now_ns
        rule, seconds = gate.denied, (gate.retry_at_ns - now_ns) / 1e9
        if rule is not None and gate.retry_at_ns > end_ns:
            when = f"in {seconds:.0f} s" if seconds < NEVER_SECONDS else "when an operator or the next day opens it"
            raise SendError(f"not sent, a limit holds it ({rule.reason}): {rule.detail}. The next permit comes {when}")
        await asyncio.sleep(max(seconds, 0.01))


async def _try_all(attempt: Attempt, targets: list[Any]) -> dict[str, Any]:
    """Tries the hosts in order until one answers."""
    talk, last = attempt.talk, "no address of the right family"
    for target in targets:
        if not attempt.source.reaches(target.family):
            continue
        plan = await host_plan(attempt.app, attempt.site_queue, target)
        where = f"{target.host} [{target.address}]:{target.port}"
        talk.note("-", f"TLS with {target.host}: {plan.mode}" + (f" ({plan.why})" if plan.why else ""))
        if plan.mode == "skip":
            last = f"{where}: {plan.why}"
            continue
        try:
            return await _one_host(attempt, target, plan)
        except (OSError, TimeoutError, ValueError) as error:
            last = f"{where}: {error or 'timed out'}"
            talk.note("-", last)
    return {"dialogue": talk.lines, "outcome": "deferred", "reply": last}


async def _one_host(attempt: Attempt, target: Any, plan: HostPlan) -> dict[str, Any]:
    """A host; once more in plain where its TLS is broken and need not be."""
    try:
        return await _talk(attempt, target, plan)
    except TlsTrouble as error:
        if plan.mandatory or plan.mode != "starttls":
            raise
        attempt.talk.note("-", f"{error}; once more, in plain")
        return await _talk(attempt, target, HostPlan("plain"))


async def _talk(attempt: Attempt, target: Any, plan: HostPlan) -> dict[str, Any]:
    app, source, talk = attempt.app, attempt.source, attempt.talk
    loop = asyncio.get_running_loop()
    talk.note("-", f"connecting to {target.host} [{target.address}]:{target.port} from {_address(app, source)}")
    sock = open_socket(source, target.family)
    try:
        async with asyncio.timeout(app.config.delivery.connect_timeout_seconds):
            await loop.sock_connect(sock, (target.address, target.port))
        async with asyncio.timeout(WHOLE_SECONDS):
            return await _dialogue(attempt, Channel(sock), target, plan)
    finally:
        sock.close()


def _address(app: App, source: Any) -> str:
    """The source's address, and the one that the far side sees where NAT gives it another."""
    configured = app.config.source(source.name)
    if configured is None or configured.seen_address == source.address:
        return source.address or "any"
    return f"{source.address} (seen as {configured.seen_address})"


def _message(app: App, to: str, reverse: str) -> bytes:
    """A small message that says what it is."""
    date = email.utils.formatdate(app.clock.wall())
    return (
        f"From: <{reverse}>\r\nTo: <{to}>\r\nSubject: fastrelay test message\r\nDate: {date}\r\n"
        f"Message-ID: <{secrets.token_hex(12)}@{app.config.hostname}>\r\nAuto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
        f"This is a test message of the mail relay {app.config.hostname}.\r\n"
    ).encode()


class TlsTrouble(OSError):
    """TLS did not come about, or not as it must be."""


class Channel:
    """A socket, with TLS over it from some point on."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str) -> ssl.SSLObject:
        """The handshake. Raises OSError, ValueError."""
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname or None)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            finally:
                await self._flush()
        self._tls = tls
        return tls

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self._sock, self._outgoing.read())

    async def _fill(self) -> None:
        octets = await self._loop.sock_recv(self._sock, READ_BYTES)
        if not octets:
            raise ConnectionResetError("closed by the host")
        self._incoming.write(octets)

    async def send(self, octets: bytes) -> None:
        """Raises OSError."""
        if self._tls is None:
            await self._loop.sock_sendall(self._sock, octets)
            return
        self._tls.write(octets)
        await self._flush()

    async def receive(self) -> bytes:
        """Octets; none at the end."""
        if self._tls is None:
            return await self._loop.sock_recv(self._sock, READ_BYTES)
        while True:
            try:
                return self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""


async def _secure(attempt: Attempt, channel: Channel, plan: HostPlan, client: SmtpClient) -> None:
    """The handshake that the plan asks for, shown in the dialogue. Raises TlsTrouble."""
    app, talk = attempt.app, attempt.talk
    assert plan.context is not None
    try:
        async with asyncio.timeout(app.config.tls.outbound.handshake_timeout_seconds):
            tls = await channel.start_tls(plan.context, plan.server_hostname)
    except (OSError, ValueError) as error:
        raise TlsTrouble(classify(error)[1]) from error
    seen = describe(tls)
    talk.note("-", f"TLS stands: {seen['version']}, {seen['cipher']}")
    der = tls.getpeercert(binary_form=True)
    if der is not None:
        talk.note("-", describe_certificate(der))
    words = plan.check(tls) if plan.check is not None else None
    if words is not None and plan.mandatory:
        raise TlsTrouble(words)
    verified = plan.verified if words is None else ""
    how = f"verified ({verified})" if verified else f"not verified: {words or 'it need not be'}"
    talk.note("-", f"the host's name is {how}")
    client.tls_started(app.clock.monotonic(), bool(verified))


async def _dialogue(attempt: Attempt, channel: Channel, target: Any, plan: HostPlan) -> dict[str, Any]:
    """One transaction. Raises OSError where no session came of it, TlsTrouble where that is for want of TLS."""
    app, talk = attempt.app, attempt.talk
    client = SmtpClient(
        attempt.source.ehlo,
        app.clock.monotonic(),
        timeouts=app.timeouts,
        allow_chunking=False,
        trace=talk.note,
        **session_options(app, attempt.site_queue.site, plan, target),
    )
    tx = Transaction(attempt.reverse.encode(), [attempt.to.encode()], _message(app, attempt.to, attempt.reverse))
    begun = False
    if plan.mode == "implicit":
        await _secure(attempt, channel, plan, client)
    while True:
        out = client.take_output()
        talk.rcpt_written = talk.rcpt_written or tx.rcpt_written
        for octets in out:
            await channel.send(octets)
        event = client.next_event()
        if event == Event.EVENT_READY and not begun:
            begun = True
            client.begin(tx, app.clock.monotonic())
        elif event == Event.EVENT_STARTTLS:
            await _secure(attempt, channel, plan, client)
        elif event == Event.EVENT_DONE:
            client.take_finished()
            break
        elif event == Event.EVENT_GREETING_REFUSED:
            reply = client.last_reply
            assert reply is not None
            outcome = "failed" if reply.code // 100 == 5 else "deferred"
            return {"dialogue": talk.lines, "outcome": outcome, "reply": reply.text_for_log()}
        elif event == Event.EVENT_CLOSING:
            if client.error_kind == ErrorKind.ERROR_TLS:
                raise TlsTrouble(client.error)
            return {"dialogue": talk.lines, "outcome": "deferred", "reply": client.error or "the host closed"}
        elif event == Event.EVENT_NONE:
            octets = await channel.receive()
            if octets:
                client.receive(octets, app.clock.monotonic())
            else:
                client.connection_lost(app.clock.monotonic())
    return await _result(attempt, channel, client, tx)


async def _result(attempt: Attempt, channel: Channel, client: SmtpClient, tx: Transaction) -> dict[str, Any]:
    """What the transaction came to; then QUIT."""
    talk, reply = attempt.talk, tx.reply_for(0)
    if reply is None:
        return {"dialogue": talk.lines, "outcome": "deferred", "reply": tx.error or "no reply"}
    outcome = {2: "delivered", 5: "failed"}.get(reply.code // 100, "deferred")
    if client.next_event() == Event.EVENT_READY:
        client.quit(attempt.app.clock.monotonic())
        for octets in client.take_output():
            await channel.send(octets)
    return {"dialogue": talk.lines, "outcome": outcome, "reply": reply.text_for_log()}
