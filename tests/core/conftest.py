"""A driver for the SMTP server machine: plays the client's octets to it and does what the shell would do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastrelay._core import server

FIELDS = (
    *("reverse_path", "recipients", "recipient_parameters", "ret", "envid", "body", "smtputf8", "size_declared"),
    *("helo", "esmtp", "content_length", "header", "header_length", "longest_line", "received_count"),
    *("eight_bit", "eight_bit_header", "repaired"),
)


@dataclass
class Dialogue:
    """One connection. Messages are answered at once, or, with `late`, when the client has nothing more to say."""

    machine: server.SmtpServer
    late: bool = False
    reply: bytes = b"250 2.0.0 Stored\r\n"
    output: bytes = b""
    messages: list[dict[str, Any]] = field(default_factory=list)
    spilled: list[bytes] = field(default_factory=list)
    discarded: int = 0
    closed: bool = False
    now: float = 1000.0

    def say(self, octets: bytes) -> bytes:
        """Feeds octets; gives what the machine says to them."""
        before = len(self.output)
        self.machine.receive(octets, self.now)
        self.drain(answer=not self.late)
        return self.output[before:]

    def play(self, chunks: Iterable[bytes]) -> Dialogue:
        for chunk in chunks:
            self.say(chunk)
        while self.machine.waiting:
            self.drain(answer=True)
        return self

    def drain(self, answer: bool) -> None:
        while True:
            event = self.machine.next_event()
            if event == server.SPILL:
                self.spilled.append(self.machine.take_chunk())
            elif event == server.DISCARD:
                assert self.spilled
                self.spilled.clear()
                self.discarded += 1
            elif event == server.MESSAGE:
                self.note()
            elif event == server.CLOSE:
                self.closed = True
            elif self.machine.waiting and answer:
                self.machine.answer(self.reply, self.now)
            else:
                break
        self.output += self.machine.take_output()

    def note(self) -> None:
        envelope = self.machine.envelope
        assert envelope is not None
        message = {name: getattr(envelope, name) for name in FIELDS}
        if envelope.spilled:
            assert envelope.content is None
            message["content"] = b"".join(self.spilled)
            self.spilled.clear()
        else:
            assert not self.spilled
            message["content"] = envelope.content
        self.messages.append(message)

    def result(self) -> tuple[Any, ...]:
        return self.output, self.messages, self.closed


def open_dialogue(
    *,
    late: bool = False,
    reply: bytes = b"250 2.0.0 Stored\r\n",
    may_relay: bool = True,
    spill_bytes: int = 1 << 20,
    bare_line_ends: str = "refuse",
    hello: bool = True,
    **limits: Any,
) -> Dialogue:
    """A connection after the greeting, and after EHLO unless `hello` is False."""
    machine = server.SmtpServer(
        b"relay.example",
        server.ServerLimits(**limits),
        may_relay=may_relay,
        spill_bytes=spill_bytes,
        bare_line_ends=bare_line_ends,
    )
    dialogue = Dialogue(machine, late=late, reply=reply)
    machine.greeting(dialogue.now)
    dialogue.drain(answer=False)
    if hello:
        assert dialogue.say(b"EHLO client.example\r\n").endswith(
            b"250 LIMITS RCPTMAX=%d\r\n" % machine.limits.recipients
        )
    dialogue.output = b""
    return dialogue


@pytest.fixture(scope="session")
def connect() -> Callable[..., Dialogue]:
    return open_dialogue
