"""Random and mutated server octets against the client machine.

Held: no crash and no exception; one fate for each transaction; delivered only by a 2xx reply to a whole body, behind a
2xx for the recipient; nothing read as an answer after the session ended; what the machine keeps is bounded.
Bounded by default; `--long` plays a hundred times more.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dialogue import EVERYTHING, Wire, ehlo, mail

from fastrelay._core.client import ErrorKind, State, Transaction
from fastrelay._core.reply import ReplyParser

CODES = [b"250", b"250", b"250", b"354", b"550", b"451", b"421", b"220", b"503", b"150", b"999"]
KEYWORDS = [(), ("PIPELINING",), ("CHUNKING",), ("PIPELINING", "CHUNKING"), EVERYTHING, ("SIZE 10", "LIMITS RCPTMAX=1")]


def random_octets(chance: random.Random) -> bytes:
    """One packet of a server that is now and then out of its mind."""
    kind = chance.random()
    if kind < 0.7:
        lines = []
        for _ in range(chance.randrange(1, 6)):
            code = chance.choice(CODES[:5]) if chance.random() < 0.8 else chance.choice(CODES)
            lines.append(code + chance.choice([b" ", b" ", b" ", b"-", b""]) + chance.randbytes(chance.randrange(8)))
        end = b"\r\n" if chance.random() < 0.95 else chance.choice([b"\n", b"\r", b""])
        return b"".join(line.replace(b"\n", b"") + end for line in lines)
    if kind < 0.9:
        octets = bytearray(b"250-one\r\n250 two\r\n354 go\r\n250 2.0.0 queued\r\n")
        for _ in range(chance.randrange(1, 4)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
        start = chance.randrange(len(octets))
        return bytes(octets[start:])
    return chance.randbytes(chance.randrange(200)) * chance.choice([1, 1, 1, 30])


def sane_reply(chance: random.Random, state: int) -> bytes:
    """What a server in its right mind might say."""
    code = b"354" if state == State.STATE_DATA else b"250"
    if chance.random() < 0.15:
        code = chance.choice([b"550", b"451", b"452", b"552"])
    return code + chance.choice([b" 2.0.0 ok\r\n", b"\r\n", b"-a\r\n" + code + b" b\r\n"])


class Session:
    """A session that begins a transaction whenever it may, and checks each that ends."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.sanity = chance.choice([0.4, 0.75, 0.88])
        self.wire = Wire(allow_pipelining=chance.random() < 0.8, allow_chunking=chance.random() < 0.8)
        self.begun = 0

    def begin(self) -> None:
        chance = self.chance
        recipients = [b"user%d@x.example" % i for i in range(chance.randrange(1, 4))]
        if chance.random() < 0.4:
            tx = mail(*recipients, content=None, size=30)
            pieces = [chance.randbytes(chance.randrange(20)) for _ in range(chance.randrange(1, 14))]
        else:
            content = chance.choice([b"Subject: x\r\n\r\nhello\r\n", b".\r\n", b"", b"x" * 70_000])
            tx, pieces = mail(*recipients, content=content), []
        self.begun += 1
        self.wire.begin(tx, pieces)

    def step(self) -> None:
        chance = self.chance
        wire = self.wire
        kind = chance.random()
        if kind < self.sanity and wire.machine.state != State.STATE_READY:
            octets = sane_reply(chance, wire.machine.state)
            cut = chance.randrange(len(octets))
            wire.server(octets[:cut]).server(octets[cut:])
        elif kind < 0.9:
            wire.server(random_octets(chance))
        elif kind < 0.93:
            wire.after(chance.choice([1, 100, 1000]))
        elif kind < 0.95:
            wire.call("connection_lost")
        elif kind < 0.96:
            wire.call("abort_body")
        elif kind < 0.98:
            wire.machine.progress(wire.now, chance.randrange(3) * 1000)
        elif wire.machine.state == State.STATE_READY:
            wire.call("quit")
        if wire.machine.state == State.STATE_READY:
            self.begin()

    def check(self) -> None:
        wire = self.wire
        under_way = State.STATE_MAIL <= wire.machine.state <= State.STATE_FINAL
        assert self.begun == len(wire.finished) + under_way
        for tx in wire.finished:
            check_fate(tx)
        if wire.machine.state == State.STATE_CLOSED:
            assert wire.events.count("CLOSING") == 1
            assert wire.events[-1] == "CLOSING"


