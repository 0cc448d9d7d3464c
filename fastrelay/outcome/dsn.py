"""Bounce messages of ours: what a delivery status notification says and how it is written (RFC 3464, 6522, 6533).

    build(report) → header and body, lines ending in CRLF

Three parts: words for a person; the report, with a group of fields for each recipient; the message it is about, as a
header or whole. A report may tell of recipients that failed, of some that are delayed and of some that were handed to
a host that gives no reports (relayed): the subject names the worst.

Pure: no clock, no disk. What comes from outside (replies, ENVID, ORCPT, addresses) is cleaned here: no control
character gets into a field, and a field of ASCII stays one. Lines are folded at blanks, and cut where there is none.

A status is never made up: it is the enhanced code of the last reply or of our own finding, else the class alone
(5.0.0); mail given up for its age is 4.4.7.

Known faults: the words are English. A returned message with octets over 127 needs 8BITMIME all the way back, as
message/rfc822 can't be encoded otherwise (RFC 2046 section 5.2.1).
"""

from __future__ import annotations

import email.utils
import ipaddress
import quopri
import re
from typing import Literal

import msgspec

Action = Literal["failed", "delayed", "relayed"]

FOLD_AT = 76
FIELD_LONGEST = 1000  # characters of one value, before folding
HEADER_LONGEST = 64 << 10  # octets of a header that goes back
LINE_LONGEST = 990
EXPIRED_STATUS = "4.4.7"
STATUS = re.compile(r"([245])\.\d{1,3}\.\d{1,3}")
XTEXT = re.compile(rb"\+([0-9A-F]{2})")


class Reported(msgspec.Struct, frozen=True):
    """One recipient.

    address     the forward-path that we sent to
    original    the ORCPT parameter as it came (b"rfc822;a+2Bb@c.test"), or b""
    action      what became of it
    status      an enhanced status code, or ""
    reply       the last reply ("550 5.1.1 No such user") or our own words
    host        the MX host that gave the reply; "": the words are ours
    tried       when, in seconds since the epoch; 0: never
    until       delayed: given up then, in seconds since the epoch; 0: unknown
    expired     given up for its age
    """

    address: bytes
    action: Action
    original: bytes = b""
    status: str = ""
    reply: str = ""
    host: str = ""
    tried: float = 0.0
    until: float = 0.0
    expired: bool = False


class Report(msgspec.Struct, frozen=True):
    """A notification. Times are seconds since the epoch; `to` is the reverse-path of the message, `log_id` our id.

    returned    the message: its header (`whole` False) or all of it; None: it could not be read
    """

    hostname: str
    sender: str
    to: bytes
    message_id: str
    date: float
    arrival: float
    recipients: list[Reported]
    log_id: str = ""
    envid: bytes = b""
    returned: bytes | None = None
    whole: bool = False


