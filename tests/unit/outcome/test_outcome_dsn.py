"""What a bounce message of ours looks like: to a parser of MIME, to ours, to another one; and what odd input makes."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage, Message
from typing import Any, cast

import msgspec
import pytest
from flufl.bounce import scan_message
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.feedback.bounce import parse_bounce
from fastrelay.outcome.dsn import (
    FIELD_LONGEST,
    HEADER_LONGEST,
    LINE_LONGEST,
    Report,
    Reported,
    build,
    decode_xtext,
    header_of,
    status_of,
)

BOB = Reported(b"bob@b.test", "failed", status="5.1.1", reply="550 5.1.1 No such user", host="mx.b.test", tried=1.7e9)
REPORT = Report(
    hostname="relay.test",
    sender="mailer-daemon@relay.test",
    to=b"news@a.test",
    message_id="1.2@relay.test",
    date=1.7e9,
    arrival=1.7e9 - 5,
    recipients=[BOB],
    log_id="w0-1f",
    returned=b"From: news@a.test\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nbody\r\n",
)


def made(*recipients: Reported, **changes: Any) -> bytes:
    return build(msgspec.structs.replace(REPORT, **changes, **({"recipients": list(recipients)} if recipients else {})))


def parts_of(octets: bytes) -> tuple[EmailMessage, list[EmailMessage]]:
    message = cast("EmailMessage", email.message_from_bytes(octets, policy=email.policy.default))
    assert not message.defects
    return message, cast("list[EmailMessage]", message.get_payload())


def groups_of(octets: bytes) -> list[Message]:
    """The groups of fields of the report, the message's first."""
    return cast("list[Message]", parts_of(octets)[1][1].get_payload())


def test_the_parts() -> None:
    message, parts = parts_of(made())
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    kinds = ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    assert [part.get_content_type() for part in parts] == kinds
    assert message["Subject"] == "Your message could not be delivered"
    assert message["Content-Transfer-Encoding"] is None
    assert "Grüße" in parts[0].get_content()
    assert b"body" not in made()


def test_another_parser_finds_the_recipients() -> None:
    delayed = Reported(
        b"late@c.test", "delayed", status="4.2.1", reply="450 4.2.1 Later", host="mx.c.test", until=1.8e9
    )
    found = scan_message(email.message_from_bytes(made(BOB, Reported(b"eve@e.test", "failed"))))
    assert found == {b"bob@b.test", b"eve@e.test"}
    temporary = email.message_from_bytes(made(delayed))
    assert scan_message(temporary) == set()


@pytest.mark.parametrize(
    ("recipients", "subject"),
    [
        (["delayed", "relayed"], "Your message is delayed"),
        (["relayed", "failed"], "Your message could not be delivered"),
        (["relayed"], "Your message was passed on"),
    ],
)
def test_the_subject_names_the_worst(recipients: list[Any], subject: str) -> None:
    octets = made(*[Reported(b"a%d@b.test" % n, action) for n, action in enumerate(recipients)])
    message, parts = parts_of(octets)
    assert message["Subject"] == subject
    assert [str(group["Action"]) for group in groups_of(octets)[1:]] == recipients
    assert parts[0].get_content().count("<a") == len(recipients)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "5.1.1"),
        ({"status": ""}, "5.0.0"),
        ({"status": "5.1"}, "5.0.0"),
        ({"status": "2.0.0"}, "5.0.0"),
        ({"status": "", "reply": "450 no"}, "4.0.0"),  # the operator's rule made it a failure
        ({"status": "", "reply": "450 is our own text", "host": ""}, "5.0.0"),
        ({"expired": True}, "4.4.7"),
        ({"action": "delayed"}, "4.0.0"),
        ({"action": "delayed", "status": "4.4.1"}, "4.4.1"),
        ({"action": "relayed", "status": "", "reply": "250 ok"}, "2.0.0"),
        ({"action": "relayed", "status": "2.1.5"}, "2.1.5"),
    ],
)
def test_a_status_is_never_made_up(changes: dict[str, Any], status: str) -> None:
    assert status_of(msgspec.structs.replace(BOB, **changes)) == status


