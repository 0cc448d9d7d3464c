"""Complaints as they come: the standard form, those of providers, redacted, mislabelled and broken."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay.feedback import arf
from fastrelay.feedback.reference import References

REFERENCES = References(bytes(range(32)))
REFERENCE = REFERENCES.make(b"reader@mailbox.example", b"autumn", b"shop", b"news.example", 20_000, "a1-2b")
SHORT = REFERENCES.make(b"reader@mailbox.example", b"autumn", b"shop", b"news.example", 20_000, "a1-2b", 56)

ORIGINAL = f"""\
Return-Path: <bounces+{SHORT}@news.example>
Received: from out1.news.example (out1.news.example [192.0.2.7]) by mx.mailbox.example; Mon, 5 Oct 2026 10:00:00 +0000
From: News <news@news.example>
To: reader@mailbox.example
Subject: =?utf-8?q?Angebote_f=C3=BCr_Sie?=
Message-ID: <a1-2b@news.example>
Date: Mon, 5 Oct 2026 10:00:00 +0000
List-Unsubscribe: <https://news.example/unsubscribe/{REFERENCE}>
X-Fastrelay-Reference: {REFERENCE}

Words
"""
HEADERS_ONLY = ORIGINAL.split("\n\n")[0] + "\n"
FIELDS = """\
Feedback-Type: abuse
User-Agent: SomeGenerator/1.0
Version: 1
Original-Mail-From: <bounces@news.example>
Original-Rcpt-To: <reader@mailbox.example>
Arrival-Date: Mon, 5 Oct 2026 10:00:00 +0000
Source-IP: 192.0.2.7
Incidents: 3
"""


def report(
    fields: str = FIELDS,
    original: str = ORIGINAL,
    *,
    of: str = "message/rfc822",
    middle: str = "message/feedback-report",
    top: str = "multipart/report; report-type=feedback-report",
    sender: str = "fbl@mailbox.example",
    encode: bool = False,
) -> bytes:
    if encode:
        original = "Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(original.encode()).decode()
    else:
        original = "\n" + original
    return (
        f"From: {sender}\nTo: fbl@news.example\nSubject: FW: Angebote\nMIME-Version: 1.0\n"
        f'Content-Type: {top}; boundary="b1"\n\nThis is MIME.\n'
        "--b1\nContent-Type: text/plain\n\nThis is an email abuse report for a message from 192.0.2.7.\n"
        f"--b1\nContent-Type: {middle}\n\n{fields}\n"
        f"--b1\nContent-Type: {of}\n{original}\n--b1--\n"
    ).encode()


def test_standard() -> None:
    found = arf.parse(report())
    assert found is not None
    assert (found.kind, found.feedback_type, found.form) == ("complaint", "abuse", "arf")
    assert found.recipients == ["reader@mailbox.example"]
    assert not found.redacted
    assert (found.source_ip, found.incidents, found.user_agent) == ("192.0.2.7", 3, "SomeGenerator/1.0")
    assert found.reverse_path == "bounces@news.example"
    assert (found.message_id, found.subject) == ("<a1-2b@news.example>", "Angebote für Sie")
    assert found.references == [REFERENCE, SHORT]
    assert REFERENCES.read(found.references[0]).recipient == b"reader@mailbox.example"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends(ends: str) -> None:
    found = arf.parse(report().replace(b"\n", ends.encode()))
    assert found is not None
    assert found.references == [REFERENCE, SHORT]


@pytest.mark.parametrize(
    ("of", "middle", "top", "encode"),
    [
        ("text/rfc822-headers", "message/feedback-report", "multipart/report; report-type=feedback-report", False),
        ("message/rfc822", "message/feedback-report", "multipart/mixed", False),
        ("message/rfc822", "text/plain", "multipart/mixed", False),
        ("text/plain", "message/feedback-report", "multipart/report; report-type=feedback-report", False),
        ("application/octet-stream", "message/feedback-report", "multipart/report", True),
        ("message/rfc822", "message/feedback-report", "multipart/report; report-type=feedback-report", True),
        ("text/rfc822-headers; charset=utf-16", "Message/Feedback-Report", "multipart/report", True),
        ("text/rfc822", "application/octet-stream", "multipart/report; REPORT-TYPE=FEEDBACK-REPORT", False),
    ],
)
def test_types_that_parts_are_given(of: str, middle: str, top: str, encode: bool) -> None:
    found = arf.parse(report(of=of, middle=middle, top=top, encode=encode))
    assert found is not None
    assert found.feedback_type == "abuse"
    assert found.message_id == "<a1-2b@news.example>"
    assert found.references == [REFERENCE, SHORT]


def test_header_alone() -> None:
    found = arf.parse(report(original=HEADERS_ONLY, of="text/rfc822-headers"))
    assert found is not None
    assert found.references == [REFERENCE, SHORT]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("abuse", "complaint"), ("Abuse", "complaint"), ("fraud", "complaint"), ("virus", "complaint"),
        ("other", "complaint"), ("miscategorized", "complaint"), ("opt-out", "opt_out"), ("opt-out-list", "opt_out"),
        ("not-spam", "not_spam"), ("auth-failure", "auth_failure"), ("abuse (junk button)", "complaint"),
    ],
)  # fmt: skip
def test_kinds(said: str, kind: str) -> None:
    found = arf.parse(report(FIELDS.replace("abuse", said)))
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(
    "told",
    [
        "",
        "Original-Rcpt-To: redacted\n",
        "Original-Rcpt-To: redacted-deadbeef@mailbox.example\n",
        "Original-Rcpt-To: <>\n",
    ],
)
def test_redacted(told: str) -> None:
    fields = "Feedback-Type: abuse\nUser-Agent: Yahoo!-Mail-Feedback/2.0\nVersion: 0.1\n" + told
    found = arf.parse(report(fields, ORIGINAL.replace("reader@mailbox.example", "redacted@mailbox.example")))
    assert found is not None
    assert found.redacted
    assert found.recipients == []
    assert found.reporter == "yahoo"
    assert found.references == [REFERENCE, SHORT]


def test_jmrp() -> None:
    octets = (
        "Date: Mon, 5 Oct 2026 10:00:00 +0000\nFrom: staff@hotmail.com\nTo: fbl@news.example\n"
        "Subject:  complaint about message from 192.0.2.7\nMIME-Version: 1.0\n"
        'Content-Type: multipart/mixed; boundary="A1"\n\n'
        "--A1\nContent-Type: message/rfc822\nContent-Disposition: inline\n\n"
        f"X-HmXmrOriginalRecipient: <reader@mailbox.example>\nX-Reporter-IP: 203.0.113.2\n{ORIGINAL}\n--A1--\n"
    ).encode()
    found = arf.parse(octets)
    assert found is not None
    assert (found.kind, found.form, found.reporter) == ("complaint", "jmrp", "outlook")
    assert found.recipients == ["reader@mailbox.example"]
    assert found.source_ip == "192.0.2.7"
    assert found.references == [REFERENCE, SHORT]
    # as an attachment of another name, and with the field in the report's own header
    assert arf.parse(octets.replace(b"message/rfc822", b"application/octet-stream")) is not None
    own = b"X-HmXmrOriginalRecipient: reader@mailbox.example\nFrom: staff@hotmail.com\n" + ORIGINAL.encode()
    found = arf.parse(own)
    assert found is not None
    assert found.references == [REFERENCE, SHORT]


def test_cfbl_fields() -> None:
    header = (
        f"CFBL-Address: fbl@news.example; report=arf\nCFBL-Feedback-ID: 111:222:{REFERENCE}\n"
        "Message-ID: <a1-2b@news.example>\n"
    )
    found = arf.parse(report("Feedback-Type: abuse\nUser-Agent: x\nVersion: 1\n", header, of="text/rfc822-headers"))
    assert found is not None
    assert found.references == [REFERENCE]
    inside = arf.parse(report(f"Feedback-Type: abuse\nVersion: 1\nCFBL-Feedback-ID: {REFERENCE}\n", ""))
    assert inside is not None
    assert inside.references == [REFERENCE]


def test_xarf() -> None:
    told = {
        "Version": "1",
        "ReporterInfo": {"ReporterOrg": "Mailbox"},
        "Report": {
            "ReportClass": "Activity", "ReportType": "Spam", "SourceIp": "192.0.2.7",
            "Samples": [{"ContentType": "message/rfc822", "Base64Encoded": True,
                         "Payload": base64.b64encode(ORIGINAL.encode()).decode()}],
        },
    }  # fmt: skip
    octets = (
        "From: abuse@mailbox.example\nContent-Type: multipart/mixed; boundary=b\n\n"
        f'--b\nContent-Type: application/json; name="xarf.json"\n\n{json.dumps(told)}\n--b--\n'
    ).encode()
    found = arf.parse(octets)
    assert found is not None
    assert (found.form, found.source_ip) == ("xarf", "192.0.2.7")
    assert found.references == [REFERENCE, SHORT]


def test_spamcop() -> None:
    octets = (
        "From: 123456@reports.spamcop.net\nSubject: [SpamCop (192.0.2.7) id:1]Angebote\nContent-Type: text/plain\n\n"
        f"[ SpamCop V5.4.0 ]\nThis message is brief.\n\n[ Offending message ]\n{ORIGINAL}"
    ).encode()
    found = arf.parse(octets)
    assert found is not None
    assert found.form == "text"
    assert found.references == [REFERENCE, SHORT]


def test_forwarded() -> None:
    octets = b"From: admin@news.example\nContent-Type: message/rfc822\nSubject: fwd\n\n" + report()
    found = arf.parse(octets)
    assert found is not None
    assert found.references == [REFERENCE, SHORT]


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"From: a@b.example\nSubject: Hello\n\nWords about Feedback-Type: abuse in a line\n",
        b"From: a@b.example\nSubject: abuse report\n\nPlease stop.\n",
        report(top="multipart/report; report-type=delivery-status"),
        ORIGINAL.encode(),
    ],
)
def test_no_complaint(octets: bytes) -> None:
    assert arf.parse(octets) is None


def test_reference_fields() -> None:
    both = f"X-Own: {SHORT}\nX-Fastrelay-Reference: {REFERENCE}\n".encode()
    assert arf.references_in(both, "X-Own") == [SHORT, REFERENCE]
    url = f"List-Unsubscribe: <mailto:u+{SHORT.upper()}@news.example>,\r\n <https://x.example/u/{REFERENCE}?a=1>\r\n"
    assert arf.references_in(url.encode()) == [SHORT, REFERENCE]
    folded = f"List-Unsubscribe: <https://x.example/u/{REFERENCE[:40]}\r\n {REFERENCE[40:]}>\r\n"
    assert REFERENCE in arf.references_in(folded.encode())
    assert arf.references_in(f"Subject: {REFERENCE}a9\n".encode()) == []
    many = b"".join(b"X-A: f%s\n" % (b"abcdefgh" * 4 + bytes([97 + n % 26, 97 + n // 26])) for n in range(600))
    assert len(arf.references_in(many)) == arf.MAX_REFERENCES


def test_of_references_of_two_fields_ours_comes_first() -> None:
    header = f"Return-Path: <b+{SHORT}@news.example>\nFeedback-ID: a:b:{REFERENCE}\n".encode()
    assert arf.references_in(header) == [REFERENCE, SHORT]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 3000), st.integers(0, 3000))
def test_never_raises(noise: bytes, at: int, cut: int) -> None:
    whole = report()
    for octets in (noise, whole[:at] + noise + whole[at:], whole[: min(at, cut)] + whole[max(at, cut) :]):
        found = arf.parse(octets)
        if found is not None:
            assert found.kind in set(arf.KINDS.values())
            assert len(found.references) <= arf.MAX_REFERENCES
