"""CPU of the SMTP server machine for one transaction (MAIL, RCPT, DATA, content), against the same in plain Python.

    python benchmarks/bench_server.py [OCTETS]

Prints figures; asserts nothing. "pieces": as a socket gives them, envelope and content in two reads.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable

from fastrelay._core import server

MAIL = re.compile(rb"MAIL FROM:<([^<>\s]*@[A-Za-z0-9.-]+)?>((?: [^ ]+)*)", re.IGNORECASE)
RCPT = re.compile(rb"RCPT TO:<([^<>\s]*@[A-Za-z0-9.-]+)>((?: [^ ]+)*)", re.IGNORECASE)
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")


class PlainServer:
    """The oracle: about as much checking, written the obvious way."""

    def __init__(self) -> None:
        self.pending = b""
        self.content = False
        self.sender = b""
        self.recipients: list[bytes] = []
        self.message: tuple[bytes, list[bytes], bytes, int, bool, int] | None = None

    def receive(self, octets: bytes) -> bytes:
        self.pending += octets
        replies: list[bytes] = []
        while True:
            if self.content:
                end = (b"\r\n" + self.pending).find(b"\r\n.\r\n")
                if end < 0:
                    return b"".join(replies)
                raw, self.pending = self.pending[:end], self.pending[end + 3 :]
                replies.append(self.end_content(raw))
                self.content = False
                continue
            line, crlf, rest = self.pending.partition(b"\r\n")
            if not crlf:
                return b"".join(replies)
            self.pending = rest
            replies.append(self.command(line))

    def command(self, line: bytes) -> bytes:
        if match := MAIL.fullmatch(line):
            self.sender = match[1]
            self.recipients = []
            return b"250 2.1.0 Ok\r\n"
        if match := RCPT.fullmatch(line):
            self.recipients.append(match[1])
            return b"250 2.1.5 Ok\r\n"
        if line.upper() == b"DATA":
            self.content = True
            return b"354 Go on\r\n"
        return b"500 5.5.2 What?\r\n"

    def end_content(self, raw: bytes) -> bytes:
        if BARE.search(raw):
            return b"550 5.5.2 Bare\r\n"
        content = (b"\r\n" + raw).replace(b"\r\n.", b"\r\n")[2:]
        header = content[: content.find(b"\r\n\r\n") + 4]
        received = sum(line.lower().startswith(b"received:") for line in header.split(b"\r\n"))
        longest = max(map(len, content.split(b"\r\n")))
        self.message = (self.sender, self.recipients, content, received, not content.isascii(), longest)
        return b"250 2.0.0 Stored\r\n"


def newsletter(octets: int) -> bytes:
    header = b"".join(b"X-Header-%d: %b\r\n" % (number, b"value " * 9) for number in range(22))
    lines = [
        b"Some text of a newsletter, and a link to https://news.example/%06d/abcdef\r\n" % number
        for number in range(octets // 70)
    ]
    return (b"Received: from a by b\r\nSubject: hello\r\n" + header + b"\r\n" + b"".join(lines))[: octets - 2] + b"\r\n"


def best(act: Callable[[], object], seconds: float = 1.0) -> float:
    """Microseconds of CPU for one act: the best of rounds of 200."""
    fastest = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.process_time()
        for _ in range(200):
            act()
        fastest = min(fastest, time.process_time() - begun)
    return fastest / 200 * 1e6


def main() -> None:
    octets = int(sys.argv[1]) if len(sys.argv) > 1 else 10240
    envelope = b"MAIL FROM:<bounce+12345@news.example> SIZE=%d\r\nRCPT TO:<someone@mail.example>\r\nDATA\r\n" % octets
    content = newsletter(octets)
    wire = content + b".\r\n"

    machine = server.SmtpServer(b"relay.example", server.ServerLimits(), may_relay=True)
    machine.greeting(0.0)
    machine.receive(b"EHLO source.example\r\n", 0.0)

    def ours(pieces: tuple[bytes, ...]) -> None:
        for piece in pieces:
            machine.receive(piece, 1.0)
            machine.take_output()
        if machine.next_event() != server.MESSAGE or machine.envelope is None:
            raise SystemExit("no message came")
        machine.answer(b"250 2.0.0 Stored\r\n", 1.0)
        machine.take_output()

    plain = PlainServer()

    def oracle(pieces: tuple[bytes, ...]) -> None:
        for piece in pieces:
            plain.receive(piece)
        if plain.message is None or plain.message[2] != content:
            raise SystemExit("the oracle failed")

    print(f"content of {octets} octets")
    segments = tuple(wire[at : at + 1448] for at in range(0, len(wire), 1448))
    for name, pieces in (
        ("in one read", (envelope + wire,)),
        ("pieces", (envelope, wire)),
        ("in segments", (envelope, *segments)),
    ):
        fast = best(lambda pieces=pieces: ours(pieces))
        slow = best(lambda pieces=pieces: oracle(pieces))
        print(f"  {name:12s} {fast:8.2f} µs   plain Python {slow:8.2f} µs   {slow / fast:5.1f} times")


if __name__ == "__main__":
    main()
