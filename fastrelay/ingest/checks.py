"""What large providers would reject, found when a message is submitted, while somebody is there to mend it.

Looked at is the message as it will be sent: with what compose.py added. Each check is named in the configuration under
`refuse` or `warn`; a refusal has an enhanced status code of its own (RFC 3463; where IANA's list has none that fits,
5.6.10x and 5.7.10x are ours).

    from                5.1.7     not exactly one From field with an address
    from_domain         5.1.8     the domain of From can't exist (RFC 6761, or no name of the DNS)
    date                5.6.101   missing, or not readable
    message_id          5.6.102   missing, or not readable
    repeated_fields     5.6.103   a field that may be there once is there twice (RFC 5322 section 3.6)
    line_length         5.6.104   a line of more than 998 octets
    eight_bit_header    5.6.9     octets above 127 in the header without SMTPUTF8
    unsigned            5.7.20    no DKIM key for the domain of From
    unsubscribe         5.7.101   bulk mail without List-Unsubscribe and one-click (RFC 8058)
    no_recipient_field  5.6.105   neither To nor Cc nor Bcc

Known faults: a line that is too long in the header only after our own fields were taken out is not seen.
"""

from __future__ import annotations

import email.utils
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastrelay._core.canon import Fields
from fastrelay.config.security import Check, MessageChecks

LINE_OCTETS = 998
BULK = 0
ONCE = (
    b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"subject", b"date", b"message-id", b"in-reply-to",
    b"references", b"mime-version", b"content-type", b"content-transfer-encoding",
)  # fmt: skip
_DATE = re.compile(
    rb"\s*([A-Za-z]{3}\s*,\s*)?\d{1,2}\s+(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s+\d{4}\s+"
    rb"\d\d:\d\d(:\d\d)?\s+([+-]\d{4}|UT|GMT|[ECMP][SD]T)\s*(\([^()]*\)\s*)?",
    re.IGNORECASE,
)
_MESSAGE_ID = re.compile(rb"\s*<[^\s<>@]+@[^\s<>@]+>\s*(\([^()]*\)\s*)?")
_HTTPS = re.compile(rb"<\s*https://[^<>]+>", re.IGNORECASE)
_LABEL = re.compile(rb"[a-z0-9_\x80-\xff]([a-z0-9_\x80-\xff-]{0,61}[a-z0-9_\x80-\xff])?")
_RESERVED = frozenset({b"test", b"example", b"invalid", b"localhost", b"local", b"internal", b"onion"})


@dataclass(slots=True)
class Seen:
    """A message as it will be sent, for the checks."""

    fields: Fields
    domain: bytes | None  # of From
    envelope: Any
    priority: int
    signed: bool


def _from(seen: Seen) -> str:
    n = seen.fields.count(b"from")
    if n != 1:
        return "it has no From field" if n == 0 else f"it has {n} From fields"
    return "" if seen.domain is not None else "its From field has no address that can be read"


def _from_domain(seen: Seen) -> str:
    domain = seen.domain
    if domain is None:
        return "its From field has no domain"
    return "" if _may_exist(domain) else f"the domain of its From field, {_shown(domain)}, can't exist"


@functools.lru_cache(maxsize=4096)
def _may_exist(domain: bytes) -> bool:
    labels = domain.split(b".")
    fine = len(labels) > 1 and len(domain) < 254 and all(map(_LABEL.fullmatch, labels))
    return fine and labels[-1] not in _RESERVED and not labels[-1].isdigit()


def _date(seen: Seen) -> str:
    value = seen.fields.last(b"date")
    if value is None:
        return "it has no Date field"
    if _DATE.fullmatch(value) or email.utils.parsedate_tz(value.decode("ascii", "replace")) is not None:
        return ""
    return f"its Date field can't be read: {_shown(value)}"


def _message_id(seen: Seen) -> str:
    value = seen.fields.last(b"message-id")
    if value is None:
        return "it has no Message-ID field"
    return "" if _MESSAGE_ID.fullmatch(value) else f"its Message-ID field can't be read: {_shown(value)}"


def _repeated_fields(seen: Seen) -> str:
    count = seen.fields.count
    several = [name.decode().title() for name in ONCE if count(name) > 1]
    return f"it has several fields where one is allowed: {', '.join(several)}" if several else ""


def _line_length(seen: Seen) -> str:
    longest = seen.envelope.longest_line
    return f"it has a line of {longest} octets; {LINE_OCTETS} are allowed" if longest > LINE_OCTETS else ""


def _eight_bit_header(seen: Seen) -> str:
    if not seen.envelope.eight_bit_header or seen.envelope.smtputf8:
        return ""
    return "its header has octets above 127; encode them (RFC 2047), or ask for SMTPUTF8"


def _unsigned(seen: Seen) -> str:
    if seen.signed:
        return ""
    return f"there is no DKIM key for {_shown(seen.domain) if seen.domain else 'its sender'}"


def _unsubscribe(seen: Seen) -> str:
    if seen.priority != BULK:
        return ""
    where, how = seen.fields.last(b"list-unsubscribe"), seen.fields.last(b"list-unsubscribe-post")
    if where is None or not _HTTPS.search(where):
        return "it is bulk mail without List-Unsubscribe and an https URL in it"
    if how is None or b"".join(how.split()).lower() != b"list-unsubscribe=one-click":
        return "it is bulk mail without List-Unsubscribe-Post: List-Unsubscribe=One-Click"
    return ""


def _no_recipient_field(seen: Seen) -> str:
    count = seen.fields.count
    return "" if count(b"to") or count(b"cc") or count(b"bcc") else "it has neither To nor Cc nor Bcc"


def _shown(octets: bytes) -> str:
    return bytes(c if 32 <= c < 127 else 63 for c in octets.strip()[:80]).decode("ascii")


CHECKS: dict[Check, tuple[str, Callable[[Seen], str]]] = {
    "from": ("5.1.7", _from),
    "from_domain": ("5.1.8", _from_domain),
    "date": ("5.6.101", _date),
    "message_id": ("5.6.102", _message_id),
    "repeated_fields": ("5.6.103", _repeated_fields),
    "line_length": ("5.6.104", _line_length),
    "eight_bit_header": ("5.6.9", _eight_bit_header),
    "unsigned": ("5.7.20", _unsigned),
    "unsubscribe": ("5.7.101", _unsubscribe),
    "no_recipient_field": ("5.6.105", _no_recipient_field),
}


class Checks:
    """For one configuration. `count(check, action)` is told of each finding."""

    def __init__(self, config: MessageChecks, count: Callable[[str, str], None]) -> None:
        self._refuse = [(name, *CHECKS[name]) for name in CHECKS if name in config.refuse]
        self._warn = [(name, CHECKS[name][1]) for name in CHECKS if name in config.warn and name not in config.refuse]
        self._count = count

    def look(self, seen: Seen) -> tuple[bytes, list[str]]:
        """(the reply that refuses the message or b"", names of the checks that warn)."""
        for name, status, check in self._refuse:
            words = check(seen)
            if words:
                self._count(name, "refuse")
                return f"550 {status} Message refused: {words} (check {name})\r\n".encode("ascii", "replace"), []
        warnings: list[str] = [name for name, check in self._warn if check(seen)]
        for found in warnings:
            self._count(found, "warn")
        return b"", warnings
