"""Reads complaints: feedback reports (RFC 5965), and what providers send in their place. Pure; matched elsewhere.

    found = parse(octets)            None where it is no complaint
    found.kind, found.feedback_type, found.references

Forms:
    arf      a part message/feedback-report; also one that is called otherwise but begins with `Feedback-Type:`
    jmrp     Outlook: the message alone, with X-HmXmrOriginalRecipient, or "complaint about message from ADDRESS"
    xarf     a JSON report with a sample of the message (RFC 9477 section 3.5 allows it for `report=xarf`)
    text     words and the offending message behind them, in one text (SpamCop and others)

Whom it is about is known by our reference alone (reference.py): recipients are redacted by most, and what a report says
of itself anybody can write. `references` are texts that look like one, in the header of the message that came back
(our reference field, CFBL-Feedback-ID, Feedback-ID, List-Unsubscribe, Return-Path) and in the fields of the report.

What a Feedback-Type means is KINDS: `auth-failure` (RFC 6591) and `not-spam` are no complaints. A type that is unknown
counts as a complaint: somebody went to the trouble to send the message back.

Nothing here raises for what a message says, and time is linear in its octets (bounds: bounce_mime.py).

Known faults: a reference that was cut or masked can't be found. Of several incidents in one report the first
message counts.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from fastrelay.feedback.bounce_mime import (
    Part,
    decode,
    decoded_words,
    is_message,
    one_line_end,
    read_fields,
    read_message,
    undo_encoding,
)
from fastrelay.feedback.bounce_types import plausible

Kind = Literal["complaint", "opt_out", "not_spam", "auth_failure"]

KINDS: dict[str, Kind] = {
    "abuse": "complaint",
    "fraud": "complaint",
    "virus": "complaint",
    "other": "complaint",
    "opt-out": "opt_out",
    "opt-out-list": "opt_out",
    "unsubscribe": "opt_out",
    "not-spam": "not_spam",
    "auth-failure": "auth_failure",
    "dmarc": "auth_failure",
    "dkim": "auth_failure",
    "spf": "auth_failure",
}
# Who reports, by User-Agent and by the domain in From; the word is the provider's (config/defaults) where it has one.
_AGENTS = (
    (re.compile(r"yahoo|\baol\b|scomp", re.I), "yahoo"),
    (re.compile(r"hotmail|outlook|microsoft", re.I), "outlook"),
    (re.compile(r"comcast", re.I), "comcast"),
    (re.compile(r"mail\.ru", re.I), "mailru"),
)
_DOMAINS = {
    "yahoo.com": "yahoo", "yahooinc.com": "yahoo", "yahoo-inc.com": "yahoo", "aol.com": "yahoo", "aol.net": "yahoo",
    "hotmail.com": "outlook", "outlook.com": "outlook", "microsoft.com": "outlook", "live.com": "outlook",
    "comcast.net": "comcast", "mail.ru": "mailru", "icloud.com": "apple", "apple.com": "apple", "gmx.net": "gmx_webde",
    "web.de": "gmx_webde", "orange.fr": "orange", "seznam.cz": "seznam", "yandex.ru": "yandex",
}  # fmt: skip
MAX_REFERENCES = 20
MAX_HEADER = 64 << 10
MAX_RECIPIENTS = 20
MAX_JSON = 1 << 20
MAX_WORDS = 300

_REFERENCE = re.compile(r"(?<![A-Za-z0-9])[fF][A-Za-z2-7]{28,999}(?![A-Za-z0-9])")
_FOLD = re.compile(r"[ \t]*\r?\n[ \t]+")
_FIRST_FIELDS = re.compile(
    rb"^(?:X-HmXmrOriginalRecipient|Return-Path|Received|X-Apparently-To|Delivered-To|DKIM-Signature|From|Message-ID|"
    rb"Subject|Date)[ \t]*:[^\n]",
    re.I | re.M,
)
_FEEDBACK_TYPE = re.compile(rb"^[ \t]*Feedback-Type[ \t]*:", re.I | re.M)
_JMRP_SUBJECT = re.compile(r"complaint about message from\s+([0-9A-Fa-f.:]{3,45})", re.I)
_OFFENDING = re.compile(rb"\[ ?Offending message ?\]", re.I)
_SPAM_REPORT = re.compile(r"\[spamcop|spam ?(report|complaint)|abuse ?(report|complaint)", re.I)
_REDACTED = re.compile(r"redact|hidden|suppress|undisclosed|removed|xxx|\*\*", re.I)
_RANK = (
    "x-fastrelay-reference", "cfbl-feedback-id", "feedback-id", "list-unsubscribe", "return-path",
    "original-mail-from",
)  # fmt: skip


class Complaint(msgspec.Struct, omit_defaults=True):
    """What a report says. Texts are as they stand there; nothing of it is proven but what a reference proves."""

    kind: Kind
    feedback_type: str  # in lower case; "" where the form has none
    form: str  # arf, jmrp, xarf, text
    reporter: str = ""  # provider, else "other"
    user_agent: str = ""
    sender: str = ""  # the address in From: of the report
    recipients: list[str] = []  # those that are told and no mask
    redacted: bool = False
    reverse_path: str = ""
    source_ip: str = ""
    arrival_date: str = ""
    incidents: int = 1
    reported_domain: str = ""
    message_id: str = ""  # of the message that came back, with its angle brackets
    subject: str = ""
    references: list[str] = []
    header: bytes = b""  # of the message that came back

    def as_json(self) -> dict[str, Any]:
        """For people and programs: everything that has a value, without the header."""
        return {k: v for k, v in msgspec.to_builtins(self).items() if k != "header"}


def parse(octets: bytes, reference_field: str = "") -> Complaint | None:
    """What a message says, if it is a complaint or another feedback report; else None.

    reference_field  the name of the field with our reference (compose.reference)
    """
    message = read_message(octets)
    if message.parameters.get("report-type", "").lower() == "delivery-status":
        return None
    report = _report_of(message)
    if report is not None:
        part, fields = report
        found = _by_report(message, part, fields)
    else:
        made = _jmrp(message) or _xarf(message) or _text(message)
        if made is None:
            return None
        found = made
    _finish(found, message, report[1] if report is not None else [], reference_field)
    return found


def references_in(header: bytes, reference_field: str = "") -> list[str]:
    """Texts in a header block that look like our reference, the most telling fields first, each once."""
    fields, _ = read_fields(one_line_end(header[:MAX_HEADER]))
    return _references(fields, reference_field)


def _references(fields: list[tuple[str, bytes]], reference_field: str = "") -> list[str]:
    wanted = (reference_field.lower(), *_RANK)
    order = {name: at for at, name in reversed(list(enumerate(wanted))) if name}
    found: dict[str, None] = {}
    for _, value in sorted(fields, key=lambda one: order.get(one[0], len(wanted))):
        for text in _spellings(value):
            for match in _REFERENCE.finditer(text):
                found.setdefault(match[0].lower())
        if len(found) >= MAX_REFERENCES:
            break
    return list(found)[:MAX_REFERENCES]


def _spellings(value: bytes) -> list[str]:
    """A value as it stands, and as it was before somebody folded a long word or encoded it."""
    text = decode(value, "")
    spellings = [text]
    if "=?" in text:
        spellings.append(decoded_words(value))
    if "%" in text or "=3" in text.upper():
        spellings.append(re.sub(r"%([0-9A-Fa-f]{2})", lambda m: chr(int(m[1], 16)), text))
    if " " in text and len(text) < 2000:
        spellings.append(text.replace(" ", ""))
    return spellings


# -- the forms --------------------------------------------------------------------------------------------------------


def _report_of(message: Part) -> tuple[Part, list[tuple[str, bytes]]] | None:
    """The part with the fields of a report, and these; of a report that was forwarded, too."""
    for into in (False, True):
        for part in message.walk(into_messages=into):
            if part.content_type == "message/feedback-report":
                fields = _report_fields(part)
                if fields or message.parameters.get("report-type", "").lower() == "feedback-report":
                    return part, fields
        for part in message.walk(into_messages=into):
            if part is message and part.parts:
                continue
            if part.content_type.startswith(("text/plain", "application/", "message/")) and not part.parts:
                fields = _report_fields(part)
                if any(name == "feedback-type" for name, _ in fields[:20]) and len(fields) > 1:
                    return part, fields
    if message.parameters.get("report-type", "").lower() == "feedback-report":
        return message, []
    return None


def _report_fields(part: Part) -> list[tuple[str, bytes]]:
    """The fields of a report, also where empty lines or words stand before them."""
    content = one_line_end(part.content()[:MAX_HEADER])
    match = _FEEDBACK_TYPE.search(content)
    if match is None:
        return read_fields(content.lstrip())[0] if part.content_type == "message/feedback-report" else []
    # Back to where the block of fields begins.
    begin = max(content.rfind(b"\n\n", 0, match.start()) + 2, 0) if b"\n\n" in content[: match.start()] else 0
    fields, _ = read_fields(content[begin:].lstrip())
    if not any(name == "feedback-type" for name, _ in fields):
        fields, _ = read_fields(content[match.start() :].lstrip())
    return fields


def _by_report(message: Part, part: Part, fields: list[tuple[str, bytes]]) -> Complaint:
    said = dict(reversed(fields))

    def field(name: str) -> str:
        return decoded_words(said.get(name, b"")).strip()[:MAX_WORDS]

    feedback_type = re.split(r"[\s;(]", field("feedback-type").lower(), maxsplit=1)[0]
    if not feedback_type and field("auth-failure"):
        feedback_type = "auth-failure"
    incidents = field("incidents")
    found = Complaint(
        KINDS.get(feedback_type, "complaint"),
        feedback_type or "abuse",
        "arf",
        user_agent=field("user-agent"),
        reverse_path=_address(field("original-mail-from")),
        source_ip=field("source-ip").strip("[]")[:45],
        arrival_date=field("arrival-date") or field("received-date"),
        incidents=min(int(incidents), 10**6) if incidents.isdecimal() and len(incidents) < 10 else 1,
        reported_domain=field("reported-domain"),
    )
    told = [decoded_words(value) for name, value in fields if name in ("original-rcpt-to", "removal-recipient")]
    _tell_recipients(found, told)
    found.header = _original_header(message, part)
    return found


def _jmrp(message: Part) -> Complaint | None:
    subject = message.field("subject")
    match = _JMRP_SUBJECT.search(subject)
    returned: Part | None = None
    for part in message.walk():
        if part.has("x-hmxmroriginalrecipient"):
            returned = part
            break
    if returned is None:
        if match is None:
            return None
        header = _original_header(message, None)
        if not header:
            return None
    else:
        header = _header_of(returned)
    found = Complaint("complaint", "abuse", "jmrp", header=header, source_ip=match[1] if match else "")
    if returned is not None:
        _tell_recipients(found, [returned.field("x-hmxmroriginalrecipient")])
    return found


def _xarf(message: Part) -> Complaint | None:
    """A report in JSON, with a sample."""
    for part in message.walk(into_messages=False):
        name = part.parameters.get("name", "").lower()
        if part.content_type not in ("application/json", "application/xarf+json", "text/json") and not (
            name.endswith("xarf.json")
        ):
            continue
        try:
            told = msgspec.json.decode(part.content()[:MAX_JSON])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        found = _xarf_read(told) if isinstance(told, dict) else None
        if found is not None:
            found.header = found.header or _original_header(message, part)
            return found
    return None


def _xarf_read(told: dict[str, Any]) -> Complaint | None:
    """Versions 3 (Report, ReportType, Samples) and 4 (category, type, evidence)."""
    inner = told.get("Report")
    report: dict[str, Any] = inner if isinstance(inner, dict) else told
    words = " ".join(str(report.get(name, "")) for name in ("ReportClass", "ReportType", "category", "type")).lower()
    if not any(word in words for word in ("spam", "messaging", "complaint", "abuse")):
        return None
    ip = str(report.get("SourceIp") or report.get("source_identifier") or "")[:45]
    found = Complaint("complaint", "abuse", "xarf", source_ip=ip, user_agent="xarf")
    found.reverse_path = _address(str(report.get("SmtpMailFromAddress") or report.get("smtp_from") or "")[:MAX_WORDS])
    _tell_recipients(found, [str(report.get("SmtpRcptToAddress") or report.get("smtp_to") or "")])
    samples = report.get("Samples") or report.get("evidence") or []
    for sample in samples[:10] if isinstance(samples, list) else []:
        if not isinstance(sample, dict):
            continue
        payload = sample.get("Payload") or sample.get("payload")
        if not isinstance(payload, str):
            continue
        octets = payload[:MAX_JSON].encode("utf-8", "replace")
        if sample.get("Base64Encoded", "payload" in sample) and b"\n" not in octets.strip():
            octets = undo_encoding(octets, "base64")
        fields, end = read_fields(one_line_end(octets[:MAX_HEADER]))
        if len(fields) > 2:
            found.header = one_line_end(octets[:MAX_HEADER])[:end]
            break
    return found


def _text(message: Part) -> Complaint | None:
    """Words, and the message behind them."""
    subject = message.field("subject")[:1000]
    for part in message.walk(into_messages=False):
        if not part.content_type.startswith("text/plain"):
            continue
        content = one_line_end(part.content()[:MAX_HEADER])
        match = _OFFENDING.search(content)
        if match is not None:
            header = _header_in(content[match.end() :])
            if header:
                return Complaint("complaint", "abuse", "text", header=header)
    # Only with the message beside it: words alone are a letter to the abuse desk.
    if _SPAM_REPORT.search(subject) is not None:
        for part in message.walk():
            if part is not message and _is_header_part(part):
                return Complaint("complaint", "abuse", "text", header=_header_of(part.parts[0] if part.parts else part))
    return None


# -- the message that came back ---------------------------------------------------------------------------------------


def _is_header_part(part: Part) -> bool:
    kind = part.content_type
    return is_message(kind) or kind in ("text/rfc822-headers", "text/rfc822", "message/rfc822-headers")


def _header_of(part: Part) -> bytes:
    """The header of a message in a part, as a block."""
    return b"".join(name.encode() + b": " + value + b"\n" for name, value in part.fields)[:MAX_HEADER]


def _header_in(content: bytes) -> bytes:
    """The header block that begins somewhere in a text."""
    content = content[:MAX_HEADER]
    at = 0
    for _ in range(5):
        match = _FIRST_FIELDS.search(content, at)
        if match is None:
            return b""
        fields, end = read_fields(content[match.start() :])
        names = {name for name, _ in fields}
        if len(names & {"from", "subject", "message-id", "received", "date", "to", "return-path"}) >= 3:
            return content[match.start() : match.start() + end]
        at = match.end()
    return b""


def _original_header(message: Part, report: Part | None) -> bytes:
    """The header of the message that came back, however its part is called; b"" where there is none."""
    behind = report is None
    parts = list(message.walk())
    for part in parts:
        if part is report:
            behind = True
        elif behind and part is not message and _is_header_part(part):
            if part.parts:
                return _header_of(part.parts[0])
            content = one_line_end(part.content()[:MAX_HEADER]).lstrip(b"\n")
            fields, end = read_fields(content)
            if fields:
                return content[:end]
    for part in parts:  # called something else, or standing before the report
        if part is message or part is report or part.content_type.startswith("multipart/"):
            continue
        if _is_header_part(part) and part.parts and part.parts[0].has("from"):
            return _header_of(part.parts[0])
        header = _header_in(one_line_end(part.content()[: 2 * MAX_HEADER])) if not part.parts else b""
        if header:
            return header
    if report is not None and not report.parts:  # in one text with the report
        content = one_line_end(report.content()[:MAX_HEADER])
        _, end = read_fields(content.lstrip())
        return _header_in(content.lstrip()[end:])
    return b""


# -- the rest ---------------------------------------------------------------------------------------------------------


def _tell_recipients(found: Complaint, told: list[str]) -> None:
    for one in told[:MAX_RECIPIENTS]:
        address = _address(one)
        if plausible(address) and not _REDACTED.search(address.partition("@")[0]):
            if address not in found.recipients:
                found.recipients.append(address)
        elif one.strip():
            found.redacted = True


def _address(text: str) -> str:
    text = text.strip()
    if text.lower().startswith("rfc822;"):
        text = text[7:].strip()
    match = re.search(r"<([^<>]{0,320})>", text)
    return (match[1] if match else text).strip()[:320]


def _finish(found: Complaint, message: Part, fields: list[tuple[str, bytes]], reference_field: str) -> None:
    """What all forms have: who reports, the message's names, references."""
    found.sender = _address(message.field("from")[:MAX_WORDS])
    if not plausible(found.sender):
        found.sender = ""
    match = _JMRP_SUBJECT.search(message.field("subject")[:1000])
    found.source_ip = found.source_ip or (match[1] if match else "")
    found.reporter = reporter_of(found.user_agent, found.sender)
    own, _ = read_fields(found.header)
    said = dict(reversed(own))
    found.message_id = decode(said.get("message-id", b""), "").strip()[:MAX_WORDS]
    found.subject = decoded_words(said.get("subject", b""))[:MAX_WORDS]
    if not found.reverse_path:
        found.reverse_path = _address(decode(said.get("return-path", b""), ""))
    found.references = _references(own + fields, reference_field)
    if not found.recipients:
        found.redacted = True


def reporter_of(user_agent: str, sender: str) -> str:
    """A word for who reports: a provider, or "other"."""
    for pattern, word in _AGENTS:
        if pattern.search(user_agent) is not None:
            return word
    labels = sender.rpartition("@")[2].lower().split(".")[-4:]
    for at in range(len(labels) - 1):
        word = _DOMAINS.get(".".join(labels[at:]), "")
        if word:
            return word
    return "other"
