"""TLS-RPT (RFC 8460) without clocks and sockets: the record that asks for reports, the JSON, and the mail around it.

Known faults: `additional-information` and `receiving-mx-helo` are never said.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from fastrelay.tls.reports import Row

URIS_AT_MOST = 10
URI_OCTETS = 1000
RECORD_TAG = b"v=TLSRPTv1"
DETAILS_AT_MOST = 100  # of one policy in a report
LINE_OCTETS = 76

# The policy of a domain at the time of the report: its text in lines, and its MX patterns (RFC 8460 section 4.4).
Published = Callable[[str], tuple[list[str], list[str]] | None]


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports: names for people and machines, and the mailbox it comes from."""

    organization: str
    hostname: str
    contact: str
    sender: str


def destinations(texts: Iterable[bytes]) -> list[str]:
    """The URIs of a domain's TLS-RPT record (RFC 8460 section 3); none where there is no record, or more than one.

    texts  each TXT record, its character strings put together. What is neither mailto: nor https: is left out.
    """
    records = [text for text in texts if text[: len(RECORD_TAG)] == RECORD_TAG and text[10:].lstrip(b" \t")[:1] == b";"]
    if len(records) != 1:
        return []
    found: list[str] = []
    for field in records[0].split(b";")[1:]:
        name, _, value = field.strip(b" \t").partition(b"=")
        if name.strip(b" \t") != b"rua":
            continue
        for octets in value.split(b","):
            uri = octets.strip(b" \t").decode("ascii", "replace")
            if len(uri) <= URI_OCTETS and destination(uri) is not None and uri not in found:
                found.append(uri)
    return found[:URIS_AT_MOST]


def destination(uri: str) -> tuple[str, str] | None:
    """("mailto", mailbox) or ("https", URL) of a URI; None for anything else."""
    if not uri.isascii() or not uri.isprintable() or " " in uri:
        return None
    scheme, _, rest = uri.partition(":")
    if scheme.lower() == "mailto":
        mailbox = unquote(rest.partition("?")[0])
        local, at, domain = mailbox.rpartition("@")
        whole = (
            bool(at and local and domain)
            and mailbox.isascii()
            and mailbox.isprintable()
            and not set(mailbox) & set(' <>,"')
        )
        return ("mailto", mailbox) if whole else None
    if scheme.lower() == "https":
        try:
            parts = urlsplit(uri)
            whole = bool(parts.hostname) and parts.username is None and (parts.port or 443) > 0
        except ValueError:
            return None
        return ("https", uri) if whole else None
    return None


def txt_text(record: bytes) -> bytes:
    """The character strings of a TXT record's data as one text (RFC 8460 section 3)."""
    text, at = b"", 0
    while at < len(record):
        length = record[at]
        text += record[at + 1 : at + 1 + length]
        at += 1 + length
    return text


def report_id(day: str, domain: str, hostname: str) -> str:
    """The same for each attempt to send the report of a day: who gets it twice can tell."""
    digest = hashlib.blake2b(f"{day} {domain} {hostname}".encode(), digest_size=8).hexdigest()
    return f"{day}.{digest}@{hostname}"


def date_range(day: str) -> tuple[datetime, datetime]:
    """The first and last second of a UTC day."""
    start = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    return start, start + timedelta(days=1, seconds=-1)


def report(day: str, domain: str, rows: Iterable[Row], who: Reporter, published: Published) -> dict[str, Any]:
    """The report of RFC 8460 section 4.4, to be written as JSON."""
    start, end = date_range(day)
    return {
        "organization-name": who.organization,
        "date-range": {"start-datetime": _instant(start), "end-datetime": _instant(end)},
        "contact-info": who.contact,
        "report-id": report_id(day, domain, who.hostname),
        "policies": [_policy(domain, row, published) for row in rows],
    }


def _instant(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _policy(domain: str, row: Row, published: Published) -> dict[str, Any]:
    policy: dict[str, Any] = {"policy-type": row.type, "policy-domain": domain}
    text = row.text
    if row.type == "sts":
        known = published(domain)
        if known is not None:
            text = text or known[0]
            policy["mx-host"] = known[1]
    if text:
        policy["policy-string"] = text
    built: dict[str, Any] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": row.success,
            "total-failure-session-count": row.failure,
        },
    }
    if row.failures:
        most = sorted(row.failures, key=lambda one: -one[5])[:DETAILS_AT_MOST]
        built["failure-details"] = [_failure(*one) for one in most]
    return built


def _failure(result: str, host: str, address: str, source: str, words: str, count: int) -> dict[str, Any]:
    told: dict[str, Any] = {"result-type": result}
    for name, value in (
        ("sending-mta-ip", source),
        ("receiving-mx-hostname", host),
        ("receiving-ip", address),
        ("failure-reason-code", words),
    ):
        if value:
            told[name] = value
    return {**told, "failed-session-count": count}


def packed(built: dict[str, Any]) -> bytes:
    """The JSON, compressed: application/tlsrpt+gzip. The same octets each time."""
    return gzip.compress(msgspec.json.encode(built), mtime=0)


def file_name(day: str, domain: str, hostname: str) -> str:
    """As RFC 8460 section 5.1 has it; times in seconds since 1970."""
    start, end = date_range(day)
    return f"{hostname}!{domain}!{int(start.timestamp())}!{int(end.timestamp())}!{day}.json.gz"


def mail(day: str, domain: str, built: dict[str, Any], to: str, who: Reporter, wall: float) -> bytes:
    """The message of RFC 8460 section 5.3 for one mailbox, header and body, lines ending in CRLF."""
    identity = built["report-id"]
    boundary = "report-" + hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
    name = file_name(day, domain, who.hostname)
    encoded = base64.b64encode(packed(built)).decode()
    lines = [
        f"From: {who.sender}",
        f"To: {to}",
        f"Subject: Report Domain: {domain} Submitter: {who.hostname}",
        f" Report-ID: <{identity}>",
        f"Date: {format_datetime(datetime.fromtimestamp(int(wall), UTC))}",
        f"Message-ID: <{identity.replace('@', '.' + _tag(to) + '@')}>",
        f"TLS-Report-Domain: {domain}",
        f"TLS-Report-Submitter: {who.hostname}",
        "TLS-Required: No",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type="tlsrpt";',
        f' boundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "Content-Transfer-Encoding: 7bit",
        "",
        f"This is an aggregate TLS report for {domain} from {who.hostname}",
        f"about {day[:4]}-{day[4:6]}-{day[6:]} (UTC), as {domain}",
        "asks for in the DNS (RFC 8460).",
        f"Contact: {who.contact}",
        "",
        f"--{boundary}",
        "Content-Type: application/tlsrpt+gzip;",
        f' name="{name}"',
        "Content-Transfer-Encoding: base64",
        "Content-Disposition: attachment;",
        f' filename="{name}"',
        "",
        *(encoded[at : at + LINE_OCTETS] for at in range(0, len(encoded), LINE_OCTETS)),
        "",
        f"--{boundary}--",
        "",
    ]
    return "\r\n".join(lines).encode("ascii")


def _tag(to: str) -> str:
    """Each mailbox gets a message of its own."""
    return hashlib.blake2b(to.encode(), digest_size=4).hexdigest()