# action → subject, and what is said above the recipients of that action (one, several)
WORDS: dict[Action, tuple[str, str, str]] = {
    "failed": (
        "Your message could not be delivered",
        "Your message could not be delivered to this recipient, and will not be tried again:",
        "Your message could not be delivered to these recipients, and will not be tried again:",
    ),
    "delayed": (
        "Your message is delayed",
        "Your message could not be delivered to this recipient yet. You need do nothing: it will be tried again.",
        "Your message could not be delivered to these recipients yet. You need do nothing: it will be tried again.",
    ),
    "relayed": (
        "Your message was passed on",
        "Your message was handed to the mail system of this recipient, which will not report what becomes of it:",
        "Your message was handed to the mail systems of these recipients, which will not report what becomes of it:",
    ),
}
# Enhanced status without its class → what a person can do (RFC 3463, section 3)
ADVICE = {
    "1.1": "There is no such mailbox. Check the spelling of the address, or ask the recipient for the right one.",
    "1.2": "The domain of the address does not exist or takes no mail. Check the part behind the @.",
    "1.3": "The address is not written as one should be. Check its spelling.",
    "1.6": "The recipient has moved and left no new address.",
    "1.10": "The domain of the address takes no mail at all. Check the part behind the @.",
    "2.1": "The mailbox is closed or not in use. Ask the recipient for another address.",
    "2.2": "The mailbox is full. Try again later, or reach the recipient in another way.",
    "2.3": "The message is larger than the mailbox takes. Send it without its attachments, or in parts.",
    "3.4": "The message is larger than their system takes. Send it without its attachments, or in parts.",
    "4.1": "Their system does not answer.",
    "4.4": "It could not be found out where mail of this domain goes. Check the part behind the @.",
    "4.6": "The message went in a circle between mail systems. Tell whoever runs the mail system of this domain.",
    "4.7": "Their system did not take it in all that time. Try again, or reach the recipient in another way.",
    "7.1": "Their system does not want this message. If it should, tell the recipient's administrator what it said.",
    "7.23": "Their system does not trust the sender's domain (SPF). Tell your own administrator.",
    "7.26": "Their system does not trust the sender's domain (authentication). Tell your own administrator.",
}
BY_SUBJECT = {
    "1": "Check the spelling of the address.",
    "2": "It is the recipient's mailbox; ask the recipient for another address.",
    "3": "Their system could not take it. Try again later.",
    "4": "Their system could not be reached. Check the part behind the @, or try again later.",
    "6": "Their system can't handle how the message is made. Send it as plain text.",
    "7": "Their system refused it by its rules. Tell your own administrator what it said.",
}


def build(report: Report) -> bytes:
    """The message, with CRLF line ends. All ASCII but for a whole message that is not, and for addresses (RFC 6533)."""
    utf8 = not all(map(_is_ascii_recipient, report.recipients)) or not report.to.isascii()
    fields = _fields(report, utf8)
    parts = [
        _part("text/plain", _words(report).encode()),
        _report_part(fields, utf8),
    ]
    if report.returned is not None:
        parts.append(_returned_part(report.returned, report.whole))
    boundary = _boundary(report, parts)
    worst = worst_of(report.recipients)
    to = _text(report.to) if utf8 else _text(report.to).encode("ascii", "replace").decode()
    header = [
        f"From: Mail Delivery System <{_clean(report.sender)}>",
        f"To: <{_clean(to)}>",
        f"Subject: {WORDS[worst][0]}",
        f"Date: {_date(report.date)}",
        f"Message-ID: <{_clean(report.message_id)}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
    ]
    if any(not part.isascii() for part in parts):
        header.append("Content-Transfer-Encoding: 8bit")
    mark = boundary.encode()
    body = b"".join(b"--%b\r\n%b\r\n" % (mark, part) for part in parts)
    return "\r\n".join(header).encode() + b"\r\n\r\n" + body + b"--%b--\r\n" % mark


def worst_of(recipients: list[Reported]) -> Action:
    """What the subject tells."""
    actions = {one.action for one in recipients}
    return next(action for action in WORDS if action in actions)


def status_of(one: Reported) -> str:
    """The Status field: never more than is known."""
    if one.expired and one.action == "failed":
        return EXPIRED_STATUS
    fits = {"failed": "45", "delayed": "4", "relayed": "2"}[one.action]
    if STATUS.fullmatch(one.status) and one.status[0] in fits:
        return one.status
    digit = one.reply[:1] if one.host and one.reply[:3].isdigit() else ""
    return f"{digit if digit and digit in fits else {'failed': '5', 'delayed': '4', 'relayed': '2'}[one.action]}.0.0"


# ---- the report


def _fields(report: Report, utf8: bool) -> list[list[str]]:
    """Groups of fields: of the message, then of each recipient."""
    first = [("Original-Envelope-Id", decode_xtext(report.envid))] if report.envid else []
    first += [("Reporting-MTA", f"dns; {report.hostname}"), ("Arrival-Date", _date(report.arrival))]
    groups = [first, *(_group(report, one) for one in report.recipients)]
    return [[_field(name, value, utf8) for name, value in group] for group in groups]


