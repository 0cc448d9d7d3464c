"""Events as the requests of a webhook: our own format, listmonk's, SendGrid's and Postmark's. Pure.

    fastrelay   {"type": "events", "timestamp": …, "data": [the lines of the log]}, many events a request
    sendgrid    an array of event objects, many events a request (Twilio, "Event Webhook Reference")
    listmonk    one bounce a request (POST /webhooks/bounce; listmonk, "Bounce processing")
    postmark    one event a request (Postmark, "Webhooks": Bounce, Delivery, Spam complaint, Subscription change)

Identities are made from the events' keys, so what is posted twice has the same.

What the other formats know and our events don't: the Message-ID and subject of a mail. In their place stands our
message id: `smtp-id` `<id>`, sg_message_id; of Postmark's MessageID the form is kept (a UUID made from the id, which is
in Metadata as fastrelay_id too). A campaign that is a UUID is given as listmonk's campaign, where listmonk looks.

Known faults: listmonk knows subscribers by address only; their UUIDs are in no event.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from fastrelay.feedback.tail import Event, decode

EVENTS = frozenset(
    ["accepted", "delivered", "deferred", "failed", "expired", "suppressed", "removed", "bounced", "complained",
     "unsubscribed", "suppression"]
)  # fmt: skip
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NAMESPACE = uuid.UUID("b66a7ab8-59b5-5d3f-9b51-6f3e0f5b7c0e")


class Request(NamedTuple):
    """One request: `identity` is the same whenever the same events are posted."""

    identity: str
    body: bytes
    events: int


class Format(NamedTuple):
    """What a format can say. `single`: one event a request."""

    words: frozenset[str]
    single: bool
    requests: Callable[[list[bytes]], list[Request]]


def _digest(*parts: str, size: int = 16) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=size).digest()


_KEY = re.compile(rb'\{"key":"([^"\\]*)"')


def key_of(raw: bytes) -> str:
    """The key of a line, without decoding it."""
    match = _KEY.match(raw)
    return match[1].decode("ascii", "replace") if match else _digest(raw.decode("utf-8", "replace")).hex()


def identity_of(keys: list[str]) -> str:
    """The identity of a request that has events of these keys, in whatever order."""
    return "msg_" + _digest(*sorted(keys)).hex()


def _sound(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
        msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


# -- our own ----------------------------------------------------------------------------------------------------------


def _native(lines: list[bytes]) -> list[Request]:
    inner = b",".join(lines)
    try:
        inner.decode("utf-8")
        msgspec.json.decode(b"[" + inner + b"]", type=list[dict[str, msgspec.Raw]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        lines = [line for line in lines if _sound(line)]
        inner = b",".join(lines)
    if not lines:
        return []
    last = decode(lines[-1])
    time = "" if last is None else last.time
    body = b'{"type":"events","timestamp":' + msgspec.json.encode(time) + b',"data":[' + inner + b"]}"
    return [Request(identity_of([key_of(line) for line in lines]), body, len(lines))]


# -- what the others have in common -----------------------------------------------------------------------------------


def _events(lines: list[bytes]) -> list[Event]:
    return [event for event in map(decode, lines) if event is not None]


def _unix(event: Event) -> int:
    try:
        return int(datetime.fromisoformat(event.time).timestamp())
    except ValueError:
        return 0


def _is_hard(event: Event) -> bool:
    """Whether an address is bad for good: only where the refusal is about the recipient."""
    if event.kind and event.about:
        return event.kind == "hard" and event.about == "recipient"
    return event.enhanced.startswith("5.1.") or (event.code == 550 and not event.enhanced)


def _words(event: Event) -> str:
    return event.reply or event.reason


def _campaign_uuid(event: Event) -> str:
    return event.campaign if _UUID.fullmatch(event.campaign) else ""


def _single(make: Callable[[Event], dict[str, Any] | None]) -> Callable[[list[bytes]], list[Request]]:
    def requests(lines: list[bytes]) -> list[Request]:
        out = []
        for event in _events(lines):
            found = make(event)
            if found is not None:
                out.append(Request(identity_of([event.key]), msgspec.json.encode(found), 1))
        return out

    return requests


# -- listmonk ---------------------------------------------------------------------------------------------------------


def _listmonk(event: Event) -> dict[str, Any] | None:
    if not event.recipient:
        return None
    kind = "complaint" if event.event == "complained" else "hard" if _is_hard(event) else "soft"
    meta = {
        "key": event.key, "event": event.event, "id": event.id, "class": event.class_, "code": event.code or None,
        "enhanced": event.enhanced, "reply": _words(event), "campaign": event.campaign,
    }  # fmt: skip
    out: dict[str, Any] = {
        "email": event.recipient,
        "source": "fastrelay",
        "type": kind,
        "meta": {name: value for name, value in meta.items() if value},
        "created_at": event.time,
    }
    if _campaign_uuid(event):
        out["campaign_uuid"] = _campaign_uuid(event)
    return out


# -- SendGrid ---------------------------------------------------------------------------------------------------------

_SENDGRID = {
    "accepted": "processed", "delivered": "delivered", "deferred": "deferred", "failed": "bounce", "expired": "bounce",
    "bounced": "bounce", "suppressed": "dropped", "removed": "dropped", "complained": "spamreport",
    "unsubscribed": "unsubscribe",
}  # fmt: skip
# bounce_classification
_SENDGRID_CLASSES = {
    "bad_mailbox": "Invalid Address", "bad_domain": "Invalid Address", "inactive": "Invalid Address",
    "quota": "Mailbox Unavailable", "spam_content": "Content", "size": "Content", "policy": "Content",
    "reputation_block": "Reputation", "authentication": "Reputation", "relay_denied": "Reputation",
    "rate": "Frequency or Volume Too High", "greylist": "Technical Failure", "connection": "Technical Failure",
    "tls": "Technical Failure", "protocol": "Technical Failure",
}  # fmt: skip
# What a suppression says, in words that SendGrid uses for a dropped mail.
_SENDGRID_DROPPED = {
    "hard_bounce": "Bounced Address", "soft_bounces": "Bounced Address", "complaint": "Spam Reporting Address",
    "unsubscribe": "Unsubscribed Address",
}  # fmt: skip


def _sendgrid_one(event: Event, recipient: str, number: int) -> dict[str, Any]:
    name = _SENDGRID[event.event]
    out: dict[str, Any] = {
        "email": recipient,
        "timestamp": _unix(event),
        "smtp-id": f"<{event.id}>",
        "event": name,
        "sg_event_id": base64.urlsafe_b64encode(_digest(event.key, str(number))).rstrip(b"=").decode(),
        "sg_message_id": event.id,
    }
    if event.campaign:
        out["category"] = [event.campaign]
    if name in ("delivered", "deferred"):
        out["response"] = _words(event)
    if name == "deferred":
        out["attempt"] = str(event.attempt)
    elif name == "bounce":
        out["type"] = "expired" if event.event == "expired" else "bounce" if _is_hard(event) else "blocked"
        out["reason"] = _words(event)
        out["status"] = event.enhanced or ("5.0.0" if event.code >= 500 else "4.0.0")
        out["bounce_classification"] = _SENDGRID_CLASSES.get(event.class_, "Unclassified")
    elif name == "dropped":
        why = _SENDGRID_DROPPED.get(event.suppression_reason, "")
        out["reason"] = why or event.reason or event.event
        out["status"] = event.enhanced or "5.0.0"
    if event.tenant:
        out["tenant"] = event.tenant
    if _campaign_uuid(event):
        out["XListmonkCampaign"] = event.campaign
    return out


def _sendgrid(lines: list[bytes]) -> list[Request]:
    events = [event for event in _events(lines) if event.event in _SENDGRID]
    made = [
        _sendgrid_one(event, recipient, number)
        for event in events
        for number, recipient in enumerate(event.recipients or [event.recipient])
        if recipient
    ]
    if not made:
        return []
    return [Request(identity_of([event.key for event in events]), msgspec.json.encode(made), len(events))]


# -- Postmark ---------------------------------------------------------------------------------------------------------

# Type → (TypeCode, Name, Description), Postmark's "Bounce types".
_POSTMARK_TYPES = {
    "HardBounce": (1, "Hard bounce", "The server was unable to deliver your message."),
    "Transient": (2, "Message delayed", "The server could not temporarily deliver your message."),
    "SoftBounce": (4096, "Soft bounce", "The message was refused; the address may be good."),
    "SpamNotification": (512, "Spam notification", "The message was classified as spam."),
    "DMARCPolicy": (100009, "DMARC Policy", "Email rejected due DMARC Policy."),
    "SpamComplaint": (100001, "Spam complaint", "The subscriber explicitly marked this message as spam."),
    "ManuallyDeactivated": (100002, "Manually deactivated", "The email was manually deactivated."),
}  # fmt: skip


def _postmark_type(event: Event) -> str:
    if event.event == "deferred":
        return "Transient"
    if event.event == "removed":
        return "ManuallyDeactivated"
    if _is_hard(event):
        return "HardBounce"
    return {"spam_content": "SpamNotification", "authentication": "DMARCPolicy"}.get(event.class_, "SoftBounce")


def _postmark_common(event: Event) -> dict[str, Any]:
    metadata = {
        "fastrelay_id": event.id, "fastrelay_key": event.key, "campaign": event.campaign, "tenant": event.tenant,
        "X-Listmonk-Campaign": _campaign_uuid(event),
    }  # fmt: skip
    return {
        "MessageID": str(uuid.uuid5(_NAMESPACE, event.id)) if event.id else None,
        "ServerID": 0,
        "MessageStream": "outbound",
        "Tag": event.campaign,
        "Metadata": {name: value for name, value in metadata.items() if value},
    }


def _postmark_bounce(event: Event, kind: str) -> dict[str, Any]:
    code, name, description = _POSTMARK_TYPES[kind]
    dead = kind in ("HardBounce", "SpamComplaint", "ManuallyDeactivated")
    return {
        "RecordType": "SpamComplaint" if kind == "SpamComplaint" else "Bounce",
        # Of 53 bits, so that every JSON parser reads the same number.
        "ID": int.from_bytes(_digest(event.key, size=8), "big") >> 11,
        "Type": kind,
        "TypeCode": code,
        "Name": name,
        "Description": description,
        "Details": _words(event),
        "Email": event.recipient,
        "From": event.reverse_path,
        "BouncedAt": event.time,
        "DumpAvailable": False,
        "Inactive": dead,
        "CanActivate": kind != "SpamComplaint",
        "Subject": "",
        "Content": "",
        **_postmark_common(event),
    }


_POSTMARK_REASONS = {"hard_bounce": "HardBounce", "soft_bounces": "HardBounce", "complaint": "SpamComplaint"}


def _postmark_change(event: Event, reason: str, suppress: bool) -> dict[str, Any]:
    return {
        "RecordType": "SubscriptionChange",
        "ChangedAt": event.time,
        "Recipient": event.recipient,
        "Origin": "Recipient" if event.event == "unsubscribed" or reason != "ManualSuppression" else "Customer",
        "SuppressSending": suppress,
        "SuppressionReason": reason if suppress else None,
        **_postmark_common(event),
    }


def _postmark(event: Event) -> dict[str, Any] | None:
    if not event.recipient:
        return None
    match event.event:
        case "delivered":
            return {
                "RecordType": "Delivery",
                "Recipient": event.recipient,
                "DeliveredAt": event.time,
                "Details": _words(event),
                **_postmark_common(event),
            }
        case "complained":
            return _postmark_bounce(event, "SpamComplaint")
        case "unsubscribed":
            return _postmark_change(event, "ManualSuppression", True)
        case "suppression":
            return _postmark_change(
                event, _POSTMARK_REASONS.get(event.reason, "ManualSuppression"), event.action == "added"
            )
    return _postmark_bounce(event, _postmark_type(event))


FORMATS = {
    "fastrelay": Format(EVENTS, False, _native),
    "listmonk": Format(frozenset(["failed", "expired", "bounced", "complained"]), True, _single(_listmonk)),
    "sendgrid": Format(frozenset(_SENDGRID), False, _sendgrid),
    "postmark": Format(
        frozenset(
            ["delivered", "deferred", "failed", "expired", "bounced", "complained", "unsubscribed", "suppression"]
        ),
        True,
        _single(_postmark),
    ),
}
