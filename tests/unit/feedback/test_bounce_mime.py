"""Bounded reading of MIME: line ends, broken boundaries, encodings, bombs."""

import base64
import binascii

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bounces import SAMPLES

from fastrelay.feedback import bounce_mime
from fastrelay.feedback.bounce import parse_bounce
from fastrelay.feedback.bounce_mime import decode, decoded_words, read_message, strip_html

REPORT = SAMPLES["postfix_report"][0]
GROUP = b"Reporting-MTA: dns; a.example\n\nFinal-Recipient: rfc822; r@far.example\nAction: failed\nStatus: 5.1.1\n"


def wrapped(content: bytes, encoding: str, kind: str = "message/delivery-status") -> bytes:
    return (
        b"From: MAILER-DAEMON@far.example\nSubject: failure\nContent-Type: multipart/report; boundary=b\n\n--b\n"
        + f"Content-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n".encode()
        + content
        + b"\n--b--\n"
    )


@pytest.mark.parametrize("kind", ["message/delivery-status", "application/octet-stream", "text/plain"])
def test_encoded_reports(kind):
    for encoding, encoded in (
        ("base64", base64.encodebytes(GROUP)),
        ("quoted-printable", binascii.b2a_qp(GROUP)),
        ("8bit", GROUP),
    ):
        assert parse_bounce(wrapped(encoded, encoding, kind)).recipients[0].address == "r@far.example", encoding


def test_a_report_in_messages_and_encodings():
    message = wrapped(GROUP, "7bit")
    for encoding, encoded in (("base64", base64.encodebytes(message)), ("quoted-printable", binascii.b2a_qp(message))):
        outer = wrapped(encoded, encoding, "message/rfc822")
        assert parse_bounce(outer).recipients[0].address == "r@far.example", encoding


@pytest.mark.parametrize(
    "spoil",
    [
        lambda octets: octets.replace(b'boundary="=_b"', b'boundary="other"'),
        lambda octets: octets.replace(b'; boundary="=_b"', b""),
        lambda octets: octets.replace(b"--=_b--\n", b""),
        lambda octets: b"From mailer Mon Nov  2 08:00:00 2026\n" + octets,
        lambda octets: b"\r\n\n" + octets,
        lambda octets: octets.replace(b"\n", b"\r\r\n"),
        lambda octets: octets.replace(b"--=_b\n", b"--=_b  \t\n"),
        lambda octets: b"\xef\xbb\xbf" + octets,
    ],
)
def test_spoiled_messages(spoil):
    found = parse_bounce(spoil(REPORT))
    assert [each.address for each in found.recipients] == ["reader@far.example"]
    assert found.recipients[0].status == "5.1.1"


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=40, max_size=40))
def test_mixed_line_ends(ends):
    lines = REPORT.split(b"\n")
    octets = b"".join(line + (ends[at % 40] if line else b"\n") for at, line in enumerate(lines))
    # A CR before a bare LF would be one line end more or less; fields stay whole all the same.
    assert parse_bounce(octets).recipients[0].address == "reader@far.example"


@pytest.mark.parametrize("name", ["postfix_report", "qmail", "exchange2010", "qq", "report_in_mixed", "complaint"])
def test_cut_anywhere(name):
    octets = SAMPLES[name][0]
    allowed = {each[0] for each in SAMPLES[name][2]}
    for end in range(len(octets)):
        found = parse_bounce(octets[:end])
        for each in found.recipients:
            # A cut within the domain leaves a shorter one; nothing else may come out.
            assert not each.address or any(full.startswith(each.address) for full in allowed), (end, each)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.binary(min_size=1, max_size=8))
def test_octets_overwritten(place, octets):
    at = place % len(REPORT)
    parse_bounce(REPORT[:at] + octets + REPORT[at + len(octets) :])


def test_deep_nesting_ends():
    octets = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(2000)) + b"\nx"
    parts = list(read_message(octets).walk())
    assert max(part.depth for part in parts) <= bounce_mime.MAX_DEPTH
    rfc822 = b"Content-Type: message/rfc822\n\n" * 5000
    assert max(part.depth for part in read_message(rfc822).walk()) <= bounce_mime.MAX_DEPTH


def test_many_parts_end():
    octets = b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 50_000
    assert len(list(read_message(octets).walk())) <= bounce_mime.MAX_PARTS + 1


def test_many_and_long_fields_end():
    message = read_message(b"X-A: b\n" * 50_000 + b"\nbody")
    assert len(message.fields) == bounce_mime.MAX_FIELDS
    folded = read_message(b"Subject: a\n" + b" b\n" * 100_000 + b"\nbody")
    assert len(folded.raw("subject")) < bounce_mime.MAX_FIELD_OCTETS + 10


def test_a_header_without_end_ends():
    message = read_message(b"X-A: " + b"b" * 100 + b"\n" + b" c\n" * 200_000)
    assert sum(len(value) for _, value in message.fields) < bounce_mime.MAX_HEADER_OCTETS


def test_many_recipients_end():
    groups = b"".join(
        b"Final-Recipient: rfc822; r%d@far.example\nAction: failed\nStatus: 5.1.1\n\n" % n for n in range(5000)
    )
    assert len(parse_bounce(wrapped(groups, "7bit")).recipients) == 1000


@pytest.mark.parametrize(
    "charset",
    [
        "utf-8",
        "iso-2022-jp",
        "gb2312",
        "koi8-r",
        "nonsense",
        "punycode",
        "idna",
        "zlib",
        "utf-7",
        "unicode_escape",
        "",
        "\x00",
    ],
)
def test_any_charset_decodes(charset):
    assert isinstance(decode(b"\xff\xfe\\x41 =\x1b$B", charset), str)


def test_encoded_words():
    assert decoded_words(b"=?utf-8?B?R8OkcnRlbg==?= =?utf-8?Q?_und_mehr?=") == "Gärten und mehr"
    assert decoded_words(b"=?nonsense?Q?a=FC?=").startswith("a")


def test_html():
    assert "<r@far.example>" in strip_html("<p>To <b>&lt;r@far.example&gt;</b><br>gone")
    assert strip_html("a<style>x@y.example</style>b") == "ab"
    assert strip_html("a<style>b<style>c") == "abc"