def test_our_own_words_are_no_reply_of_a_host() -> None:
    one = Reported(b"a@b.test", "failed", status="5.1.2", reply="550 5.1.2 The domain does not exist")
    group = groups_of(made(one))[1]
    assert group["Diagnostic-Code"] == "X-fastrelay; 550 5.1.2 The domain does not exist"
    assert group["Remote-MTA"] is None
    assert group["Last-Attempt-Date"] is None


def test_a_delayed_one_says_until_when() -> None:
    octets = made(Reported(b"a@b.test", "delayed", until=1.8e9))
    assert str(groups_of(octets)[1]["Will-Retry-Until"]).startswith("Fri, 15 Jan 2027")
    assert "It will be tried until Fri, 15 Jan 2027" in parts_of(octets)[1][0].get_content()


def test_a_long_reply_is_folded_and_read_back() -> None:
    reply = "550 5.7.1 " + " ".join(f"word{number}" for number in range(60))
    octets = made(msgspec.structs.replace(BOB, reply=reply))
    assert max(map(len, octets.split(b"\r\n"))) <= 78
    [found] = parse_bounce(octets).recipients
    assert found.diagnostic == reply
    endless = "550 " + "x" * 5000
    octets = made(msgspec.structs.replace(BOB, reply=endless))
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert len(groups_of(octets)[1]["Diagnostic-Code"]) <= FIELD_LONGEST


def test_addresses_beyond_ascii() -> None:
    octets = made(Reported("jürgen@bücher.test".encode(), "failed", status="5.1.1"), to="grüße@a.test".encode())
    message, parts = parts_of(octets)
    assert parts[1].get_content_type() == "message/global-delivery-status"
    assert "Final-Recipient: utf-8; jürgen@bücher.test\r\n".encode() in octets
    assert message["Content-Transfer-Encoding"] == "8bit"
    [found] = parse_bounce(octets).recipients
    assert (found.address, found.status) == ("jürgen@bücher.test", "5.1.1")


def test_a_reply_beyond_ascii_stays_ascii_in_a_plain_report() -> None:
    octets = made(msgspec.structs.replace(BOB, reply="550 5.1.1 Kein Empfänger \udcff"))
    assert octets.isascii()
    assert groups_of(octets)[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 Kein Empf\\x{E4}nger ?"
    assert "Empfänger" in parts_of(octets)[1][0].get_content()


def test_a_whole_message_comes_back_as_it_was() -> None:
    content = b"Subject: x\r\n\r\n--=_1.2_0\r\nf\xfcr\r\n"
    octets = made(returned=content, whole=True)
    assert b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + content in octets
    message, parts = parts_of(octets)
    assert len(parts) == 3
    assert message["Content-Transfer-Encoding"] == "8bit"


def test_headers_beyond_ascii_or_with_long_lines_are_encoded() -> None:
    for header in ("Subject: Grüße\r\n", "Subject: " + "x" * 2000 + "\r\n"):
        octets = made(returned=header.encode() + b"\r\nbody")
        assert octets.isascii()
        assert max(map(len, octets.split(b"\r\n"))) <= LINE_LONGEST
        last = parts_of(octets)[1][2]
        encoded = last.get_payload()
        text = encoded if isinstance(encoded, str) else encoded[0].as_string()
        assert "quoted-printable" in str(last["Content-Transfer-Encoding"])
        assert "body" not in text


def test_a_content_that_can_not_be_read() -> None:
    assert len(parts_of(made(returned=None))[1]) == 2


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (b"A: b\r\n\r\nbody", b"A: b\r\n"),
        (b"\r\nbody", b""),
        (b"A: b\r\nC: d", b"A: b\r\nC: d\r\n"),
        (b"", b""),
    ],
)
def test_header_of(content: bytes, header: bytes) -> None:
    assert header_of(content) == header


def test_a_very_long_header_is_cut_behind_a_field() -> None:
    header = header_of(b"X-Field: some words\r\n" * 10_000)
    assert HEADER_LONGEST - 30 < len(header) <= HEADER_LONGEST
    assert header.endswith(b"some words\r\n")


