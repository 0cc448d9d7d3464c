"""An SMTP server for tests that keeps what it is given, byte for byte, and replies as it is told.

It runs its own asyncio loop in a thread, so that plain tests can look at `messages` while a relay delivers.

    with Sink() as sink: ...                                  # accepts everything
    with Sink({"rcpt": lambda session, to: "550 5.1.1 no such user" if "nobody" in to else None}) as sink: ...

A rule is called at its stage with the session and the stage's words (connect: the peer's address; ehlo, mail, rcpt: the
argument; data: ""; final: the content as text). It returns None (the usual reply), a reply ("450 4.2.1 …", lines
joined by "\\n" for several), or one of the actions CLOSE, RESET (close with RST) and HANG. The sink is strict: a
bare CR or LF, an unknown command or a malformed path is noted in `violations`.

Known fault: each session holds its whole message in memory; for load, use benchmarks/sink.c.
"""

import asyncio
import dataclasses
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping

from support.net import loopback_address

CLOSE, RESET, HANG = "<close>", "<reset>", "<hang>"
Rule = Callable[["Session", str], str | None]

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


@dataclasses.dataclass(slots=True)
class Received:
    """One message as it came: parameters are the words after the path, content is unstuffed with its CRLFs."""

    reverse_path: str
    recipients: list[str]
    mail_parameters: list[str]
    recipient_parameters: list[list[str]]
    content: bytes
    helo: str
    peer: str
    chunked: bool

    def header(self) -> bytes:
        return self.content.partition(b"\r\n\r\n")[0] + b"\r\n"

    def without_trace(self) -> bytes:
        """The content after the Received fields at its top (the relay's own prefix)."""
        rest = self.content
        while rest[:9].lower() == b"received:":
            end = re.search(rb"\r\n(?![ \t])", rest)
            if end is None:
                break
            rest = rest[end.end():]
        return rest


@dataclasses.dataclass(slots=True, eq=False)
class Session:
    """What is known of one connection; rules may look and may count in `notes`."""

    peer: str
    number: int
    helo: str = ""
    reverse_path: str | None = None
    recipients: list[str] = dataclasses.field(default_factory=list)
    mail_parameters: list[str] = dataclasses.field(default_factory=list)
    recipient_parameters: list[list[str]] = dataclasses.field(default_factory=list)
    transactions: int = 0
    content: bytes = b""
    chunked: bool = False
    notes: dict[str, int] = dataclasses.field(default_factory=dict)

    def reset(self) -> None:
        self.reverse_path = None
        self.recipients, self.mail_parameters, self.recipient_parameters = [], [], []
        self.content, self.chunked = b"", False


class _Ended(Exception):
    """The session is over by a rule's wish."""


