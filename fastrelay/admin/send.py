"""One test message, sent at once over a connection of its own, with the whole dialogue (`fastrelay send`).

It goes through the same router, client machine, source binding and permits as queued mail, but is not queued: what the
far side answers is the result.

Known fault: its one connection is not among those that limits of open connections count.
"""

from __future__ import annotations

import asyncio
import email.utils
import secrets
from typing import TYPE_CHECKING, Any

from fastrelay._core.client import Event, SmtpClient
from fastrelay._core.transaction import Transaction
from fastrelay.deliver.source import open_socket
from fastrelay.errors import FastrelayError

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
    gate, taken_ns = await _permit(app, app.board.site_queue(route.site, b"", now), chosen)
    try:
        return await _try_all(app, talk, chosen, targets, to, reverse_path or f"postmaster@{app.config.hostname}")
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


async def _try_all(app: App, talk: Dialogue, chosen: Any, targets: list[Any], to: str, reverse: str) -> dict[str, Any]:
    """Tries the hosts in order until one answers."""
    last = "no address of the right family"
    for target in targets:
        if not chosen.reaches(target.family):
            continue
        try:
            return await _talk(app, talk, chosen, target, to, reverse)
        except (OSError, TimeoutError) as error:
            last = f"{target.host} [{target.address}]:{target.port}: {error or 'timed out'}"
            talk.note("-", last)
    return {"dialogue": talk.lines, "outcome": "deferred", "reply": last}


async def _talk(app: App, talk: Dialogue, source: Any, target: Any, to: str, reverse: str) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    talk.note("-", f"connecting to {target.host} [{target.address}]:{target.port} from {_address(app, source)}")
    sock = open_socket(source, target.family)
    try:
        async with asyncio.timeout(app.config.delivery.connect_timeout_seconds):
            await loop.sock_connect(sock, (target.address, target.port))
        async with asyncio.timeout(WHOLE_SECONDS):
            return await _dialogue(app, talk, source, sock, to, reverse)
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


async def _dialogue(app: App, talk: Dialogue, source: Any, sock: Any, to: str, reverse: str) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    client = SmtpClient(source.ehlo, app.clock.monotonic(), timeouts=app.timeouts, allow_chunking=False)
    client.trace = talk.note
    content = _message(app, to, reverse)
    tx = Transaction(reverse.encode(), [to.encode()], content)
    begun = False
    while True:
        out = client.take_output()
        talk.rcpt_written = talk.rcpt_written or tx.rcpt_written
        for octets in out:
            await loop.sock_sendall(sock, octets)
        event = client.next_event()
        if event == Event.EVENT_READY and not begun:
            begun = True
            client.begin(tx, app.clock.monotonic())
        elif event == Event.EVENT_DONE:
            client.take_finished()
            break
        elif event == Event.EVENT_GREETING_REFUSED:
            reply = client.last_reply
            assert reply is not None
            outcome = "failed" if reply.code // 100 == 5 else "deferred"
            return {"dialogue": talk.lines, "outcome": outcome, "reply": reply.text_for_log()}
        elif event == Event.EVENT_CLOSING:
            return {"dialogue": talk.lines, "outcome": "deferred", "reply": client.error or "the host closed"}
        elif event == Event.EVENT_NONE:
            octets = await loop.sock_recv(sock, READ_BYTES)
            if octets:
                client.receive(octets, app.clock.monotonic())
            else:
                client.connection_lost(app.clock.monotonic())
    reply = tx.reply_for(0)
    if reply is None:
        return {"dialogue": talk.lines, "outcome": "deferred", "reply": tx.error or "no reply"}
    outcome = {2: "delivered", 5: "failed"}.get(reply.code // 100, "deferred")
    with_quit = client.next_event()
    if with_quit == Event.EVENT_READY:
        client.quit(app.clock.monotonic())
        for octets in client.take_output():
            await loop.sock_sendall(sock, octets)
    return {"dialogue": talk.lines, "outcome": outcome, "reply": reply.text_for_log()}
