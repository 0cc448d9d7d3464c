"""Mutated bounce messages: nothing raises, what comes out is bounded, and every address stands in the message."""

from __future__ import annotations

import random

import pytest
from support.bounces import SAMPLES

from fastrelay.feedback.bounce import parse_bounce
from fastrelay.feedback.bounce_types import as_reported, plausible

MESSAGES = [sample[0] for sample in SAMPLES.values()]
PIECES = [
    b"\n", b"\r", b"\r\n\r\n", b"--=_b", b"--=_b--", b"\x00", b"<", b">", b"@", b"=", b"\xff\xfe", b"=?utf-8?B?",
    b"Content-Type: multipart/mixed; boundary==_b\n", b"Content-Transfer-Encoding: base64\n",
    b"Content-Type: message/rfc822\n\n", b"Final-Recipient: rfc822;",
]  # fmt: skip


def mutated(chance: random.Random) -> bytes:
    octets = bytearray(chance.choice(MESSAGES))
    for _ in range(chance.randrange(1, 12)):
        at = chance.randrange(len(octets) + 1)
        kind = chance.random()
        if kind < 0.3:
            octets[at : at + chance.randrange(40)] = b""
        elif kind < 0.6:
            octets[at:at] = chance.choice(PIECES)
        elif kind < 0.8:
            octets[at : at + 4] = chance.randbytes(4)
        else:
            other = chance.choice(MESSAGES)
            start = chance.randrange(len(other))
            octets[at:at] = other[start : start + chance.randrange(400)]
    return bytes(octets)


def play(seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    for number in range(rounds):
        octets = mutated(chance)
        found = parse_bounce(octets)
        assert len(found.recipients) <= 1000, (seed, number)
        for recipient in found.recipients:
            told = plausible(recipient.address) or (found.how in ("report", "form") and as_reported(recipient.address))
            assert told or not recipient.address, (seed, number, recipient)
            assert len(recipient.diagnostic) <= 2048
        if found.what in ("auto_reply", "challenge", "subscription", "complaint", "other"):
            assert not found.recipients, (seed, number)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_bounces(seed: int) -> None:
    play(seed, 150)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_mutated_bounces(seed: int) -> None:
    play(seed, 2000)
