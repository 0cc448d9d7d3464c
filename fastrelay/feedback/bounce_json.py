"""Notifications of Amazon SES that come by mail (through SNS): JSON with the fields of RFC 3464 in it.

    read_notification(text) → Notification | None

Source: the Amazon SES developer guide, "Contents of Amazon SNS notifications". SNS sends the document as it is (raw
delivery) or as a string in a document of its own. Mail systems on the way fold the one long line (sendmail writes `!`,
a line end and a space); that is undone.

Known faults: a notification that was cut is not read.
"""

from __future__ import annotations

import re

import msgspec

from fastrelay.feedback.bounce_report import MAX_RECIPIENTS, MAX_REPORT_OCTETS, MAX_TEXT, action_of, status_of, typed
from fastrelay.feedback.bounce_types import BouncedRecipient, What, as_reported

_START = re.compile(r'\{\s*"(?:notificationType|eventType)"\s*:\s*"(?:Bounce|Complaint|Delivery|DeliveryDelay)"')
_WRAPPED = re.compile(r'"Message"\s*:\s*("(?:[^"\\]|\\.)*")')
_FOLD = re.compile(r"!\n[ \t]?")
_WHAT: dict[str, What] = {
    "Bounce": "bounce",
    "DeliveryDelay": "delayed",
    "Delivery": "notice",
    "Complaint": "complaint",
}
_ACTIONS = {"Bounce": "failed", "DeliveryDelay": "delayed", "Delivery": "delivered"}


class _Recipient(msgspec.Struct):
    emailAddress: str = ""
    action: str = ""
    status: str = ""
    diagnosticCode: str = ""


class _Outcome(msgspec.Struct):
    bouncedRecipients: list[_Recipient] = []
    delayedRecipients: list[_Recipient] = []
    recipients: list[str] = []
    reportingMTA: str = ""


class _Header(msgspec.Struct):
    name: str = ""
    value: str = ""


class _Mail(msgspec.Struct):
    headers: list[_Header] = []


class _Document(msgspec.Struct):
    notificationType: str = ""
    eventType: str = ""
    bounce: _Outcome | None = None
    deliveryDelay: _Outcome | None = None
    delivery: _Outcome | None = None
    mail: _Mail = msgspec.field(default_factory=_Mail)


class Notification(msgspec.Struct):
    """What a notification says; `fields` is the header of our message, names in lower case."""

    what: What
    recipients: list[BouncedRecipient]
    fields: list[tuple[str, bytes]]
    reporting_mta: str


_decoder = msgspec.json.Decoder(_Document)


def read_notification(text: str) -> Notification | None:
    """The notification in a text; None where there is none that can be read."""
    found = _START.search(text)
    if found is None:
        text = _unwrapped(text)
        found = _START.search(text)
    if found is None:
        return None
    line = _FOLD.sub("", text[found.start() : found.start() + MAX_REPORT_OCTETS])
    line = line.partition("\n\n--")[0].rpartition("}")[0] + "}"
    try:
        document = _decoder.decode(line.replace("\n", "").encode("utf-8", "replace"))
    except (msgspec.MsgspecError, RecursionError):
        return None
    kind = document.notificationType or document.eventType
    outcome = document.bounce or document.deliveryDelay or document.delivery or _Outcome()
    given = outcome.bouncedRecipients or outcome.delayedRecipients
    given = given or [_Recipient(emailAddress=address) for address in outcome.recipients]
    recipients = [
        read_recipient(each, kind) for each in given[:MAX_RECIPIENTS] if as_reported(_bare(each.emailAddress))
    ]
    if kind not in _WHAT or (not recipients and kind != "Complaint"):
        return None
    header = [(each.name.lower(), each.value.encode("utf-8", "replace")) for each in document.mail.headers[:1000]]
    return Notification(_WHAT[kind], recipients, header, typed(outcome.reportingMTA)[1][:255])


def _unwrapped(text: str) -> str:
    """The document that stands as a string in one of SNS; "" where there is none."""
    found = _WRAPPED.search(_FOLD.sub("", text[:MAX_REPORT_OCTETS]))
    if found is None:
        return ""
    try:
        return msgspec.json.decode(found[1].replace("\n", "").encode("utf-8", "replace"), type=str)
    except msgspec.MsgspecError:
        return ""


def read_recipient(given: _Recipient, kind: str) -> BouncedRecipient:
    """One recipient of a notification of a kind."""
    diagnostic_type, diagnostic = typed(given.diagnosticCode[:MAX_TEXT])
    status = status_of(given.status) or status_of(diagnostic)
    address = _bare(given.emailAddress)
    return BouncedRecipient(
        address=address,
        action=action_of(given.action, status) if given.action else _ACTIONS.get(kind, "failed"),
        status=status,
        diagnostic=diagnostic,
        diagnostic_type=diagnostic_type,
        final_recipient=address,
    )


def _bare(address: str) -> str:
    """Without a name: `Reader <reader@far.example>`."""
    return (address.rpartition("<")[2].partition(">")[0] if "<" in address else address).strip()[:320]
