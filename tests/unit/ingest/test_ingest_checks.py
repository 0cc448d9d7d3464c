"""Checks of a message when it is submitted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, get_args

import pytest

from fastrelay._core.canon import parse_fields
from fastrelay.config.security import Check, MessageChecks
from fastrelay.ingest.checks import CHECKS, Checks, Seen

FINE = (
    b"From: News <a@news.example.com>\r\nTo: joe@example.com\r\nSubject: x\r\nDate: Mon, 23 Nov 2026 17:51:28 +0000\r\n"
    b"Message-ID: <1@news.example.com>\r\nList-Unsubscribe: <mailto:u@x.com>, <https://x.com/u>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n"
)


@dataclass
class FakeEnvelope:
    longest_line: int = 78
    eight_bit_header: bool = False
    smtputf8: bool = False


def seen(header: bytes, envelope: FakeEnvelope | None = None, priority: int = 0, signed: bool = True) -> Seen:
    fields = parse_fields(header)
    return Seen(fields, fields.from_domain(), envelope or FakeEnvelope(), priority, signed)


def found(one: Seen) -> list[str]:
    counted: Counter[tuple[str, str]] = Counter()

    def count(check: str, action: str) -> None:
        counted[check, action] += 1

    refusal, warnings = Checks(MessageChecks(warn=list(get_args(Check))), count).look(one)
    assert refusal == b""
    assert counted == Counter((name, "warn") for name in warnings)
    for name in warnings:  # the same one refuses
        refusal, none = Checks(MessageChecks(refuse=[name]), count).look(one)  # type: ignore[list-item]
        assert none == []
        status = CHECKS[name][0]  # type: ignore[index]
        pattern = rb"550 %b [ -~]+ \(check %b\)\r\n" % (re.escape(status.encode()), name.encode())
        assert re.fullmatch(pattern, refusal), refusal
        assert counted[name, "refuse"] == 1
    return warnings


def without(name: bytes) -> bytes:
    return re.sub(rb"(?m)^" + name + rb":[^\r\n]*\r\n", b"", FINE)


def test_a_message_as_it_should_be() -> None:
    assert found(seen(FINE)) == []


CASES: dict[str, tuple[Seen, list[str]]] = {
    "no From": (seen(without(b"From")), ["from", "from_domain"]),
    "two From": (seen(b"From: b@example.com\r\n" + FINE), ["from", "from_domain", "repeated_fields"]),
    "From without an address": (seen(FINE.replace(b"<a@news.example.com>", b"")), ["from", "from_domain"]),
    "one label": (seen(FINE.replace(b"a@news.example.com", b"a@localhost")), ["from_domain"]),
    "reserved": (seen(FINE.replace(b"a@news.example.com", b"a@news.invalid")), ["from_domain"]),
    "empty label": (seen(FINE.replace(b"a@news.example.com", b"a@news..com")), ["from_domain"]),
    "only digits on top": (seen(FINE.replace(b"a@news.example.com", b"a@1.2.3.4")), ["from_domain"]),
    "no Date": (seen(without(b"Date")), ["date"]),
    "strange Date": (seen(FINE.replace(b"Mon, 23 Nov 2026 17:51:28 +0000", b"yesterday")), ["date"]),
    "no Message-ID": (seen(without(b"Message-ID")), ["message_id"]),
    "strange Message-ID": (seen(FINE.replace(b"<1@news.example.com>", b"1")), ["message_id"]),
    "two Subjects": (seen(b"SUBJECT: y\r\n" + FINE), ["repeated_fields"]),
    "two Content-Types": (seen(b"Content-Type: a/b\r\ncontent-type: c/d\r\n" + FINE), ["repeated_fields"]),
    "a long line": (seen(FINE, FakeEnvelope(longest_line=999)), ["line_length"]),
    "8 bits": (seen(FINE, FakeEnvelope(eight_bit_header=True)), ["eight_bit_header"]),
    "no key": (seen(FINE, signed=False), ["unsigned"]),
    "no List-Unsubscribe": (seen(without(b"List-Unsubscribe")), ["unsubscribe"]),
    "no URL": (seen(FINE.replace(b"<https://x.com/u>", b"<http://x.com/u>")), ["unsubscribe"]),
    "no one-click": (seen(without(b"List-Unsubscribe-Post")), ["unsubscribe"]),
    "no recipient": (seen(without(b"To")), ["no_recipient_field"]),
    "nothing at all": (
        seen(b"hello\r\n"), ["from", "from_domain", "date", "message_id", "unsubscribe", "no_recipient_field"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_faults(case: str) -> None:
    one, names = CASES[case]
    assert found(one) == names


@pytest.mark.parametrize(
    "one",
    [
        seen(FINE, FakeEnvelope(longest_line=998)),
        seen(FINE, FakeEnvelope(eight_bit_header=True, smtputf8=True)),
        seen(without(b"List-Unsubscribe"), priority=1),
        seen(without(b"List-Unsubscribe-Post"), priority=2),
        seen(FINE.replace(b"To:", b"Bcc:")),
        seen(FINE.replace(b"a@news.example.com", "a@exämple.com".encode())),
        seen(FINE.replace(b"List-Unsubscribe=One-Click", b"list-unsubscribe = One-Click")),
        seen(FINE.replace(b"Mon, 23 Nov 2026 17:51:28 +0000", b" 3 nov 2026 17:51 GMT (zone)")),
        seen(FINE.replace(b"Mon, 23 Nov 2026 17:51:28 +0000", b"Mon, 23 Nov 2026\r\n 17:51:28 -0800 (PST)")),
        seen(FINE.replace(b"<1@news.example.com>", b"\r\n <1@news.example.com>")),
    ],
)
def test_no_fault(one: Seen) -> None:
    assert found(one) == []


def test_every_check_has_a_code_of_its_own() -> None:
    assert set(CHECKS) == set(get_args(Check))
    codes = [status for status, _ in CHECKS.values()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"5\.\d{1,3}\.\d{1,3}", status) for status in codes)


def test_what_a_client_wrote_stays_one_line() -> None:
    evil = FINE.replace(b"Mon, 23 Nov 2026 17:51:28 +0000", b"x\r\n\t250 ok\x1b[2J\xff")
    refusal, _ = Checks(MessageChecks(refuse=["date"]), lambda *_: None).look(seen(evil))
    assert refusal.count(b"\r\n") == 1
    assert re.fullmatch(rb"[ -~]+\r\n", refusal)


def test_refusing_comes_first() -> None:
    counted: list[Any] = []
    checks = Checks(MessageChecks(refuse=["date"], warn=["message_id"]), lambda *one: counted.append(one))
    refusal, warnings = checks.look(seen(b"From: a@b.com\r\n\r\n"))
    assert refusal.startswith(b"550 5.6.101 ")
    assert warnings == []
    assert counted == [("date", "refuse")]
