"""Adds what bulk mail should have and the client left out, before the message is signed.

    Date, Message-ID                 RFC 5322 section 3.6
    List-Unsubscribe(-Post)          RFC 2369, RFC 8058: a URL, which takes a POST, and an address
    Feedback-ID                      by which Google adds up complaints
    CFBL-Address                     where providers may send complaints (RFC 9477)
    a field with our reference       by which a complaint finds its message (feedback/reference.py)

A field that is there is left alone, and so is List-Unsubscribe-Post where the client gave a URL of its own: whether
that takes a POST only the client knows. Mail of the class `transactional` gets no way to unsubscribe: nobody
subscribed to it.

What names the recipient is left out of a message with several: one copy goes to all of them.

The reverse-path of each recipient (VERP) is made when the message is sent, from the templates as they are then. Where
it can't be one, as a local part has 64 octets at most, the client's own is used.

Known faults: none.
"""

from __future__ import annotations

import email.utils
import functools
import re
from typing import Any

from fastrelay._core.canon import Fields
from fastrelay.config.security import Compose
from fastrelay.config.templates import Template, local_text
from fastrelay.feedback.reference import References

LOCAL_OCTETS = 64  # RFC 5321 section 4.5.3.1.1
PATH_OCTETS = 254
LINE_OCTETS = 998  # RFC 5322 section 2.1.1
FOLDED_AT = 78
TRANSACTIONAL = 2
DAY_SECONDS = 86400
_PLAIN_DOMAIN = re.compile(rb"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_LOCAL = re.compile(r"[^\s\x00-\x20\x7f()<>\[\]:;,@\\\".]+(\.[^\s\x00-\x20\x7f()<>\[\]:;,@\\\".]+)*")


class Values(dict[str, bytes]):
    """The placeholders of one message, made when they are asked for first."""

    def __init__(
        self, composer: Composer, recipient: bytes | None, mail: tuple[Any, ...], msgid: str, day: int
    ) -> None:
        self._composer = composer
        self._recipient = recipient
        self._day = day
        local, _, domain = (recipient or b"").rpartition(b"@")
        super().__init__(
            recipient=recipient or b"", local=local, domain=domain, campaign=mail[0], tenant=mail[1],
            pool=mail[2] or b"default", id=msgid.encode(),
        )  # fmt: skip

    def __missing__(self, name: str) -> bytes:
        if name != "reference":
            raise KeyError(name)
        self["reference"] = made = self.reference()
        return made

    def reference(self, limit: int = 400) -> bytes:
        """The reference of the message, at most `limit` characters long if that can be."""
        references = self._composer.references
        assert references is not None  # the rules of the configuration see to it
        made = references.make(
            self._recipient, self["campaign"], self["tenant"], self["sender_domain"], self._day,
            self["id"].decode(), limit,
        )  # fmt: skip
        return made.encode()


class MailboxTemplate:
    """A mailbox with placeholders; {reference} in its local part is made to fit."""

    def __init__(self, text: str, *, mailto: bool = False) -> None:
        local, _, domain = text.rpartition("@")
        kind = "mailto" if mailto else "local"
        self.local = Template(local, kind)  # type: ignore[arg-type]
        self.domain = domain
        self.names = self.local.names
        self.per_recipient = self.local.per_recipient

    def fill(self, values: Values) -> str:
        if "reference" in self.names:
            used = sum(len(local_text(values[name])) for name in self.names if name != "reference")
            fitting = values.reference(LOCAL_OCTETS - self.local.literal - used)
            return f"{self.local.fill(dict(values, reference=fitting))}@{self.domain}"
        return f"{self.local.fill(values)}@{self.domain}"


class Mailto:
    """The mailto URL of List-Unsubscribe, of an address or of a URL with a query."""

    def __init__(self, text: str) -> None:
        address, question, query = text.removeprefix("mailto:").partition("?")
        self._mailbox = MailboxTemplate(address, mailto=True)
        self._query = Template(question + query, "url")
        self.names = self._mailbox.names | self._query.names
        self.per_recipient = self._mailbox.per_recipient or self._query.per_recipient

    def fill(self, values: Values) -> str:
        return f"mailto:{self._mailbox.fill(values)}{self._query.fill(values)}"


class Composer:
    """For one configuration."""

    def __init__(self, config: Compose, hostname: str, references: References | None) -> None:
        self.references = references
        self._hostname = hostname.encode()
        self._date = "date" in config.add
        self._message_id = "message_id" in config.add
        self._url = Template(config.list_unsubscribe, "url") if config.list_unsubscribe else None
        self._mailto = Mailto(config.list_unsubscribe_mailto) if config.list_unsubscribe_mailto else None
        self._unsubscribe = self._url is not None or self._mailto is not None
        self._feedback_id = Template(config.feedback_id, "token") if config.feedback_id else None
        self._cfbl = f"CFBL-Address: {config.cfbl_address}; report=arf\r\n".encode() if config.cfbl_address else b""
        self._reference_name = config.reference.encode() if config.reference else b""
        self._reference_lower = self._reference_name.lower()
        self._reverse_path = MailboxTemplate(config.reverse_path) if config.reverse_path else None
        self._with_values = self._unsubscribe or self._feedback_id is not None or bool(self._reference_name)
        self._second = -1
        self._second_date = b""

    @property
    def verp(self) -> bool:
        """Whether each recipient has a reverse-path of its own."""
        return self._reverse_path is not None

    def added(
        self,
        fields: Fields,
        recipients: list[bytes],
        reverse_path: bytes,
        mail: tuple[Any, ...],
        msgid: str,
        wall: float,
    ) -> bytes:
        """The fields to add to a message, each with CRLF; b"" where it has them all.

        `fields`: its header. `mail`: campaign, tenant, pool, class, … as assign.py gives them.
        """
        out = []
        count = fields.count
        if self._date and not count(b"date"):
            out.append(b"Date: %b\r\n" % self._now(wall))
        from_domain = _plain(fields.from_domain())
        if self._message_id and not count(b"message-id"):
            words = msgid.encode(), int(wall * 1000), from_domain or self._hostname
            out.append(b"Message-ID: <%b.%x@%b>\r\n" % words)
        if self._cfbl and not count(b"cfbl-address"):
            out.append(self._cfbl)
        if not self._with_values:
            return b"".join(out)
        recipient = recipients[0] if len(recipients) == 1 else None
        values = Values(self, recipient, mail, msgid, int(wall // DAY_SECONDS))
        values["sender_domain"] = self._sender_domain(from_domain, reverse_path)
        if self._unsubscribe and mail[3] < TRANSACTIONAL and not count(b"list-unsubscribe"):
            out.append(self._unsubscribe_fields(fields, values, recipient))
        if self._feedback_id is not None and not count(b"feedback-id"):
            out.append(_field(b"Feedback-ID", self._feedback_id.fill(values).encode("ascii")))
        if self._reference_name and not count(self._reference_lower):
            out.append(_field(self._reference_name, values["reference"]))
        return b"".join(out)

    def _unsubscribe_fields(self, fields: Fields, values: Values, recipient: bytes | None) -> bytes:
        parts = []
        url = self._url
        if self._mailto is not None and (recipient is not None or not self._mailto.per_recipient):
            parts.append(f"<{self._mailto.fill(values)}>")
        # The reference of a message with several recipients names none, so a POST with it could unsubscribe nobody.
        with_url = url is not None and (recipient is not None or not (url.per_recipient or "reference" in url.names))
        if with_url:
            parts.append(f"<{url.fill(values)}>")  # type: ignore[union-attr]
        if not parts or max(map(len, parts)) > LINE_OCTETS - 20:
            return b""
        made = b"List-Unsubscribe: " + ",\r\n ".join(parts).encode("ascii") + b"\r\n"
        if with_url and not fields.count(b"list-unsubscribe-post"):
            made += b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        return made

    def _sender_domain(self, from_domain: bytes | None, reverse_path: bytes) -> bytes:
        """Of From, or of the reverse-path, or the relay's own."""
        return from_domain or _plain(reverse_path.rpartition(b"@")[2].lower()) or self._hostname

    def _now(self, wall: float) -> bytes:
        second = int(wall)
        if second != self._second:
            self._second = second
            self._second_date = email.utils.formatdate(second).replace("-0000", "+0000").encode()
        return self._second_date

    def reverse_path(self, record: Any, recipient: bytes, msgid: str) -> bytes | None:
        """What MAIL FROM is for one recipient of a message (its record); None: as the client gave it."""
        template = self._reverse_path
        if template is None:
            return None
        mail = (record.campaign, record.tenant, record.pool)
        values = Values(self, recipient, mail, msgid, record.accepted_ms // (DAY_SECONDS * 1000))
        values["sender_domain"] = self._sender_domain(None, record.reverse_path)
        path = template.fill(values)
        local = path.rpartition("@")[0]
        octets = path.encode("utf-8", "surrogateescape")
        fits = len(local.encode("utf-8", "surrogateescape")) <= LOCAL_OCTETS and len(octets) <= PATH_OCTETS
        return octets if fits and _LOCAL.fullmatch(local) else None


@functools.lru_cache(maxsize=4096)
def _plain(domain: bytes | None) -> bytes | None:
    """A domain that can stand in a field as it is, or None."""
    return domain if domain is not None and _PLAIN_DOMAIN.fullmatch(domain) else None


def _field(name: bytes, value: bytes) -> bytes:
    """A field of one word, on a line of its own where it is long; b"" where no line is long enough."""
    if len(value) > LINE_OCTETS - 1:
        return b""
    fold = b"\r\n " if len(name) + 2 + len(value) > FOLDED_AT else b" "
    return b"%b:%b%b\r\n" % (name, fold, value)