@pytest.mark.parametrize(
    ("xtext", "plain"), [(b"a+2Bb", "a+b"), (b"a+0D+0AX: y", "a+0D+0AX: y"), (b"+zz+4", "+zz+4"), (b"+C3+BC", "ü")]
)
def test_xtext(xtext: bytes, plain: str) -> None:
    assert decode_xtext(xtext) == plain


FIELD_NAMES = {
    "from", "to", "subject", "date", "message-id", "auto-submitted", "mime-version", "content-type",
    "content-transfer-encoding",
}  # fmt: skip
GROUP_NAMES = {
    "original-envelope-id", "reporting-mta", "arrival-date", "original-recipient", "final-recipient", "action",
    "status", "remote-mta", "diagnostic-code", "last-attempt-date", "final-log-id",
}  # fmt: skip
ODD_TEXT = st.text(max_size=200) | st.sampled_from(
    ["\r\nX: y", "550 a\r\n\r\nStatus: 2.0.0", "\x85\u2028", "--=_1.2_0"]
)
ODD_BYTES = st.binary(max_size=100) | st.sampled_from(
    [b"\r\n\r\nAction: delivered", b"rfc822;+0D+0AX:+20y", b"\xff;\x00"]
)
PLAIN_XTEXT = st.from_regex(rb"[!-*,-<>-~]{0,40}", fullmatch=True)


@given(
    replies=st.lists(ODD_TEXT, min_size=1, max_size=3),
    envid=ODD_BYTES,
    original=ODD_BYTES,
    local=st.from_regex(rb"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~.-]{1,40}|\"[ -!#-\[\]-~]{0,30}\"", fullmatch=True),
    header=ODD_BYTES,
    status=ODD_TEXT,
    host=ODD_TEXT,
)
def test_nothing_from_outside_makes_a_field(
    replies: list[str], envid: bytes, original: bytes, local: bytes, header: bytes, status: str, host: str
) -> None:
    recipients = [
        Reported(local + b"@b.test", "failed", original=original, status=status, reply=reply, host=host, tried=1.7e9)
        for reply in replies
    ]
    octets = made(
        *recipients, envid=envid, returned=b"Subject: x\r\nX-Odd: " + re.sub(rb"[\r\n]", b"", header) + b"\r\n\r\n"
    )
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", octets)
    head, _, body = octets.partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].decode().lower() for line in re.split(rb"\r\n(?![ \t])", head)}
    assert names <= FIELD_NAMES
    mark = re.search(rb'boundary="([^"]+)"', head)
    assert mark is not None
    pieces = body.split(b"--" + mark[1])
    assert len(pieces) == 5
    report = pieces[2].partition(b"\r\n\r\n")[2]
    groups = report.strip(b"\r\n").split(b"\r\n\r\n")
    assert len(groups) == 1 + len(recipients)
    for group in groups:
        fields = re.split(rb"\r\n(?![ \t])", group)
        assert {field.partition(b":")[0].decode().lower() for field in fields} <= GROUP_NAMES
        assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", group)
        assert sum(field.lower().startswith(b"status:") for field in fields) <= 1
    assert max(map(len, report.split(b"\r\n"))) <= 4 * FIELD_LONGEST


@given(
    st.lists(st.from_regex(r"[a-z0-9]{1,20}@[a-z]{1,10}\.test", fullmatch=True), min_size=1, max_size=5, unique=True)
)
def test_our_reader_finds_exactly_the_recipients(addresses: list[str]) -> None:
    recipients = [
        Reported(
            address.encode(), "failed", status=f"5.1.{number + 1}", reply=f"550 5.1.{number + 1} no", host="mx.b.test"
        )
        for number, address in enumerate(addresses)
    ]
    found = parse_bounce(made(*recipients)).recipients
    assert [(one.address, one.status, one.action) for one in found] == [
        (address, f"5.1.{number + 1}", "failed") for number, address in enumerate(addresses)
    ]
