"""Our two SMTP machines joined without a socket: what the client is given is what the server receives."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dialogue import Wire

from fastrelay._core import server
from fastrelay._core.client import State, Transaction


@dataclass
class Received:
    reverse_path: bytes
    recipients: list[bytes]
    content: bytes
    body: bytes | None
    ret: bytes | None
    recipient_parameters: list[bytes | None]


@dataclass
class Joined:
    """A client and a server, with a wire between them that cuts where `chance` says."""

    wire: Wire
    machine: server.SmtpServer
    chance: random.Random
    messages: list[Received] = field(default_factory=list)
    spilled: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)

    def run(self) -> None:
        """Until neither side has anything to say."""
        while True:
            sent = self.wire.said()
            for piece in self.cut(sent):
                self.machine.receive(piece, self.wire.now)
                self.settle()
            answered = self.machine.take_output()
            for piece in self.cut(answered):
                self.wire.server(piece)
            if not sent and not answered:
                return

    def cut(self, octets: bytes) -> list[bytes]:
        pieces = []
        while octets:
            size = self.chance.choice([1, 7, 100, 100_000])
            pieces.append(octets[:size])
            octets = octets[size:]
        return pieces

    def settle(self) -> None:
        while (event := self.machine.next_event()) != server.NONE:
            if event == server.SPILL:
                self.spilled.append(self.machine.take_chunk())
            elif event == server.MESSAGE:
                envelope = self.machine.envelope
                assert envelope is not None
                content = b"".join(self.spilled) if envelope.spilled else envelope.content
                assert content is not None
                self.spilled.clear()
                self.messages.append(
                    Received(
                        envelope.reverse_path, list(envelope.recipients), content, envelope.body, envelope.ret,
                        list(envelope.recipient_parameters),
                    )
                )  # fmt: skip
                answer = self.answers.pop(0) if self.answers else b"250 2.0.0 Stored\r\n"
                self.machine.answer(answer, self.wire.now)


def join(seed: int = 1, **options: Any) -> Joined:
    machine = server.SmtpServer(b"mx.example", server.ServerLimits(), may_relay=True, spill_bytes=5000)
    machine.verify_recipient = lambda address: b"550 5.1.1 No such user\r\n" if address.startswith(b"no") else None
    machine.greeting(1000.0)
    joined = Joined(Wire(**options), machine, random.Random(seed))
    joined.run()
    assert joined.wire.machine.state == State.STATE_READY
    return joined


WAYS = [
    {},
    {"allow_chunking": False},
    {"allow_pipelining": False},
    {"allow_pipelining": False, "allow_chunking": False},
]
ways = pytest.mark.parametrize("way", WAYS)
lines = st.lists(st.sampled_from([b"", b".", b"..", b".x", b"text", b"x" * 990, "grün".encode()]), max_size=30)


@given(lines=lines, way=st.sampled_from(WAYS), seed=st.integers(0, 1000), pieces=st.integers(0, 5))
def test_content_arrives_as_it_was(lines: list[bytes], way: dict[str, Any], seed: int, pieces: int) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    prefix = b"Received: here\r\n\r\n"
    joined = join(seed, **way)
    whole = len(prefix) + len(content)
    tx = Transaction(
        b"a@x.example", [b"b@y.example"], None if pieces else content, prefix=prefix, size=whole, eight_bit=True
    )
    step = len(content) // pieces + 1 if pieces else 1
    streamed = [content[i : i + step] for i in range(0, len(content), step)] or [b""]
    joined.wire.begin(tx, streamed if pieces else ())
    joined.run()
    assert tx.all_delivered
    (received,) = joined.messages
    assert (received.content, received.body) == (prefix + content, b"8BITMIME")
    assert received.recipients == [b"b@y.example"]


@ways
def test_a_large_content_streams(way: dict[str, Any]) -> None:
    content = b"Subject: x\r\n\r\n" + b".a line of a large newsletter\r\n" * 20_000
    joined = join(**way)
    tx = Transaction(b"a@x.example", [b"b@y.example"], None, size=len(content))
    joined.wire.begin(tx, [content[i : i + 30_000] for i in range(0, len(content), 30_000)])
    joined.run()
    assert tx.all_delivered
    assert joined.messages[0].content == content


@ways
def test_one_session_good_and_bad(way: dict[str, Any]) -> None:
    joined = join(**way)
    joined.answers = [b"250 2.0.0 Stored\r\n", b"554 5.7.1 Spam\r\n", b"451 4.3.0 Later\r\n"]
    fates = []
    for recipients in (
        [b"b@y.example", b"no@y.example", b"c@y.example"],
        [b"no@y.example"],
        [b"no@y.example", b"nope@y.example"],
        [b"b@y.example"],
        [b"b@y.example", b"no@y.example"],
        [b"b@y.example"],
    ):
        tx = Transaction(b"", recipients, b"Subject: x\r\n\r\nhello\r\n")
        joined.wire.begin(tx)
        joined.run()
        assert joined.wire.machine.state == State.STATE_READY
        replies = [tx.reply_for(i) for i in range(len(recipients))]
        fates.append([reply.code if reply else None for reply in replies])
    assert fates == [[250, 550, 250], [550], [550, 550], [554], [451, 550], [250]]
    assert [message.recipients for message in joined.messages] == [
        [b"b@y.example", b"c@y.example"], [b"b@y.example"], [b"b@y.example"], [b"b@y.example"],
    ]  # fmt: skip
    joined.wire.call("quit")
    joined.run()
    assert joined.wire.machine.state == State.STATE_CLOSED
    assert joined.wire.machine.error is None


def test_dsn_parameters_arrive() -> None:
    joined = join()
    tx = Transaction(
        b"a@x.example", [b"b@y.example", b"c@y.example"], b"x\r\n",
        mail_parameters=b" RET=HDRS ENVID=qq314159", recipient_parameters=[b" NOTIFY=NEVER", b""],
    )  # fmt: skip
    joined.wire.begin(tx)
    joined.run()
    assert tx.all_delivered
    received = joined.messages[0]
    assert received.ret == b"HDRS"
    assert [bool(parameters) for parameters in received.recipient_parameters] == [True, False]


def test_the_size_limit_of_the_server_is_ours() -> None:
    joined = join()
    limit = joined.wire.machine.capabilities.size_limit
    assert limit == joined.machine.limits.message_size
    joined.wire.begin(Transaction(b"", [b"b@y.example"], None, size=limit + 1))
    assert joined.wire.finished[0].error_status == "5.3.4"
    assert joined.wire.machine.capabilities.rcpt_max == joined.machine.limits.recipients