def _group(report: Report, one: Reported) -> list[tuple[str, str]]:
    fields = []
    if one.original:
        kind, _, address = one.original.partition(b";")
        fields.append(("Original-Recipient", f"{_text(kind)}; {decode_xtext(address)}"))
    fields.append(("Final-Recipient", f"{'rfc822' if one.address.isascii() else 'utf-8'}; {_text(one.address)}"))
    fields.append(("Action", one.action))
    fields.append(("Status", status_of(one)))
    if one.host:
        fields.append(("Remote-MTA", f"dns; {_host(one.host)}"))
    if one.reply:
        kind_of = "smtp" if one.host and one.reply[:3].isdigit() else "X-fastrelay"
        fields.append(("Diagnostic-Code", f"{kind_of}; {one.reply}"))
    if one.tried:
        fields.append(("Last-Attempt-Date", _date(one.tried)))
    if report.log_id:
        fields.append(("Final-Log-ID", report.log_id))
    if one.until and one.action == "delayed":
        fields.append(("Will-Retry-Until", _date(one.until)))
    return fields


def _host(name: str) -> str:
    """A host's name, or its address as a literal (RFC 5321 section 4.1.3)."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def _field(name: str, value: str, utf8: bool) -> str:
    """A field, folded. Outside of a report in UTF-8 a character beyond ASCII is \\x{HEX} (RFC 6533 section 3)."""
    value = _clean(value)[:FIELD_LONGEST].strip()
    if not utf8:
        value = _escaped(value)
    return _fold(f"{name}: {value}")


def _fold(line: str) -> str:
    """Folds at blanks so that a line has FOLD_AT characters where it can, and LINE_LONGEST octets at most."""
    out: list[str] = []
    rest = line
    while len(rest) > FOLD_AT:
        at = rest.rfind(" ", 1, FOLD_AT)
        if at <= 0 or not rest[:at].strip() or (not out and at <= rest.find(":") + 1):
            at = rest.find(" ", FOLD_AT)
        if at <= 0 or not rest[at:].strip():
            break
        out.append(rest[:at])
        rest = rest[at:]
    return "\r\n".join([*out, rest])


def _report_part(groups: list[list[str]], utf8: bool) -> bytes:
    text = "\r\n\r\n".join("\r\n".join(group) for group in groups).encode() + b"\r\n"
    kind = b"message/global-delivery-status" if utf8 else b"message/delivery-status"
    encoding = b"" if text.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
    return b"Content-Type: %b\r\n%b\r\n%b" % (kind, encoding, text)


# ---- what goes back


def _returned_part(content: bytes, whole: bool) -> bytes:
    if whole:
        encoding = b"" if content.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
        end = b"" if content.endswith(b"\r\n") else b"\r\n"
        return b"Content-Type: message/rfc822\r\n%b\r\n%b%b" % (encoding, content, end)
    header = header_of(content)
    if header.isascii() and max(map(len, header.split(b"\r\n")), default=0) <= LINE_LONGEST:
        return b"Content-Type: text/rfc822-headers\r\n\r\n" + header
    kind = b"text/rfc822-headers" if header.isascii() else b"message/global-headers"
    return b"Content-Type: %b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n%b" % (kind, _quoted(header))


def header_of(content: bytes) -> bytes:
    """The header of a message, cut behind a whole field where it is very long."""
    if content.startswith(b"\r\n"):
        return b""
    end = content.find(b"\r\n\r\n")
    header = content if end < 0 else content[: end + 2]
    if len(header) > HEADER_LONGEST:
        header = header[:HEADER_LONGEST]
        header = header[: header.rfind(b"\r\n") + 2]
    return header if header.endswith(b"\r\n") or not header else header + b"\r\n"


def _part(kind: str, text: bytes) -> bytes:
    """A text part, quoted-printable where it is not plain ASCII of short lines."""
    if text.isascii() and max(map(len, text.split(b"\r\n"))) <= LINE_LONGEST:
        return b"Content-Type: %b; charset=us-ascii\r\n\r\n%b" % (kind.encode(), text)
    return b"Content-Type: %b; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n%b" % (
        kind.encode(),
        _quoted(text),
    )


def _quoted(octets: bytes) -> bytes:
    return quopri.encodestring(octets.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")


def _boundary(report: Report, parts: list[bytes]) -> str:
    """One that stands in no part."""
    base = re.sub(r"[^A-Za-z0-9.]", "_", report.message_id.partition("@")[0])[:50] or "report"
    number = 0
    while any(f"=_{base}_{number}".encode() in part for part in parts):
        number += 1
    return f"=_{base}_{number}"


# ---- words


def _words(report: Report) -> str:
    """The part for a person."""
    lines = [f"This is the mail system at {_clean(report.hostname)}.", ""]
    subject = _subject_of(report.returned)
    for action, (_, one_word, words) in WORDS.items():
        mine = [one for one in report.recipients if one.action == action]
        if not mine:
            continue
        lines += [*_wrapped(one_word if len(mine) == 1 else words), ""]
        for one in mine:
            lines += [*_about(one), ""]
    about = f"Your message was received {_date(report.arrival)}" + (
        f", with the subject:\r\n    {subject}" if subject else "."
    )
    lines += [*about.split("\r\n"), ""]
    if report.log_id:
        lines.append(f"If you ask your administrator about it, name this id: {_clean(report.log_id)}")
    return "\r\n".join(lines) + "\r\n"


def _about(one: Reported) -> list[str]:
    lines = [f"  <{_clean(_text(one.address))}>"]
    reply = _clean(one.reply)[:FIELD_LONGEST]
    if one.expired:
        lines.append("    It was tried for as long as the relay tries, without success.")
    if reply and one.action != "relayed":
        said = f"{_clean(one.host)} said: {reply}" if one.host and reply[:3].isdigit() else reply
        lines += _wrapped(("The last answer: " if one.expired else "") + said, "    ")
    advice = _advice(one)
    if advice:
        lines += _wrapped(advice, "    ")
    if one.action == "delayed" and one.until:
        lines.append(f"    It will be tried until {_date(one.until)}.")
    return lines


def _advice(one: Reported) -> str:
    if one.action != "failed":
        return ""
    status = status_of(one)
    if status[0] == "4" and not one.expired:
        return "Try again later."
    detail = status.partition(".")[2]
    return ADVICE.get(detail) or BY_SUBJECT.get(detail.partition(".")[0], "")


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Lines of at most FOLD_AT characters where words allow it."""
    lines, line = [], indent
    for word in text.split(" "):
        if len(line) + len(word) >= FOLD_AT and line.strip():
            lines.append(line.rstrip())
            line = indent
        line += word + " "
    return [*lines, line.rstrip()]


