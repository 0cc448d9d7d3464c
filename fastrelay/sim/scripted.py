"""An MX host that plays a ``Fault``: one coroutine a session, one step after the other.

Slower than ``mx`` and easy to follow. What it took is in an ``Account`` (a message whose reply is lost by script is
there too, if the script says it was taken); what the client did against the protocol is in the account's violations.

Known faults: one session at a time reads as fast as it can, so a BODY stage may come a little later than its octet
count says, by as much as one read.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import re
import socket
import ssl
import struct

from fastrelay.sim.account import Account
from fastrelay.sim.certificates import Authority
from fastrelay.sim.faults import EVERY_SESSION, USUAL, Close, Fault, Flood, Mute, Reset, Say, Step, Turn

READ_OCTETS = 16 * 1024
LINGER_SECONDS = 1.0
MOST_DIALOGUE = 10_000  # lines of dialogue kept for a failing test to show
_PATH = re.compile(rb"<([^>]*)>")


class _Left(Exception):
    """The session is over: the client left, or the script closed it."""


class ScriptedMx:
    """One address that plays one fault for its first ``fault.sessions`` sessions and is good afterwards."""

    def __init__(
        self,
        fault: Fault,
        account: Account | None = None,
        pause: float = 0.02,
        authority: Authority | None = None,
        name: str = "scripted.mx.example",
    ) -> None:
        """`authority`, `name`: who vouches for its certificates, and for which name, where it offers TLS."""
        self.fault = fault
        self._authority = authority
        self._name = name
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.tls_sessions = 0  # that began TLS
        self.resumed = 0  # of these, by an earlier one's ticket
        self.plain_messages = 0  # commands MAIL without TLS
        self.user, self.password = b"us", b"secret"
        self.logins: list[str] = []  # mechanisms by which the client logged in
        self.account = account if account is not None else Account(keep_contents=True)
        self.pause = pause  # seconds between the octets of a paced step
        self.sessions = 0
        self.faulty_sessions = 0
        self.dialogue: list[str] = []
        self.host = ""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._deferred: set[str] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen. Raises OSError."""
        tls = self.context(self.fault.tls) if self.fault.implicit else None
        self._server = await asyncio.start_server(self._connected, host, port, ssl=tls)
        self.host, self.port = self._server.sockets[0].getsockname()[:2]

    async def stop(self) -> None:
        """Close the listener and end every session."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> ScriptedMx:
        if self._server is None:
            await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def note(self, number: int, direction: str, octets: bytes) -> None:
        """Keep a line of dialogue."""
        if len(self.dialogue) < MOST_DIALOGUE:
            self.dialogue.append(f"{number} {direction} {octets[:200]!r}")

    def context(self, flaw: str) -> ssl.SSLContext:
        """The TLS context with a certificate of that flaw, made once."""
        context = self._contexts.get(flaw)
        if context is None:
            if self._authority is None:
                self._authority = Authority()
            context = self._contexts[flaw] = self._authority.server(self._name, flaw)  # type: ignore[arg-type]
        return context

    def still_refused(self, local_part: str, step: Step) -> bool:
        """Whether a RCPT is refused now: with 5xx always, else the first time only."""
        if isinstance(step, Say) and step.text[:1] == b"5":
            return True
        again = local_part in self._deferred
        self._deferred.add(local_part)
        return not again

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.sessions += 1
        faulty = self.sessions <= self.fault.sessions
        self.faulty_sessions += faulty
        session = _Session(self, self.sessions, faulty, reader, writer)
        try:
            await session.run()
        except (_Left, OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _Session:
    def __init__(
        self,
        server: ScriptedMx,
        number: int,
        faulty: bool,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._server = server
        self._fault = server.fault if faulty else Fault("good", "", tls=server.fault.good_tls)
        self._tls = server.fault.implicit
        self._user = b""
        self._number = number
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._held: list[bytes] = []
        self._turns: dict[str, int] = {}
        self._reset()

    def _reset(self) -> None:
        self._mail = False
        self._recipients: list[bytes] = []
        self._chunks = bytearray()
        self._answered_early = False

    async def run(self) -> None:
        """The whole session."""
        await self._stage("greeting", b"220 scripted.mx.example ESMTP\r\n")
        while True:
            line = await self._line()
            verb = line[:4].upper()
            if verb in (b"EHLO", b"HELO"):
                self._reset()
                await self._stage(verb.decode(), self._hello(verb))
            elif line.upper() == b"STARTTLS" and self._fault.tls and not self._tls:
                await self._starttls()
            elif verb == b"AUTH" and self._fault.auth:
                await self._auth(line)
            elif verb == b"MAIL" and self._fault.auth and not self._user:
                await self._write(b"530 5.7.0 who are you\r\n")
            elif verb == b"MAIL":
                self._server.plain_messages += not self._tls
                self._mail = await self._stage("MAIL", b"250 2.1.0 OK\r\n") == b"2"
            elif verb == b"RCPT":
                await self._rcpt(line)
            elif verb == b"DATA":
                await self._data()
            elif verb == b"BDAT":
                await self._bdat(line)
            elif verb == b"RSET":
                self._reset()
                await self._stage("RSET", b"250 2.0.0 OK\r\n")
            elif verb == b"QUIT":
                await self._stage("QUIT", b"221 2.0.0 Bye\r\n")
                return
            else:
                self._server.account.violation(f"unknown command {line[:80]!r}")
                await self._write(b"500 5.5.1 what\r\n")

    # commands

    def _hello(self, verb: bytes) -> bytes:
        lines = [b"scripted.mx.example", *self._fault.extensions]
        if self._fault.size_limit:
            lines.append(b"SIZE %d" % self._fault.size_limit)
        if self._fault.tls and not self._tls:
            lines.append(b"STARTTLS")
        if self._fault.auth and (self._tls or not self._fault.tls):
            lines.append(b"AUTH " + b" ".join(self._fault.auth))
        if verb == b"HELO":
            lines = lines[:1]
        return b"".join(b"250-%b\r\n" % each for each in lines[:-1]) + b"250 %b\r\n" % lines[-1]

    async def _starttls(self) -> None:
        if self._buffer:
            self._server.account.violation("octets pipelined behind STARTTLS")
        if not {"STARTTLS", "HANDSHAKE"} & set(self._fault.play):
            # The client's first octets of TLS must not be read as ours, however slowly 220 goes out.
            self._writer.transport.pause_reading()  # type: ignore[attr-defined]
        if await self._stage("STARTTLS", b"220 2.0.0 go ahead\r\n") != b"2":
            return
        self._server.tls_sessions += 1
        turn = self._turn("HANDSHAKE")
        if turn != USUAL:
            await self._perform(turn)
        await self._flush()
        await self._writer.start_tls(self._server.context(self._fault.tls))
        self._tls = True
        self._server.resumed += bool(self._writer.get_extra_info("ssl_object").session_reused)
        self._server.note(self._number, ">", b"(TLS)")
        await self._perform(self._turn("TLS"))

    async def _auth(self, line: bytes) -> None:
        """PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195)."""
        words = line.split()
        mechanism = words[1].upper()
        if mechanism not in self._fault.auth:
            await self._write(b"504 5.5.4 no such mechanism\r\n")
            return
        server = self._server
        if mechanism == b"PLAIN":
            octets = base64.b64decode(words[2]) if len(words) > 2 else await self._ask(b"")
            good = octets.split(b"\0") == [b"", server.user, server.password]
        elif mechanism == b"LOGIN":
            good = [await self._ask(b"Username:"), await self._ask(b"Password:")] == [server.user, server.password]
        else:
            challenge = b"<17.42@scripted.mx.example>"
            digest = hmac.new(server.password, challenge, "md5").hexdigest().encode()
            good = await self._ask(challenge) == server.user + b" " + digest
        if good:
            self._user = server.user
            server.logins.append(mechanism.decode())
        await self._stage("AUTH", b"235 2.7.0 welcome\r\n" if good else b"535 5.7.8 not you\r\n")

    async def _ask(self, challenge: bytes) -> bytes:
        await self._write(b"334 " + base64.b64encode(challenge) + b"\r\n")
        return base64.b64decode(await self._line())

    async def _rcpt(self, line: bytes) -> None:
        found = _PATH.search(line)
        if found is None or not self._mail:
            await self._write(b"503 5.5.1 MAIL first\r\n")
            return
        local_part = found.group(1).partition(b"@")[0].decode()
        for prefix, step in self._fault.by_local_part.items():
            if local_part.startswith(prefix) and self._server.still_refused(local_part, step):
                await self._perform((step,))
                return
        if await self._stage("RCPT", b"250 2.1.5 OK\r\n") == b"2":
            self._recipients.append(found.group(1))

    async def _data(self) -> None:
        usual = b"354 go ahead\r\n" if self._recipients else b"554 5.5.1 no valid recipients\r\n"
        if self._buffer:
            self._server.account.violation("octets pipelined behind DATA")
        if await self._stage("DATA", usual) != b"3":
            return
        content = await self._content()
        if not self._recipients and content:
            self._server.account.violation("content sent although no recipient was accepted")
        await self._final(content, "FINAL")

    async def _content(self) -> bytes:
        """Read to the final dot, playing BODY on the way."""
        played = "BODY" not in self._fault.play
        scanned = 0
        while True:
            if not played and len(self._buffer) >= self._fault.body_after:
                played = self._answered_early = True
                await self._stage("BODY", b"")
            if self._buffer.startswith(b".\r\n"):
                end, used = 0, 3
                break
            end = self._buffer.find(b"\r\n.\r\n", scanned)
            if end >= 0:
                end, used = end + 2, end + 5
                break
            scanned = max(0, len(self._buffer) - 4)
            await self._fill()
        content = bytes(self._buffer[:end])
        del self._buffer[:used]
        if content[:1] == b".":
            content = content[1:]
        return content.replace(b"\r\n.", b"\r\n")

    async def _bdat(self, line: bytes) -> None:
        words = line.split()
        size, last = int(words[1]), len(words) > 2
        late = self._answered_early  # an earlier chunk of this message was answered before its end
        while not self._answered_early and (len(self._buffer) < size or last):
            if "BODY" in self._fault.play and len(self._chunks) + len(self._buffer) >= self._fault.body_after:
                self._answered_early = True
                await self._stage("BODY", b"")
            if len(self._buffer) >= size:
                break
            await self._fill()
        while len(self._buffer) < size:
            await self._fill()
        self._chunks += self._buffer[:size]
        del self._buffer[:size]
        if not self._recipients or late:
            await self._write(b"503 5.5.1 no transaction\r\n")
        elif last:
            await self._final(bytes(self._chunks), "BDAT LAST" if "BDAT LAST" in self._fault.play else "FINAL")
        elif not self._answered_early:
            await self._stage("BDAT", b"250 2.0.0 chunk taken\r\n")

    async def _final(self, content: bytes, stage: str) -> None:
        """The content is complete: keep it or not, answer, and play what comes after it."""
        account, fault, recipients = self._server.account, self._fault, self._recipients
        turn = self._turn(stage)
        first = next((step.text[:1] for step in turn if isinstance(step, Say)), b"")
        if self._answered_early:
            self._reset()
            return
        if recipients and (turn == USUAL or fault.taken or (first == b"2" and not _is_malformed(turn))):
            account.add(recipients, content, "scripted")
        self._reset()
        await (self._perform(turn) if turn else self._write(b"250 2.0.0 taken\r\n"))
        if "IDLE" in fault.play:
            await self._perform(self._turn("IDLE"))

    # scripts

    def _turn(self, stage: str) -> Turn:
        """What is played at this stage now; counts the turn."""
        turns = self._fault.play.get(stage)
        if not turns:
            return USUAL
        number = self._turns.get(stage, 0)
        self._turns[stage] = number + 1
        if number < len(turns):
            return turns[number]
        return turns[-1] if self._fault.sessions == EVERY_SESSION else USUAL

    async def _stage(self, stage: str, usual: bytes) -> bytes:
        """Play the stage or say the usual; the first digit of what was said."""
        turn = self._turn(stage)
        if turn == USUAL:
            await self._write(usual)
            return usual[:1]
        await self._perform(turn)
        return next((step.text[:1] for step in turn if isinstance(step, Say)), b"")

    async def _perform(self, turn: Turn) -> None:
        for step in turn:
            await self._step(step)

    async def _step(self, step: Step) -> None:
        if isinstance(step, Say):
            await self._write(step.text, paced=step.paced)
            return
        await self._flush()
        if isinstance(step, Flood):
            self._server.note(self._number, ">", b"(flood) " + step.chunk[:60])
            while True:
                await (self._trickle(step.chunk) if step.paced else self._send(step.chunk))
        if isinstance(step, Mute):
            self._server.note(self._number, ">", b"(mute)")
            while True:
                await self._fill()
                self._buffer.clear()
        if isinstance(step, Reset):
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._server.note(self._number, ">", b"(RST)")
            self._writer.transport.abort()
        if isinstance(step, Close):
            self._server.note(self._number, ">", b"(FIN)")
            await self._linger()
        raise _Left

    async def _linger(self) -> None:
        """FIN, then read what still comes: closing with unread octets would send RST and destroy our last reply."""
        if self._writer.can_write_eof():  # not under TLS
            self._writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while await self._reader.read(READ_OCTETS):
                    pass

    # octets

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._server.note(self._number, "<", line)
        if b"\n" in line or b"\r" in line:
            self._server.account.violation(f"bare CR or LF in {line[:80]!r}")
        return line

    async def _fill(self) -> None:
        await self._flush()
        octets = await self._reader.read(READ_OCTETS)
        if not octets:
            raise _Left
        self._buffer += octets

    async def _write(self, octets: bytes, paced: bool = False) -> None:
        self._server.note(self._number, ">", octets)
        if paced:
            await self._flush()
            await self._trickle(octets)
        elif self._fault.split:
            for at in range(len(octets)):
                await self._send(octets[at : at + 1])
                await asyncio.sleep(0.0005)
        elif self._fault.batch:
            self._held.append(octets)
        else:
            await self._send(octets)

    async def _flush(self) -> None:
        """Send what a batching host held back."""
        if self._held:
            held = b"".join(self._held)
            self._held.clear()
            await self._send(held)

    async def _trickle(self, octets: bytes) -> None:
        for at in range(len(octets)):
            await self._send(octets[at : at + 1])
            await asyncio.sleep(self._server.pause)

    async def _send(self, octets: bytes) -> None:
        self._writer.write(octets)
        await self._writer.drain()


def _is_malformed(turn: Turn) -> bool:
    """Whether a turn that begins with a 2xx line ends with another digit (mixed codes)."""
    texts = b"".join(step.text for step in turn if isinstance(step, Say))
    return len({line[:1] for line in texts.splitlines()}) > 1
