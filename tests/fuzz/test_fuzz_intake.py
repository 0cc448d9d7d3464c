"""Whatever comes to an inbound address is answered 250, and names nobody but whom we sent to."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bounces import SAMPLES
from support.intake import JOE, Box, run

from fastrelay.feedback.intake import TAKEN

PIECES = [
    b"\n", b"\r\n\r\n", b"--=_report", b"--=_report--", b"\x00", b"\xff\xfe", b"X-Ref: ", b"Final-Recipient: rfc822;",
    b"Content-Type: message/rfc822\r\n\r\n", b"Content-Type: message/feedback-report\r\n\r\n",
    b"Feedback-Type: abuse\r\n", b"Content-Transfer-Encoding: base64\r\n",
    b"Action: failed\r\n", b"Original-Recipient: rfc822;victim@x.example\r\n",
]  # fmt: skip


def mutated(chance: random.Random, bases: list[bytes]) -> bytes:
    octets = bytearray(chance.choice(bases))
    for _ in range(chance.randrange(1, 10)):
        at = chance.randrange(len(octets) + 1)
        kind = chance.random()
        if kind < 0.3:
            octets[at : at + chance.randrange(40)] = b""
        elif kind < 0.7:
            octets[at:at] = chance.choice(PIECES)
        else:
            octets[at : at + 4] = chance.randbytes(4)
    return bytes(octets)


def check(box: Box) -> None:
    for name in ("bounced", "complained", "unsubscribed", "suppression"):
        for event in box.events(name):
            assert event["recipient"] == JOE, event
    status = box.intake.status()
    assert "unreadable" not in status["kinds"], "the parsers raise for no message"


def play(folder: Path, seed: int, rounds: int) -> None:
    async def work(box: Box) -> None:
        chance = random.Random(seed)
        token = box.token()
        bases = [box.report().octets, *(sample[0] + f"\nX-Ref: {token}\n".encode() for sample in SAMPLES.values())]
        addresses = ["b@b.test", f"b+{token[:60]}@b.test", f"un+{token[:60]}@b.test", f"b+{box.token(limit=56)}@b.test"]
        for _ in range(rounds):
            message = box.message(mutated(chance, bases), chance.choice(addresses))
            assert await box.intake.take(message) == TAKEN
        check(box)

    run(folder, work)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_mail(tmp_path: Path, seed: int) -> None:
    play(tmp_path, seed, 100)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_much_mutated_mail(tmp_path: Path, seed: int) -> None:
    play(tmp_path, seed, 1000)


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=64)), max_size=5))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_octets(tmp_path_factory: pytest.TempPathFactory, mail: list[tuple[bytes, bytes]]) -> None:
    async def work(box: Box) -> None:
        for octets, local in mail:
            message = box.message(octets)
            message.recipients[0] = local + b"@b.test"
            assert await box.intake.take(message) == TAKEN
        check(box)

    run(tmp_path_factory.mktemp("desk"), work)


def test_bombs(tmp_path: Path) -> None:
    """Much of one thing: bounded by what the parsers read of it."""

    async def work(box: Box) -> None:
        head = b"From: MAILER-DAEMON@x.example\r\nSubject: Undelivered Mail\r\nMIME-Version: 1.0\r\n"
        group = b"Final-Recipient: rfc822;%d@x.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n"
        report = head + b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n--b\r\n'
        for octets in (
            report
            + b"Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n"
            + b"".join(group % number for number in range(100_000)),
            head + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + b"--b\r\n\r\nx\r\n" * 200_000,
            head
            + b"".join(
                b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(20_000)
            ),
            b"X-Ref: f" + b"a" * 5_000_000 + b"\r\n\r\n",
            head + b"\r\n" + b"f" * 5_000_000,
        ):
            assert await box.intake.take(box.message(octets, f"b+{'f' * 60}@b.test")) == TAKEN
        check(box)

    run(tmp_path, work)
