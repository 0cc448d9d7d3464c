"""Hands a campaign to a relay over SMTP, as a quick newsletter application would.

Some connections at once, each with one message in hand: MAIL, RCPT and DATA go in one write (PIPELINING), the
content in the next. A message that is refused for now (4xx, 421, a lost connection) is handed in again, up to
``tries`` times; one that is refused for good is kept in ``refused``.

Known faults: the content is written without waiting for the socket to drain (it is bounded by one message a
connection); no TLS, no AUTH. A message whose final reply is lost is handed in again, which may repeat it: such
messages are listed in ``doubtful``.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from fastrelay.sim.campaign import REVERSE_PATH, Message

TRIES = 20
PAUSE_SECONDS = 0.25  # before a refused message or a lost connection is tried again
MOST_REPLY = 64 * 1024


@dataclass
class Submission:
    """How it went."""

    accepted: int = 0
    octets: int = 0
    refused: list[tuple[int, bytes]] = field(default_factory=list)  # (message number, reply)
    doubtful: list[int] = field(default_factory=list)  # numbers of messages handed in twice with no reply in between
    retried: int = 0
    seconds: float = 0.0


class SubmissionFailed(Exception):
    """The relay could not be reached, or keeps refusing."""


class Submitter:
    """Submits messages over ``connections`` connections. ``progress`` may be read while ``run`` goes on."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connections: int = 20,
        reverse_path: bytes = REVERSE_PATH,
        name: bytes = b"newsletter.sender.example",
        tries: int = TRIES,
    ) -> None:
        self.host, self.port = host, port
        self.connections = connections
        self.reverse_path = reverse_path
        self.name = name
        self.tries = tries
        self.progress = Submission()
        self.on_accepted: Callable[[Message], None] | None = None
        self._again: deque[tuple[Message, int]] = deque()
        self._source: Iterator[Message] = iter(())
        self._error: BaseException | None = None

    async def run(self, messages: Iterable[Message]) -> Submission:
        """Submit all of them. Raises SubmissionFailed."""
        self._source = iter(messages)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.connections):
                    group.create_task(self._work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first connection's reason; the others were cancelled
        self.progress.seconds = loop.time() - begun
        return self.progress

    def next_message(self) -> tuple[Message, int] | None:
        """The next message and how often it was tried; None when there is none left to begin."""
        if self._again:
            return self._again.popleft()
        message = next(self._source, None)
        return None if message is None else (message, 0)

    def accepted(self, message: Message) -> None:
        """A 2xx reply to a message."""
        self.progress.accepted += 1
        self.progress.octets += len(message.campaign_line) + len(message.head) + len(message.newsletter.octets)
        if self.on_accepted is not None:
            self.on_accepted(message)

    def again(self, message: Message, tried: int, reply: bytes) -> None:
        """Put a message back for another try. Raises SubmissionFailed when it had enough of them."""
        if tried + 1 >= self.tries:
            raise SubmissionFailed(f"message {message.number} was not accepted after {self.tries} tries: {reply!r}")
        self.progress.retried += 1
        self._again.append((message, tried + 1))

    async def _work(self) -> None:
        """One connection after the other until no message is left."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            first = self.next_message()
            if first is None:
                return
            self._again.appendleft(first)
            done: asyncio.Future[bool] = loop.create_future()
            session = _Session(self, done)
            try:
                transport, _ = await loop.create_connection(functools.partial(_same, session), self.host, self.port)
            except OSError as error:
                failures += 1
                if failures >= self.tries:
                    raise SubmissionFailed(f"cannot connect to {self.host}:{self.port}: {error}") from error
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            try:
                clean = await done
                failures = 0
            finally:
                transport.close()
            if not clean:
                await asyncio.sleep(PAUSE_SECONDS)


def _same(session: _Session) -> _Session:
    return session


class _Session(asyncio.Protocol):
    """One connection. ``done`` resolves to True when there was nothing left to send, False when it broke off."""

    def __init__(self, submitter: Submitter, done: asyncio.Future[bool]) -> None:
        self._submitter = submitter
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._on_reply: Callable[[bytes], None] = self._on_greeting
        self._message: Message | None = None
        self._tried = 0
        self._refusal = b""
        self._content_sent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._message is not None:
            if self._content_sent:
                self._submitter.progress.doubtful.append(self._message.number)
            self._put_back(b"connection lost")
        self._end(False)

    def data_received(self, octets: bytes) -> None:
        buffer = self._buffer + octets
        begun = 0
        while (end := buffer.find(b"\r\n", begun)) >= 0:
            line = buffer[begun:end]
            begun = end + 2
            if line[3:4] == b"-":
                continue
            if line[:3] == b"421":
                self._put_back(line)
                self._end(False)
                return
            self._on_reply(line)
        self._buffer = buffer[begun:]
        if len(self._buffer) > MOST_REPLY:
            self._end(False)

    def _end(self, clean: bool) -> None:
        if not self._done.done():
            self._done.set_result(clean)

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def _put_back(self, reply: bytes) -> None:
        message, self._message = self._message, None
        if message is None:
            return
        try:
            self._submitter.again(message, self._tried, reply)
        except SubmissionFailed as error:
            self._fail(error)

    def _write(self, *pieces: bytes) -> None:
        if self._transport is not None:
            self._transport.writelines(pieces)

    # replies, in the order in which they come

    def _on_greeting(self, line: bytes) -> None:
        if line[:1] != b"2":
            self._end(False)
            return
        self._write(b"EHLO %b\r\n" % self._submitter.name)
        self._on_reply = self._on_ehlo

    def _on_ehlo(self, line: bytes) -> None:
        if line[:1] != b"2":
            self._end(False)
            return
        self._begin()

    def _begin(self) -> None:
        """The next message's envelope, or QUIT."""
        taken = self._submitter.next_message()
        self._refusal, self._content_sent = b"", False
        if taken is None:
            self._write(b"QUIT\r\n")
            self._on_reply = self._on_quit
            return
        self._message, self._tried = taken
        body = b" BODY=8BITMIME" if self._message.newsletter.eight_bit else b""
        self._write(
            b"MAIL FROM:<%b>%b\r\nRCPT TO:<%b>\r\nDATA\r\n"
            % (self._submitter.reverse_path, body, self._message.recipient)
        )
        self._on_reply = self._on_mail

    def _on_mail(self, line: bytes) -> None:
        if line[:1] != b"2":
            self._refusal = line
        self._on_reply = self._on_rcpt

    def _on_rcpt(self, line: bytes) -> None:
        if line[:1] != b"2" and not self._refusal:
            self._refusal = line
        self._on_reply = self._on_data

    def _on_data(self, line: bytes) -> None:
        assert self._message is not None
        if line[:1] == b"3" and not self._refusal:
            self._content_sent = True
            self._write(self._message.campaign_line, self._message.head, self._message.newsletter.stuffed, b".\r\n")
            self._on_reply = self._on_final
        elif line[:1] == b"3":
            self._write(b".\r\n")
            self._on_reply = self._on_final
        else:
            self._refused(self._refusal or line)
            self._write(b"RSET\r\n")
            self._on_reply = self._on_rset

    def _on_final(self, line: bytes) -> None:
        assert self._message is not None
        if line[:1] == b"2" and not self._refusal:
            message, self._message = self._message, None
            self._submitter.accepted(message)
        else:
            self._refused(self._refusal or line)
        self._begin()

    def _on_rset(self, line: bytes) -> None:
        if line[:1] != b"2" or self._refusal[:1] == b"4":
            self._end(False)  # a pause before the next try
            return
        self._begin()

    def _on_quit(self, line: bytes) -> None:
        self._end(True)

    def _refused(self, reply: bytes) -> None:
        """A 5xx ends the message, anything else puts it back."""
        assert self._message is not None
        self._refusal = reply
        if reply[:1] == b"5":
            self._submitter.progress.refused.append((self._message.number, reply))
            self._message = None
        else:
            self._put_back(reply)