def _subject_of(returned: bytes | None) -> str:
    """The subject of the message, for a person; "" where it has none that can be read."""
    if returned is None:
        return ""
    found = re.search(rb"(?im)^Subject:[ \t]*(.*(?:\r\n[ \t].*)*)", header_of(returned))
    if found is None:
        return ""
    try:
        raw = re.sub(rb"\r\n[ \t]+", b" ", found[1]).decode("utf-8", "replace")
        from email.header import decode_header, make_header

        return _clean(str(make_header(decode_header(raw))))[:200].strip()
    except (ValueError, LookupError):
        return ""


# ---- cleaning


def decode_xtext(octets: bytes) -> str:
    """Decodes xtext (RFC 3461 section 4); what would be a control character stays encoded."""

    def one(found: re.Match[bytes]) -> bytes:
        value = int(found[1], 16)
        return bytes([value]) if value >= 32 and value != 127 else found[0]

    return _text(XTEXT.sub(one, octets))


def _is_ascii_recipient(one: Reported) -> bool:
    return one.address.isascii() and (not one.original or decode_xtext(one.original).isascii())


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


def _clean(text: str) -> str:
    """No control character (C1 ones, line and paragraph separators included) and no lone surrogate."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == " " else " " if c in "\t\r\n\x0b\x0c\x85\u2028\u2029" else "?" for c in text
    )


def _escaped(text: str) -> str:
    return text if text.isascii() else "".join(c if c < "\x7f" else f"\\x{{{ord(c):X}}}" for c in text)


def _date(when: float) -> str:
    return email.utils.formatdate(when).replace("-0000", "+0000")
