"""Inbound addresses, and what a worker holds of mail that came back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import Config, SmtpListener
from fastrelay.feedback.line import AWAY, Inbound
from fastrelay.ingest.inbound import CONNECT_SECONDS, CROWDED, CUT, LATE, LOOP, UNKNOWN, Addresses, InboundMail
from fastrelay.ingest.listener import Door

ADDRESSES = Addresses(["Bounces@News.example", "my-fbl@news.example", "*@b.news.example"])


@pytest.mark.parametrize(
    "mailbox",
    [
        b"bounces@news.example",
        b"BOUNCES@NEWS.EXAMPLE",
        b"bounces@news.example.",
        b"bounces+anything@news.example",
        b"bounces+a+b@news.example",
        b"bounces+user=far.example@news.example",
        b"bounces-user=far.example@news.example",
        b"bounces-mary-ann=far.example@news.example",
        b"bounces-f" + b"a" * 40 + b"@news.example",
        b"my-fbl@news.example",
        b"my-fbl-user=far.example@news.example",
        b"anything@b.news.example",
        "jürgen@b.news.example".encode(),
        b'"odd one"@b.news.example',
    ],
)
def test_taken(mailbox: bytes) -> None:
    assert ADDRESSES.verify(mailbox) is None


@pytest.mark.parametrize(
    "mailbox",
    [
        b"bouncesx@news.example",
        b"xbounces@news.example",
        b"bounces@sub.news.example",
        b"bounces@example",
        b"bounces-other@news.example",
        b"my@news.example",
        b"my-other@news.example",
        b"anything@x.b.news.example",
        b"anything@xb.news.example",
        b"+bounces@news.example",
        b"bounces@far.example@news.example",
        b"postmaster",
        b"bounces",
        b"",
    ],
)
def test_refused(mailbox: bytes) -> None:
    assert ADDRESSES.verify(mailbox) == UNKNOWN


def test_a_door_for_what_comes_back_has_no_auth() -> None:
    config = Config(hostname="relay.test")
    door = Door.of(config, SmtpListener(bind="127.0.0.1:25", inbound=["b@b.test"], auth="required"))
    assert door.auth == "none"
    assert door.inbound is not None
    assert Door.of(config, SmtpListener(bind="127.0.0.1:25")).inbound is None


# -- messages in hand -------------------------------------------------------------------------------------------------


class FakeLine:
    def __init__(self) -> None:
        self.up = True
        self.sent: list[tuple[int, Inbound]] = []

    def send(self, number: int, message: Inbound) -> None:
        assert self.up
        self.sent.append((number, message))

    def close(self) -> None:
        self.up = False


class FakeServer:
    def __init__(self) -> None:
        self.refused: list[bytes] = []

    def refuse(self, reply: bytes) -> None:
        self.refused.append(reply)


class FakeConnection:
    client = b"192.0.2.1"

    def __init__(self) -> None:
        self.server = FakeServer()
        self.replies: list[bytes] = []

    def stored(self, reply: bytes, now: float) -> None:
        self.replies.append(reply)

    def pump(self, now: float) -> None:
        pass


class Box:
    def __init__(self, **keys: Any) -> None:
        self.clock = SimulatedClock()
        config = Config(hostname="relay.test")
        self.app: Any = SimpleNamespace(slots=2, clock=self.clock, state_dir="/nowhere", config=config)
        self.mail = InboundMail(self.app)
        self.mail.configure(self.app.config)
        self.line: Any = FakeLine()
        self.mail._line = self.line

    def take(self, octets: bytes = b"x", received: int = 0) -> tuple[FakeConnection, bytes | None]:
        connection: Any = FakeConnection()
        envelope: Any = SimpleNamespace(
            recipients=[b"b@b.test"], reverse_path=b"", content=octets, received_count=received
        )
        return connection, self.mail.take(connection, envelope, self.clock.monotonic())

    def answer(self, number: int, reply: bytes = b"250 2.0.0 Ok\r\n") -> None:
        self.mail._answered(number, reply)


def test_handed_over_and_answered() -> None:
    box = Box()
    first, refusal = box.take(b"one")
    assert refusal is None
    second, _ = box.take(b"two")
    assert [(number, message.octets) for number, message in box.line.sent] == [(1, b"one"), (2, b"two")]
    assert box.line.sent[0][1] == Inbound([b"b@b.test"], b"", b"one", b"192.0.2.1", box.clock.wall())
    box.answer(2)
    assert (first.replies, second.replies) == ([], [b"250 2.0.0 Ok\r\n"])
    box.answer(1, AWAY)
    box.answer(1)
    box.answer(17)
    assert first.replies == [AWAY]
    assert box.mail._waiting_octets == 0


def test_a_loop_is_refused() -> None:
    box = Box()
    assert box.take(received=box.app.config.smtp.received_limit)[1] is None
    assert box.take(received=box.app.config.smtp.received_limit + 1)[1] == LOOP


def test_what_takes_too_long_is_refused_for_now() -> None:
    box = Box()
    connection, _ = box.take()
    box.clock.advance(box.mail.timeout - 1)
    box.mail.tick(box.clock.monotonic())
    assert connection.replies == []
    box.clock.advance(1)
    box.mail.tick(box.clock.monotonic())
    assert connection.replies == [LATE]
    box.answer(1)
    assert connection.replies == [LATE], "an answer that comes later is no answer"


def test_while_the_feedback_process_starts() -> None:
    box = Box()
    box.line.up = False
    connection, refusal = box.take()
    assert refusal is None
    assert box.line.sent == []
    box.line.up = True
    box.mail._up()
    assert len(box.line.sent) == 1
    box.clock.advance(CONNECT_SECONDS + 1)
    box.mail.tick(box.clock.monotonic())
    assert connection.replies == [], "from then on it has the time that it needs"
    box.line.up = False
    late, _ = box.take()
    box.clock.advance(CONNECT_SECONDS)
    box.mail.tick(box.clock.monotonic())
    assert late.replies == [LATE]


def test_the_line_breaks() -> None:
    box = Box()
    sent, _ = box.take()
    box.line.up = False
    waiting, _ = box.take()
    box.mail._down()
    assert sent.replies == [AWAY], "it may have been done, or not"
    assert waiting.replies == []
    box.line.up = True
    box.mail._up()
    assert [number for number, _ in box.line.sent] == [1, 2], "nothing goes twice by itself"


def test_octets_in_hand_are_bounded() -> None:
    box = Box()
    box.mail.most_octets = 100
    assert box.take(b"x" * 60)[1] is None
    assert box.take(b"x" * 41)[1] == CROWDED
    assert box.take(b"x" * 40)[1] is None
    box.answer(1)
    assert box.take(b"x" * 60)[1] is None


def test_the_largest_unfinished_content_is_cut_off() -> None:
    box = Box()
    box.mail.most_octets = 100
    small, large, other = (FakeConnection() for _ in range(3))
    mail: Any = box.mail
    mail.grown(small, 10, 0.0)
    mail.grown(large, 60, 0.0)
    mail.grown(other, 30, 0.0)
    assert not large.server.refused
    mail.grown(small, 20, 0.0)
    assert large.server.refused == [CUT]
    assert not small.server.refused
    assert not other.server.refused
    assert mail._collected == 50
    mail.grown(small, 0, 0.0)
    mail.closed(other)
    mail.closed(other)
    assert mail._collected == 0
    assert not mail._sizes


def test_connections_are_bounded() -> None:
    box = Box()
    connections: Any = [FakeConnection() for _ in range(box.mail.most)]
    assert box.mail.most == 100, "each worker's share"
    box.mail.connections.update(connections)
    assert box.mail.full
    box.mail.closed(connections[0])
    assert not box.mail.full
