"""Delivery reports (RFC 3464) about a message that was sent, as the host of a recipient makes them."""

from __future__ import annotations

from email.utils import formatdate


def delivery_report(
    returned: bytes,
    recipient: str,
    *,
    to: str,
    status: str = "5.1.1",
    diagnostic: str = "smtp; 550 5.1.1 No such user here",
    action: str = "failed",
    original: str = "",
    number: int = 0,
) -> bytes:
    """A report that `returned` (a message as it was sent) failed for `recipient`; `original`: whom it was sent to,
    where that was another. CRLF line ends. `number` makes it another message."""
    header = returned.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    group = [f"Original-Recipient: rfc822;{original}"] if original else []
    group += [f"Final-Recipient: rfc822;{recipient}", f"Action: {action}", f"Status: {status}"]
    if diagnostic:
        group.append(f"Diagnostic-Code: {diagnostic}")
    head = [
        "From: Mail Delivery System <MAILER-DAEMON@mx.far.example>",
        f"To: {to}",
        "Subject: Undelivered Mail Returned to Sender",
        f"Date: {formatdate(1_800_000_000 + number)}",
        f"Message-ID: <b{number}@mx.far.example>",
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type=delivery-status; boundary="=_report"',
    ]
    parts = [
        *head, "", "--=_report", "Content-Type: text/plain; charset=us-ascii", "",
        f"Your message could not be delivered to <{recipient}>.", "",
        "--=_report", "Content-Type: message/delivery-status", "", "Reporting-MTA: dns; mx.far.example", "",
        *group, "", "--=_report", "Content-Type: text/rfc822-headers", "", "",
    ]  # fmt: skip
    return ("\n".join(parts).encode() + header + b"\n\n--=_report--\n").replace(b"\n", b"\r\n")