def check_fate(tx: Transaction) -> None:
    delivered = 0
    for i, answer in enumerate(tx.recipient_replies):
        reply = tx.reply_for(i)
        if reply is None:
            assert tx.error_kind != ErrorKind.ERROR_NONE
            continue
        assert not tx.may_have_arrived(i)
        if reply.digit != 2:
            assert reply.digit in (4, 5)
            continue
        delivered += 1
        assert tx.error_kind == ErrorKind.ERROR_NONE
        assert tx.body_complete
        assert tx.mail_reply is not None
        assert tx.mail_reply.digit == 2
        assert answer is not None
        assert answer.digit == 2
        assert reply is tx.final_reply
    assert tx.all_delivered == (delivered == len(tx.recipients))


def run(seed: int) -> Wire:
    chance = random.Random(seed)
    session = Session(chance)
    wire = session.wire
    if chance.random() < 0.95:
        wire.server(b"220 mx\r\n").server(ehlo(*chance.choice(KEYWORDS)))
        if wire.machine.state == State.STATE_READY:
            session.begin()
    for _ in range(chance.randrange(1, 40)):
        session.step()
        session.check()
    return wire


def test_random_servers(request: pytest.FixtureRequest) -> None:
    rounds = 500_000 if request.config.getoption("--long", default=False) else 4_000
    delivered = refused = 0
    for seed in range(rounds):
        for tx in run(seed).finished:
            delivered += tx.all_delivered
            refused += tx.error_kind == ErrorKind.ERROR_NONE and not tx.all_delivered
    assert delivered > rounds // 8, "the fuzzer no longer reaches a delivery"
    assert refused > rounds // 8, "the fuzzer no longer reaches a refusal"


@given(octets=st.binary(max_size=300), greeted=st.booleans())
def test_any_octets(octets: bytes, greeted: bool) -> None:
    wire = Wire()
    if greeted:
        wire.server(b"220 mx\r\n").server(ehlo(*EVERYTHING)).begin(mail())
    wire.server(octets)
    for tx in wire.finished:
        check_fate(tx)


@pytest.mark.parametrize("endless", [b"2", b"250-x\r\n", b"250-" + b"y" * 1000 + b"\r\n", b"\r\n", b"250 ok\r\n"])
def test_an_endless_server_is_cut_off(endless: bytes) -> None:
    wire = Wire().server(b"220 mx\r\n").server(ehlo(*EVERYTHING)).begin(mail())
    read = 0
    while wire.machine.state != State.STATE_CLOSED:
        wire.server(endless)
        read += len(endless)
        assert read <= 65536 + 2048
    for _ in range(1000):
        wire.server(endless)
    assert wire.events.count("DONE") == wire.events.count("CLOSING") == 1
    assert len(wire.events) <= 4
    assert all(len(reply.text) <= 512 for reply in [wire.machine.last_reply] if reply)


def test_the_parser_keeps_no_more_than_its_limit(request: pytest.FixtureRequest) -> None:
    chance = random.Random(7)
    for _ in range(200_000 if request.config.getoption("--long", default=False) else 2_000):
        parser = ReplyParser()
        while parser.error is None and chance.random() < 0.9:
            for reply in parser.feed(random_octets(chance)):
                assert len(reply.text) <= 512
                assert 200 <= reply.code <= 599
                assert "\n" not in reply.text_for_log()
        assert parser.feed(b"250 ok\r\n") == [] or parser.error is None
