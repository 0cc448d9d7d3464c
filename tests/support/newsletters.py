"""Contents that a careless relay changes: what newsletters carry, and what sits at the edges of RFC 5321 and 5322.

`corpus()` gives (name, content) pairs; each content has an X-Test-Name field by which a receiver is matched with what
was sent, ends its lines with CRLF, keeps lines within 998 octets, and begins with none of the trace fields a peer adds.
"""

import base64
import random
import re
from collections.abc import Iterator

TRACE_FIELDS = (b"return-path", b"x-original-to", b"delivered-to", b"received", b"envelope-to", b"delivery-date",
                b"x-peer", b"x-mailfrom", b"x-rcptto")


def message(name: str, body: bytes, kind: bytes = b"text/plain; charset=utf-8", *more: bytes) -> bytes:
    """A content with a complete newsletter header, so that no peer finds anything to add."""
    lines = [
        b"From: =?utf-8?q?Caf=C3=A9_News?= <news@sender.example>", b"To: reader@d.example",
        b"Subject: Number " + name.encode(),
        b"Date: Mon, 23 Nov 2026 09:00:00 +0000", b"Message-ID: <" + name.encode() + b"@sender.example>",
        b"MIME-Version: 1.0", b"Content-Type: " + kind, b"X-Test-Name: " + name.encode(),
        b"List-Unsubscribe: <https://sender.example/u/1>,\r\n\t<mailto:leave@sender.example>", *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _multipart(rng: random.Random) -> bytes:
    picture = base64.encodebytes(rng.randbytes(120_000)).replace(b"\n", b"\r\n")
    html = "<p>Grüße, €5 – ☕</p>\r\n".encode() * 200
    return (
        b"--b1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGr\xc3\xbcn\r\n"
        b"--b1\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + html
        + b"--b1\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n" + picture + b"--b1--\r\n"
    )


def corpus(large: bool = True) -> Iterator[tuple[str, bytes]]:
    """All contents; without `large` only those below 200 KB."""
    rng = random.Random(5321)
    yield "plain", message("plain", b"hello\r\n")
    yield "empty-body", message("empty-body", b"")
    yield "blank-lines", message("blank-lines", b"\r\n\r\n\r\nend\r\n\r\n\r\n")
    yield "dots", message("dots", b".\r\n..\r\n...\r\n.x\r\n. \r\n\r\n.\r\n")
    yield "dots-first-and-last", message("dots-first-and-last", b".first\r\nmiddle\r\n.last\r\n.\r\n")
    many = (b"x" * 70 + b"\r\n") * 900
    yield "dot-far-in", message("dot-far-in", many + b".\r\n" + many + b".\r\n")
    yield "from-line", message("from-line", b"From here on\r\n>From there\r\n")
    yield "long-lines", message("long-lines", b"".join(b"%d " % n + b"z" * (990 + n % 5) + b"\r\n" for n in range(5)))
    yield "longest-dotted", message("longest-dotted", b"." + b"q" * 997 + b"\r\n" + b"." * 998 + b"\r\n")
    yield "spaces-at-ends", message("spaces-at-ends", b"two  \r\ntab\t\r\n \r\n\t\r\nquoted=20\r\n")
    yield "eight-bit", message("eight-bit", "žluťoučký kůň – ☕\r\n".encode() * 40)
    yield "latin-1", message("latin-1", bytes(range(0xA0, 0x100)) + b"\r\n", b"text/plain; charset=iso-8859-1")
    yield "multipart", message("multipart", _multipart(rng), b'multipart/mixed; boundary="b1"')
    odd = (b"X-Odd:no-space", b"X-Spaces:    many   ")
    yield "header-spacing", message("header-spacing", b"x\r\n", b"text/plain", *odd)
    yield "dkim", message("dkim", b"x\r\n", b"text/plain", b"DKIM-Signature: v=1; a=rsa-sha256;\r\n\tb=abc\r\n\t def==")
    for size in (16_383, 65_535, 65_536, 65_537):
        body = (b".%06d" % size + b"s" * 60 + b"\r\n") * (size // 69 + 1)
        yield f"size-{size}", message(f"size-{size}", body[: size - 2].rstrip(b"\r\n") + b"\r\n")
    if large:
        lines = b"".join(b"." * (n % 3) + rng.randbytes(36).hex().encode() + b"\r\n" for n in range(40_000))
        yield "three-megabytes", message("three-megabytes", lines)


def name_of(content: bytes) -> str:
    """The X-Test-Name of a received content."""
    found = re.search(rb"(?im)^X-Test-Name: (\S+)", content)
    assert found is not None, content[:500]
    return found[1].decode()


def without_trace(content: bytes, end: bytes = b"\r\n") -> bytes:
    """The content after the trace fields at its top (Received and what a mailbox puts there)."""
    rest = content
    while rest.partition(b":")[0].lower() in TRACE_FIELDS:
        match = re.search(re.escape(end) + rb"(?![ \t])", rest)
        assert match is not None
        rest = rest[match.end():]
    return rest


def assert_same(received: bytes, sent: bytes, name: str) -> None:
    """Byte for byte, with the first difference shown rather than two walls of text."""
    if received == sent:
        return
    shorter = min(len(received), len(sent))
    at = next((i for i in range(shorter) if received[i] != sent[i]), shorter)
    raise AssertionError(
        f"{name}: {len(received)} octets came of {len(sent)}; they differ at {at}: "
        f"came {received[max(0, at - 40):at + 40]!r}, sent {sent[max(0, at - 40):at + 40]!r}"
    )
