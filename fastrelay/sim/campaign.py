"""Thirty newsletters that look like real ones, and the recipients they go to; the same for the same seed.

Most are built with Python's email package (multipart/alternative, quoted-printable, base64 attachments, inline
images, UTF-8 headers), some by hand as raw octets: 8-bit text, lines of exactly 998 octets, dots at line starts
in every place where stuffing can go wrong, no final text line, an empty body. What is sent to one recipient is a
campaign line, a ``X-Sim-Id`` line and a ``To`` line in front of the newsletter, so every message differs and can be
accounted for.

Known faults: no SMTPUTF8 addresses (headers of 8-bit octets are RFC 2047 encoded, as newsletters have them).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP

from fastrelay.sim.account import ID_HEADER
from fastrelay.sim.internet import domain_names

NEWSLETTERS = 30
REVERSE_PATH = b"bounces@news.sender.example"
LONGEST_LINE = 998  # octets, CRLF not counted (RFC 5322 §2.1.1)

_WORDS = (
    *("autumn", "winter", "offer", "members", "letter", "garden", "kitchen", "travel", "market", "report", "week"),
    *("chapter", "season", "weekend", "ticket", "reader", "story", "editor", "archive", "recipe", "invitation"),
    *("discount", "delivery", "concert", "museum", "library", "workshop", "podcast", "launch", "release", "update"),
    *("notes", "guide", "collection", "interview", "community", "survey", "prize", "reminder", "account", "summary"),
)
_EIGHT_BIT = ("Grüße aus Köln", "Été à la française", "Żółć i jaźń", "Новости недели", "今週のニュース", "Ελληνικά νέα")
_HTML_POLICY = SMTP.clone(cte_type="8bit", max_line_length=78)
_QP_POLICY = SMTP.clone(cte_type="7bit", max_line_length=78)


@dataclass(frozen=True)
class Newsletter:
    """One newsletter: everything after the To line, CRLF line ends, not stuffed."""

    name: str
    octets: bytes
    stuffed: bytes  # as it goes out after DATA, without the final dot

    @property
    def eight_bit(self) -> bool:
        return not self.octets.isascii()


@dataclass(frozen=True)
class Message:
    """One message to one recipient."""

    number: int
    recipient: bytes
    newsletter: Newsletter

    @property
    def head(self) -> bytes:
        """The lines in front of the newsletter, from the id on: what arrives, whatever a relay puts before it."""
        return b"%b: %d\r\nTo: <%b>\r\n" % (ID_HEADER, self.number, self.recipient)

    @property
    def campaign_line(self) -> bytes:
        """The line that names the campaign to the relay, which removes it."""
        return b"X-Fastrelay-Campaign: %b\r\n" % self.newsletter.name.encode()

    @property
    def content(self) -> bytes:
        """All octets as they are submitted, not stuffed."""
        return self.campaign_line + self.head + self.newsletter.octets

    @property
    def message_id(self) -> bytes:
        return b"%d" % self.number

    def expected(self) -> tuple[bytes, bytes, bytes]:
        """(id, recipient, digest), as the account of the MX hosts should have it."""
        digest = hashlib.sha256(self.head)
        digest.update(self.newsletter.octets)
        return self.message_id, self.recipient, digest.digest()


@dataclass(frozen=True)
class Campaign:
    """``messages`` messages, newsletters in turn, recipients over the domains of ``internet.domain_names``."""

    messages: int
    domains: int = 500
    seed: int = 1

    def __iter__(self) -> Iterator[Message]:
        letters = newsletters(self.seed)
        names = [domain.encode() for domain, _ in domain_names(self.domains)]
        for number in range(self.messages):
            recipient = b"reader%d@%b" % (number, names[number % len(names)])
            yield Message(number, recipient, letters[number % len(letters)])

    def __len__(self) -> int:
        return self.messages

    def providers(self) -> dict[str, int]:
        """Messages by provider."""
        listed = list(domain_names(self.domains))
        counts: dict[str, int] = {}
        for at, (_, provider) in enumerate(listed):
            share = self.messages // len(listed) + (at < self.messages % len(listed))
            counts[provider] = counts.get(provider, 0) + share
        return counts

    def expected(self) -> Expected:
        """The account's triples; may be gone through more than once."""
        return Expected(self)


