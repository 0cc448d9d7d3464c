"""Random clients against the SMTP server machine: whatever they say and however it is cut, the rules hold.

`--long` runs fifty times as many.
"""

from __future__ import annotations

import itertools
import random
import re

import pytest

from fastrelay._core import server

COMMANDS = [
    *(b"EHLO x\r\n", b"HELO x\r\n", b"MAIL FROM:<a@b.example>\r\n", b"MAIL FROM:<> SIZE=9 BODY=8BITMIME SMTPUTF8\r\n"),
    *(b"RCPT TO:<c@d.example>\r\n", b"RCPT TO:<\xc3\xbc@d> NOTIFY=NEVER\r\n", b"DATA\r\n", b"RSET\r\n", b"NOOP\r\n"),
    *(b"BDAT 3\r\n", b"BDAT 90 LAST\r\n", b"BDAT 0 LAST\r\n", b"BDAT 70000\r\n", b"VRFY x\r\n", b"\r\n", b"\x16"),
]
AUTH = [
    *(b"AUTH PLAIN AGEAYg==\r\n", b"AUTH PLAIN AGEAYgA=\r\n", b"AUTH LOGIN\r\n", b"auth plain =\r\n", b"AUTH\r\n"),
    *(b"YWJj\r\n", b"YWI=\r\n", b"*\r\n", b"\r\n", b"MAIL FROM:<a@b.example> AUTH=<> REQUIRETLS\r\n"),
    *(b"AUTH LOGIN " + b"QUJD" * 200 + b"\r\n", b"AUTH PLAIN " + b"QUJD" * 4000 + b"\r\n", b"STARTTLS now\r\n"),
]
TEXT = [
    *(b"\r\n", b".", b"..", b" ", b"A: b\r\n\r\n", b"Received: x\r\n", b"text\r\n" * 30, b"\xc3\xbc", b"z" * 3000),
    *(b"y" * 70_000, b"QUIT\r\n", b"\r\n..\r\n"),
]
EVIL = [b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\r", b"\n", b"\0", b"QUIT\r\n", b"<", b'"']
ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
REPLY = re.compile(rb"[2345]\d\d[ -][ -~]*")

Result = tuple[bytes, list[bytes], bool, int]


def text(chance: random.Random) -> bytes:
    words = [chance.choice(TEXT) for _ in range(chance.randrange(9))]
    if chance.random() < 0.2:
        words.insert(chance.randrange(len(words) + 1), chance.choice(EVIL))
    return b"".join(words)


def step(chance: random.Random) -> bytes:
    """A whole message by DATA or BDAT, or a few commands."""
    kind = chance.random()
    if kind < 0.4:
        return ENVELOPE + b"DATA\r\n" + text(chance) + b"\r\n.\r\n"
    if kind < 0.7:
        chunks = [text(chance) for _ in range(chance.randrange(1, 4))]
        return ENVELOPE + b"".join(b"BDAT %d\r\n%b" % (len(chunk), chunk) for chunk in chunks) + b"BDAT 0 LAST\r\n"
    return b"".join(chance.choice(COMMANDS) for _ in range(chance.randrange(1, 8)))


def exchange(chance: random.Random) -> bytes:
    """Something about AUTH and TLS."""
    words = [chance.choice(AUTH) for _ in range(chance.randrange(1, 5))]
    if chance.random() < 0.05:
        words.append(b"STARTTLS\r\n")
    return b"".join(words)


def script(chance: random.Random, auth: bool = False) -> bytes:
    steps = [
        exchange(chance) if auth and chance.random() < 0.6 else step(chance) for _ in range(chance.randrange(1, 7))
    ]
    octets = bytearray(b"EHLO x\r\n" + b"".join(steps))
    for _ in range(chance.choice([0, 0, 0, 1, 3])):
        octets[chance.randrange(len(octets))] = chance.randrange(256)
    return bytes(octets)


def judge(machine: server.SmtpServer, octets: bytes | None, now: float) -> None:
    """Who says nothing is asked; of those who answer, every third is right."""
    if octets is None:
        machine.auth_challenge(b"Who?", now)
    elif len(octets) % 3:
        machine.auth_done(None, b"535 5.7.8 Wrong\r\n", now)
    else:
        machine.auth_done(b"me", b"235 2.7.0 Right\r\n", now)


def play(octets: bytes, cuts: list[int], late: bool, settings: dict[str, object], auth: bool = False) -> Result:
    """What was said and taken, whether the connection closed, and how many octets were never looked at."""
    limits = server.ServerLimits(message_size=200_000, line=300, header_size=5000, recipients=3, errors=200)
    machine = server.SmtpServer(b"relay.example", limits, may_relay=True, **settings)
    if auth:
        machine.offer_auth, machine.auth_required, machine.offer_starttls = b"PLAIN LOGIN", True, True
    machine.greeting(0.0)
    asked: list[bytes | None] = []
    output, contents, spilled, closed = [], [], [], False
    edges = [0, *sorted(cuts), len(octets)]
    pieces = [octets[a:b] for a, b in itertools.pairwise(edges)]
    for number, piece in enumerate(pieces):
        machine.receive(piece, float(number))
        while True:
            event = machine.next_event()
            if event == server.SPILL:
                spilled.append(machine.take_chunk())
            elif event == server.DISCARD:
                spilled.clear()
            elif event == server.MESSAGE:
                assert not auth or machine.user == b"me"
                envelope = machine.envelope
                content = b"".join(spilled) if envelope.spilled else envelope.content
                spilled.clear()
                check(envelope, content, settings)
                contents.append(content)
            elif event == server.CLOSE:
                closed = True
            elif event in (server.AUTH, server.AUTH_RESPONSE):
                assert not asked
                asked.append(machine.auth_octets)
            elif event == server.AUTH_CANCEL:
                assert not asked
            elif event == server.STARTTLS:
                assert machine.backlog == 0
            elif asked and not (late and number < len(pieces) - 1):
                judge(machine, asked.pop(), float(number))
            elif machine.waiting and not (late and number < len(pieces) - 1):
                machine.answer(b"250 2.0.0 Stored\r\n", float(number))
            else:
                break
        assert machine.backlog <= (1 << 20) + len(piece)
        output.append(machine.take_output())
    return b"".join(output), contents, closed, machine.messages


def check(envelope: server.Envelope, content: bytes, settings: dict[str, object]) -> None:
    assert envelope.recipients
    assert len(envelope.recipients) == len(envelope.recipient_parameters) <= 3
    assert len(content) == envelope.content_length <= 200_000
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", content)
    assert content.startswith(envelope.header)
    assert len(envelope.header) == envelope.header_length <= 5000
    assert envelope.eight_bit == (not content.isascii())
    for address in (envelope.reverse_path, *envelope.recipients):
        assert not re.search(rb"[\0-\x1f\x7f<>]", address)
        assert envelope.smtputf8 or address.isascii()


@pytest.mark.parametrize("repair", [False, True])
def test_any_client(request: pytest.FixtureRequest, repair: bool) -> None:
    rounds = 30_000 if request.config.getoption("--long", default=False) else 600
    settings = {"bare_line_ends": "repair" if repair else "refuse", "spill_bytes": 2000}
    for seed in range(rounds):
        chance = random.Random(f"{seed} {repair}")
        octets = script(chance)
        whole = play(octets, [], False, settings)
        for line in whole[0].split(b"\r\n")[:-1]:
            assert REPLY.fullmatch(line), (seed, line)
        for late in (False, True):
            cuts = [chance.randrange(len(octets) + 1) for _ in range(chance.choice([1, 2, 30]))]
            assert play(octets, cuts, late, settings) == whole, (seed, cuts, late)


def test_any_client_of_a_listener_that_wants_auth(request: pytest.FixtureRequest) -> None:
    """No message without a user, however AUTH and STARTTLS are mixed with it."""
    rounds = 30_000 if request.config.getoption("--long", default=False) else 1000
    messages = 0
    for seed in range(rounds):
        chance = random.Random(f"{seed} auth")
        octets = script(chance, auth=True)
        whole = play(octets, [], False, {}, auth=True)
        messages += len(whole[1])
        for line in whole[0].split(b"\r\n")[:-1]:
            assert REPLY.fullmatch(line), (seed, line)
        for late in (False, True):
            cuts = [chance.randrange(len(octets) + 1) for _ in range(chance.choice([1, 2, 30]))]
            assert play(octets, cuts, late, {}, auth=True) == whole, (seed, cuts, late)
    assert messages > 10


def test_pure_noise(request: pytest.FixtureRequest) -> None:
    rounds = 25_000 if request.config.getoption("--long", default=False) else 500
    for seed in range(rounds):
        chance = random.Random(seed)
        octets = (b"EHLO x\r\n" + ENVELOPE)[: chance.choice([0, 8, 99])] + chance.randbytes(chance.randrange(1, 3000))
        whole = play(octets, [], False, {})
        cuts = [chance.randrange(len(octets) + 1) for _ in range(20)]
        assert play(octets, cuts, True, {}) == whole, seed
