"""An SMTP client machine and a scripted server, joined without a socket; and a slow, obvious reader of replies.

`Wire` drives the machine as its shell does: after each call it takes the output, then the events. It reacts to
NEED_BODY with the next piece of a streamed body, and to nothing else, so that a test sees every step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastrelay._core.client import ErrorKind, Event, SmtpClient, Transaction
from fastrelay._core.reply import Reply

EVERYTHING = ("PIPELINING", "CHUNKING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")


def ehlo(*keywords: str) -> bytes:
    lines = ["mx.example", *keywords]
    return "".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode()


class Wire:
    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.machine = SmtpClient(b"me.example", self.now, **options)
        self.sent = b""
        self.events: list[str] = []
        self.finished: list[Transaction] = []
        self.pieces: Iterator[bytes] = iter(())

    def _settle(self) -> None:
        self.sent += b"".join(self.machine.take_output())
        while event := self.machine.next_event():
            name = Event(event).name.removeprefix("EVENT_")
            self.events.append(name)
            if name == "DONE":
                tx = self.machine.take_finished()
                assert tx is not None
                self.finished.append(tx)
            elif name == "NEED_BODY":
                self._feed()

    def _feed(self) -> None:
        piece = next(self.pieces, None)
        if piece is not None:
            upcoming = next(self.pieces, None)
            if upcoming is not None:
                self.pieces = iter([upcoming, *self.pieces])
            self.machine.chunk(piece, upcoming is None, self.now)
            self.sent += b"".join(self.machine.take_output())

    def server(self, octets: bytes) -> Wire:
        self.machine.receive(octets, self.now)
        self._settle()
        return self

    def begin(self, tx: Transaction, pieces: Iterable[bytes] = ()) -> Wire:
        self.pieces = iter(pieces)
        self.machine.begin(tx, self.now)
        self._settle()
        return self

    def call(self, name: str, *arguments: Any) -> Any:
        result = getattr(self.machine, name)(*arguments, self.now)
        self._settle()
        return result

    def tls(self, verified: bool = False) -> Wire:
        """The shell has made TLS."""
        self.machine.tls_started(self.now, verified)
        self._settle()
        return self

    def call_chunk(self, octets: bytes, last: bool) -> bool:
        taken = self.machine.chunk(octets, last, self.now)
        self._settle()
        return taken

    def after(self, seconds: float) -> Wire:
        """Time passes; the deadline is looked at."""
        self.now += seconds
        self.call("tick")
        return self

    def said(self) -> bytes:
        """What the client sent since the last look."""
        sent, self.sent = self.sent, b""
        return sent

    def happened(self) -> list[str]:
        """The events since the last look."""
        events, self.events = self.events, []
        return events


def session(*keywords: str, **options: Any) -> Wire:
    """A greeted session whose server offers these keywords."""
    wire = Wire(**options).server(b"220 mx.example ESMTP\r\n").server(ehlo(*keywords))
    assert wire.said() == b"EHLO me.example\r\n"
    assert wire.happened() == ["READY"]
    return wire


def mail(*recipients: bytes, content: bytes | None = b"Subject: x\r\n\r\nhello\r\n", **fields: Any) -> Transaction:
    return Transaction(b"news@sender.example", list(recipients) or [b"a@one.example"], content, **fields)


def fate(tx: Transaction) -> tuple[Any, ...]:
    """All that a transaction says of itself, to compare two runs."""
    replies = [
        reply.text_for_log() if reply else None for reply in (tx.mail_reply, *tx.recipient_replies, tx.final_reply)
    ]
    arrived = tuple(tx.may_have_arrived(i) for i in range(len(tx.recipients)))
    return (tx.stage, ErrorKind(tx.error_kind).name, tx.error, replies, tx.all_delivered, tx.body_complete, arrived)


_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\r\n", re.DOTALL)


def read_replies_slowly(octets: bytes) -> tuple[list[Reply], bool, bool]:
    """The replies in these octets, whether garbage ended them, and whether the start of another is left."""
    replies: list[Reply] = []
    lines: list[bytes] = []
    codes: list[bytes] = []
    total = 0
    while octets:
        line, lf, rest = octets.partition(b"\n")
        found = _LINE.fullmatch(line + lf)
        if len(line + lf) > 2048 or (lf and not found):
            return replies, True, False
        if not found:
            return replies, False, True
        octets = rest
        total += len(line + lf)
        codes.append(found[1])
        lines.append(found[3] or b"")
        if len(set(codes)) > 1 or len(lines) > 128 or total > 65536:
            return replies, True, False
        if found[2] != b"-":
            replies.append(Reply(int(found[1]), b"\n".join(lines)[:512]))
            lines, codes, total = [], [], 0
    return replies, False, bool(lines)