@dataclass(frozen=True)
class Expected:
    """Iterable of (id, recipient, digest) over a campaign, computed as it goes."""

    campaign: Campaign

    def __iter__(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        return (message.expected() for message in self.campaign)


def stuff(octets: bytes) -> bytes:
    """Dot-stuffing of content that follows a header line (so it does not itself start a line that needs it)."""
    return octets.replace(b"\r\n.", b"\r\n..")


@functools.cache
def newsletters(seed: int = 1, count: int = NEWSLETTERS) -> Sequence[Newsletter]:
    """The newsletters of a seed. Each is well-formed: CRLF line ends only, lines of at most 998 octets."""
    makers = (*_RAW, *[_built] * max(0, count - len(_RAW)))[:count]
    letters = []
    for number, make in enumerate(makers):
        chance = random.Random(f"{seed}/{number}")
        name, octets = make(chance, number)
        letters.append(Newsletter(name, octets, stuff(octets)))
    return tuple(letters)


# built with the email package


def _sentence(chance: random.Random, words: int = 12) -> str:
    return " ".join(chance.choice(_WORDS) for _ in range(words)).capitalize() + "."


def _paragraphs(chance: random.Random, count: int) -> list[str]:
    return [" ".join(_sentence(chance) for _ in range(chance.randint(2, 5))) for _ in range(count)]


def _built(chance: random.Random, number: int) -> tuple[str, bytes]:
    """multipart/alternative, and by turns attachments, inline images and transfer encodings."""
    policy = _HTML_POLICY if number % 2 else _QP_POLICY
    letter = EmailMessage(policy=policy)
    title = f"{_EIGHT_BIT[number % len(_EIGHT_BIT)]}: {_sentence(chance, 4)}"
    letter["From"] = Address(f"The Reader’s Letter № {number}", "letter", "news.sender.example")
    letter["Subject"] = title
    letter["Date"] = "Mon, 02 Mar 2026 08:00:00 +0000"
    letter["Message-ID"] = f"<letter.{number}.{chance.getrandbits(48):x}@news.sender.example>"
    letter["List-Unsubscribe"] = f"<https://news.sender.example/u/{chance.getrandbits(64):x}>"
    letter["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    paragraphs = _paragraphs(chance, chance.randint(4, 12))
    encoding = ("quoted-printable", "8bit", "base64")[number % 3] if policy is _HTML_POLICY else "quoted-printable"
    letter.set_content(f"{title}\n\n" + "\n\n".join(paragraphs) + "\n", cte=encoding)
    html = _html(title, paragraphs, image=number % 4 == 1)
    letter.add_alternative(html, subtype="html", cte="quoted-printable" if encoding == "8bit" else encoding)
    if number % 4 == 1:
        _inline_image(letter, chance)
    if number % 5 == 2:
        _attachment(letter, chance, number)
    for depth, part in enumerate(letter.walk()):
        if part.is_multipart():  # the boundaries email would choose differ in every process
            part.set_boundary(f"=_{number}.{depth}.{chance.getrandbits(64):x}")
    return f"built-{number}", letter.as_bytes()


def _html(title: str, paragraphs: list[str], image: bool) -> str:
    rows = "\n".join(
        f'<tr><td style="font: 16px/1.5 Georgia, serif; padding: 8px">{each}</td></tr>' for each in paragraphs
    )
    picture = '<img src="cid:logo@news.sender.example" alt="logo">' if image else ""
    head = f"<!doctype html>\n<html><head><title>{title}</title></head>"
    return f"{head}<body>{picture}\n<table>\n{rows}\n</table></body></html>\n"


def _inline_image(letter: EmailMessage, chance: random.Random) -> None:
    html = letter.get_payload()[1]  # type: ignore[index]
    html.add_related(chance.randbytes(3000), "image", "png", cid="<logo@news.sender.example>")  # type: ignore[union-attr]


def _attachment(letter: EmailMessage, chance: random.Random, number: int) -> None:
    octets = chance.randbytes(chance.choice((4_000, 20_000, 40_000)))
    letter.add_attachment(octets, maintype="application", subtype="pdf", filename=f"Übersicht-{number}.pdf")


# by hand


def _raw(name: str, number: int, body: bytes, *headers: bytes) -> tuple[str, bytes]:
    lines = [
        b'From: "Raw letter" <letter@news.sender.example>',
        b"Subject: raw letter %d, %b" % (number, name.encode()),
        b"Date: Mon, 02 Mar 2026 08:00:00 +0000",
        b"Message-ID: <raw.%d@news.sender.example>" % number,
        b"MIME-Version: 1.0",
        *headers,
    ]
    return name, b"\r\n".join(lines) + b"\r\n\r\n" + body


def _raw_dots(chance: random.Random, number: int) -> tuple[str, bytes]:
    lines = [b".", b"..", b".\t", b". ", b"...text", b"text.", b"", b".", b".QUIT", b"..", b".hidden"]
    body = b"".join(chance.choice(lines) + b"\r\n" for _ in range(400)) + b".\r\n..\r\n"
    return _raw("dots", number, b".\r\n" + body)


def _raw_eight_bit(chance: random.Random, number: int) -> tuple[str, bytes]:
    text = "".join(f"{chance.choice(_EIGHT_BIT)} – {_sentence(chance)}\r\n" for _ in range(80))
    kind = b"Content-Type: text/plain; charset=utf-8"
    return _raw("eight-bit", number, text.encode(), kind, b"Content-Transfer-Encoding: 8bit")


def _raw_latin1(chance: random.Random, number: int) -> tuple[str, bytes]:
    octets = bytes(each for each in range(1, 256) if each not in b"\r\n")
    body = b"".join(bytes(chance.choice(octets) for _ in range(200)) + b"\r\n" for _ in range(40))
    kind = b"Content-Type: text/plain; charset=iso-8859-1"
    return _raw("any-octet", number, body, kind, b"Content-Transfer-Encoding: 8bit")


def _raw_long_lines(chance: random.Random, number: int) -> tuple[str, bytes]:
    words = " ".join(_sentence(chance) for _ in range(2000)).encode()
    lines = [words[at : at + LONGEST_LINE] for at in range(0, LONGEST_LINE * 30, LONGEST_LINE)]
    dots = b"." * LONGEST_LINE
    return _raw("long-lines", number, b"\r\n".join([*lines, dots, b"." + b"x" * (LONGEST_LINE - 1)]) + b"\r\n")


def _raw_no_body(chance: random.Random, number: int) -> tuple[str, bytes]:
    name, octets = _raw("no-body", number, b"")
    return name, octets


def _raw_blank_lines(chance: random.Random, number: int) -> tuple[str, bytes]:
    return _raw("blank-lines", number, b"\r\n" * 50 + b"text between\r\n" + b"\r\n" * 50)


def _raw_folded(chance: random.Random, number: int) -> tuple[str, bytes]:
    folded = b"X-Folded: " + b"\r\n ".join(b"part-%d=%b" % (at, b"v" * 60) for at in range(100))
    tabs = b"X-Tabbed:\r\n\t.dot after a fold\r\n\t" + b"y" * 900
    return _raw("folded-headers", number, b"short body\r\n", folded, tabs)


def _raw_mime(chance: random.Random, number: int) -> tuple[str, bytes]:
    bound = b"=_.boundary.%d" % number
    parts = [
        b"--%b\r\nContent-Type: text/plain\r\n\r\n.starts with a dot\r\n" % bound,
        b"--%b\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n%b"
        % (bound, _base64(chance, 6000)),
        b"--%b\r\nContent-Type: image/gif\r\nContent-ID: <x@y>\r\nContent-Transfer-Encoding: base64\r\n\r\n%b"
        % (bound, _base64(chance, 9000)),
    ]
    body = b"preamble\r\n" + b"".join(parts) + b"--%b--\r\nepilogue with a dot\r\n.\r\nend\r\n" % bound
    return _raw("mime", number, body, b'Content-Type: multipart/related; boundary="%b"' % bound)


def _base64(chance: random.Random, octets: int) -> bytes:
    return base64.encodebytes(chance.randbytes(octets)).replace(b"\n", b"\r\n")


_RAW = (
    _raw_dots,
    _raw_eight_bit,
    _raw_latin1,
    _raw_long_lines,
    _raw_no_body,
    _raw_blank_lines,
    _raw_folded,
    _raw_mime,
)