class Sink:
    """The server; `endpoint` is ADDR:PORT, `messages` what was acknowledged."""

    def __init__(
        self,
        rules: Mapping[str, Rule] | None = None,
        *,
        host: str | None = None,
        port: int = 0,
        extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES", "DSN"),
    ) -> None:
        self.rules = dict(rules or {})
        self.host = host or loopback_address()
        self.port = port
        self.extensions = extensions
        self.messages: list[Received] = []
        self.violations: list[str] = []
        self.sessions: list[Session] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __enter__(self) -> "Sink":
        self._thread.start()
        self._ready.wait()
        if self._failed:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the sink's loop did not end"

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._failed = error
            self._ready.set()
            raise

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, self.host, self.port, limit=1 << 26)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        session = Session(peer=writer.get_extra_info("peername")[0], number=len(self.sessions))
        self.sessions.append(session)
        try:
            await self._talk(session, reader, writer)
        except (_Ended, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    # -- the dialogue -----------------------------------------------------------------------------

    async def _talk(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._reply(session, writer, "connect", session.peer, "220 sink.test ESMTP")
        while True:
            line = await reader.readuntil(b"\n")
            if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
                self.violations.append(f"bare CR or LF in a command: {line!r}")
            verb, _, argument = line.strip().decode("utf-8", "surrogateescape").partition(" ")
            verb = verb.upper()
            if verb == "QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                await writer.drain()
                return
            await self._command(session, reader, writer, verb, argument)

    async def _command(
        self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, verb: str, argument: str
    ) -> None:
        if verb in ("EHLO", "HELO"):
            session.helo = argument
            session.reset()
            lines = ["sink.test", *self.extensions] if verb == "EHLO" else ["sink.test"]
            await self._reply(session, writer, "ehlo", argument, "250 " + "\n".join(lines))
        elif verb == "MAIL":
            path, words = self._path(argument, "FROM:")
            accepted = await self._reply(session, writer, "mail", argument, "250 2.1.0 OK")
            if accepted:
                session.reset()
                session.reverse_path, session.mail_parameters = path, words
        elif verb == "RCPT":
            if session.reverse_path is None:
                await self._send(writer, "503 5.5.1 MAIL first")
                return
            path, words = self._path(argument, "TO:")
            if await self._reply(session, writer, "rcpt", path, "250 2.1.5 OK"):
                session.recipients.append(path)
                session.recipient_parameters.append(words)
        elif verb == "DATA":
            await self._data(session, reader, writer)
        elif verb == "BDAT":
            await self._bdat(session, reader, writer, argument)
        elif verb == "RSET":
            session.reset()
            await self._reply(session, writer, "rset", argument, "250 2.0.0 OK")
        elif verb == "NOOP":
            await self._send(writer, "250 2.0.0 OK")
        else:
            self.violations.append(f"unknown command {verb!r}")
            await self._send(writer, "500 5.5.2 what?")

    async def _data(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not session.recipients:
            await self._send(writer, "554 5.5.1 no valid recipients")
            return
        if not await self._reply(session, writer, "data", "", "354 go ahead"):
            session.reset()
            return
        first = await reader.readexactly(3)
        stuffed = first if first == b".\r\n" else first + await reader.readuntil(b"\r\n.\r\n")
        content = stuffed[:-3]
        if content.startswith(b"."):
            content = content[1:]
        session.content = content.replace(b"\r\n.", b"\r\n")
        await self._finish(session, writer)

    async def _bdat(
        self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, argument: str
    ) -> None:
        size, _, last = argument.partition(" ")
        chunk = await reader.readexactly(int(size))
        if "CHUNKING" not in self.extensions:
            self.violations.append("BDAT without CHUNKING")
        if not session.recipients:
            await self._send(writer, "554 5.5.1 no valid recipients")
            return
        session.chunked = True
        session.content += chunk
        if last.strip().upper() == "LAST":
            await self._finish(session, writer)
        else:
            await self._send(writer, "250 2.0.0 chunk taken")

    async def _finish(self, session: Session, writer: asyncio.StreamWriter) -> None:
        if _BARE.search(session.content):
            self.violations.append("bare CR or LF in a content")
        received = Received(
            session.reverse_path or "", session.recipients, session.mail_parameters, session.recipient_parameters,
            session.content, session.helo, session.peer, session.chunked,
        )
        session.transactions += 1
        reply = self._ask("final", session, session.content.decode("utf-8", "replace"))
        if reply is None or reply.startswith("2"):
            self.messages.append(received)
        await self._act(writer, reply or "250 2.0.0 taken")
        session.reset()

    # -- replies ----------------------------------------------------------------------------------

    def _path(self, argument: str, word: str) -> tuple[str, list[str]]:
        path, _, rest = argument[len(word):].strip().partition(">")
        if not argument.upper().startswith(word) or not path.startswith("<"):
            self.violations.append(f"not a path: {argument!r}")
        return path[1:], rest.split()

    def _ask(self, stage: str, session: Session, words: str) -> str | None:
        rule = self.rules.get(stage)
        return rule(session, words) if rule else None

    async def _reply(self, session: Session, writer: asyncio.StreamWriter, stage: str, words: str, usual: str) -> bool:
        """Send the rule's reply or the usual one; True if it is a 2xx or 3xx."""
        reply = self._ask(stage, session, words) or usual
        await self._act(writer, reply)
        return reply[0] in "23"

    async def _act(self, writer: asyncio.StreamWriter, reply: str) -> None:
        if reply == HANG:
            await asyncio.Event().wait()
        if reply == RESET:
            peer = writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if reply in (CLOSE, RESET):
            raise _Ended
        await self._send(writer, reply)

    async def _send(self, writer: asyncio.StreamWriter, reply: str) -> None:
        code, rest = reply[:3], reply[4:]
        lines = rest.split("\n")
        text = "".join(f"{code}{' ' if i == len(lines) - 1 else '-'}{line}\r\n" for i, line in enumerate(lines))
        writer.write(text.encode("utf-8", "surrogateescape"))
        await writer.drain()
