"""What follows from a complaint: an event, an entry of the suppression list, its place in the rates, word to warm-up.

    result = await desk.complaints.take(message, arf.parse(message.octets))

A complaint is believed only as far as a reference of ours in it goes (match.py): it names the recipient, campaign,
tenant, From domain and day by itself, weeks after the record of the message is gone. Without one, or with one that was
not made with our key, it is about mail of others: counted as `unmatched`, and nothing else.

    complaint      event `complained`, suppressed as a complaint, counted in the rates, told to the governor
    opt_out        event `unsubscribed`, suppressed as an unsubscribe; no part of the rates
    not_spam, auth_failure      counted only

Each counts once for a message, a recipient and a kind, whoever tells it how often.

Order, and crash argument: event (its key is made of the reference, so the same told again has the same), suppression,
then in one commit that it was counted, behind a sync of the log; the answer comes last. What was interrupted is told
again by the reporter, and gives the same event.

Known faults: whoever was forwarded a message can complain in the name of its first recipient.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
from typing import TYPE_CHECKING, Any, Literal

from fastrelay.feedback.desk import Part
from fastrelay.feedback.ledger import Ledger
from fastrelay.feedback.rates import DATABASE, Rates, Slices, day_of
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.config.feedback import Reason
    from fastrelay.config.schema import Config
    from fastrelay.feedback.arf import Complaint
    from fastrelay.feedback.desk import Desk
    from fastrelay.feedback.match import Matcher
    from fastrelay.feedback.reference import Reference

Result = Literal["counted", "repeated", "unmatched", "ignored"]

TELL_SECONDS = 10.0  # between two tellings of the rates to the supervisor
HASH_OCTETS = 16
EVENT = "complaint_rates"  # as the supervisor hears it
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{7,45}")


class Complaints(Part):
    """A part of the desk; `rates` are there for the others, too."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.ledger = Ledger(desk)
        self.rates = Rates(desk.store, desk.config.complaints, day_of(desk.clock.wall()))
        self.commands = {"complaints.rates": self._rates_command}
        self._in_hand: dict[bytes, asyncio.Future[None]] = {}
        self._sources: dict[str, str] = {}
        self._tell_at = 0.0
        self._told: list[list[Any]] | None = None
        self.configure(desk.config)

    def configure(self, config: Config) -> None:
        self.rates.configure(config.complaints)
        seen: dict[str, set[str]] = {}
        for source in config.sources:
            for address in {source.seen_address, source.address}:
                seen.setdefault(_spelled(address), set()).add(source.name)
        self._sources = {address: min(found) for address, found in seen.items() if len(found) == 1}

    async def start(self) -> list[str]:
        tail = self._desk.tail
        tail.subscribe("rates", self.rates.delivered, wanted=frozenset({"delivered"}))
        tail.subscribers["rates"].reader.wanted = Slices(self.rates)
        return []

    def second(self, now: float) -> None:
        self.rates.flush(now, day_of(self._desk.clock.wall()))
        if now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            told = self.rates.told()
            if told != self._told:
                self._told = told
                self._desk.report({"event": EVENT, "rows": told})

    async def close(self) -> None:
        self.rates.flush(0.0, day_of(self._desk.clock.wall()))

    @property
    def matcher(self) -> Matcher:
        """Reads references. KeyFileError."""
        return self._desk.intake.matcher

    # -- complaints ---------------------------------------------------------------------------------------------------

    async def take(self, message: Any, parsed: Complaint) -> Result | None:
        """Does what follows, which is on stable storage when it returns; None: not about mail of ours.

        message  as it came (line.Inbound), or None; nothing of it is believed
        Raises OSError, FastrelayError: it may not be on stable storage, and the reporter is to try again.
        """
        result = await self._take(parsed)
        self._desk.meters.count(names.COMPLAINTS, kind=parsed.kind, reporter=parsed.reporter, result=result)
        return None if result == "unmatched" else result

    async def _take(self, parsed: Complaint) -> Result:
        reference = self._reference(parsed)
        if reference is None:
            return "unmatched"
        if parsed.kind in ("not_spam", "auth_failure"):
            return "ignored"
        recipient = self._recipient(reference, parsed)
        key = digest(parsed.kind, reference.id, recipient or reference.recipient_hash)
        under_way = self._in_hand.get(key)
        if under_way is not None:
            await asyncio.shield(under_way)
            return "repeated"
        if self._desk.store.get(DATABASE, b"c" + key) is not None:
            return "repeated"
        future = self._in_hand[key] = asyncio.get_running_loop().create_future()
        try:
            await self._follow(parsed, reference, recipient, key)
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else OSError("the process ends"))
            future.exception()  # where nobody waits
            raise
        else:
            future.set_result(None)
        finally:
            del self._in_hand[key]
        return "counted"

    async def _follow(self, parsed: Complaint, reference: Reference, recipient: bytes, key: bytes) -> None:
        """Event, suppression, what was seen; then rates and warm-up."""
        domain = text_of(recipient.rpartition(b"@")[2]).lower()
        provider = self.rates.provider_of(domain) or parsed.reporter
        source = self._source(parsed, reference, provider, key)
        fields = identity(reference, recipient)
        fields |= {name: value for name, value in (("source", source), ("provider", provider)) if value}
        told_by = feedback_source(parsed)
        if parsed.kind == "complaint":
            fields |= {"feedback_type": parsed.feedback_type[:100], "feedback_source": told_by, "matched": "reference"}
            self._desk.event("complained", fields, f"c-{key.hex()}")
        else:
            self._desk.event("unsubscribed", {**fields, "method": "report"}, f"u-{key.hex()}")
        if recipient:
            reason: Reason = "complaint" if parsed.kind == "complaint" else "unsubscribe"
            await suppress(self._desk, reason, reference, recipient, told_by)
        today = day_of(self._desk.clock.wall())
        await self.ledger.commit([(DATABASE, b"c" + key, today.to_bytes(2, "big"))])
        if parsed.kind == "complaint":
            sender = text_of(reference.sender_domain)
            self.rates.complained(reference.day, source, provider, text_of(reference.campaign), sender)
            if source:
                self._desk.report({"event": "complaint", "source": source, "place": provider, "n": 1})

    def _reference(self, parsed: Complaint) -> Reference | None:
        """The reference that says most, of the message that the first one is about."""
        matcher = self.matcher
        found = [one for one in map(matcher.read, parsed.references) if one is not None]
        if not found:
            return None
        same = [one for one in found if one.id == found[0].id]
        return max(
            same, key=lambda one: 4 * bool(one.recipient) + 2 * bool(one.sender_domain) + bool(one.recipient_hash)
        )

    def _recipient(self, reference: Reference, parsed: Complaint) -> bytes:
        """Whom we sent to; by a hash, it is whoever the report names and the hash confirms. b"" where nobody is."""
        if reference.recipient:
            return reference.recipient
        for address in parsed.recipients:
            octets = address.encode("utf-8", "surrogateescape")
            if self.matcher.names(reference, octets):
                return octets
        return b""

    def _source(self, parsed: Complaint, reference: Reference, provider: str, key: bytes) -> str:
        """Which source sent it: see rates.py."""
        named = self._sources.get(_spelled(parsed.source_ip))
        if named is not None:
            return named
        for found in _ADDRESS.findall(parsed.header[:20_000].decode("latin-1")):
            named = self._sources.get(_spelled(found))
            if named is not None:
                return named
        return self.rates.source_of(reference.day, provider, int.from_bytes(key[:8], "big"))

    # -- commands -----------------------------------------------------------------------------------------------------

    def _rates_command(self, by: str | None = None, most: int | None = None) -> dict[str, Any]:
        config = self._desk.config.complaints
        return {
            "window_seconds": config.window_seconds,
            "warn_share": config.warn_share,
            "limit_share": config.limit_share,
            "least_delivered": config.least_delivered,
            "rates": [
                {"by": row.by, "name": row.name, "delivered": row.delivered, "complaints": row.complaints,
                 "share": row.share} for row in self.rates.rows(by, most)
            ],
        }  # fmt: skip


def digest(*parts: str | bytes) -> bytes:
    """Of what makes a complaint, or an unsubscribe, the same one."""
    made = hashlib.blake2b(digest_size=HASH_OCTETS)
    for part in parts:
        octets = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part.lower()
        made.update(len(octets).to_bytes(4, "big") + octets)
    return made.digest()


def identity(reference: Reference, recipient: bytes) -> dict[str, Any]:
    """What events say of the message."""
    fields: dict[str, Any] = {"id": reference.id}
    named = (("recipient", recipient), ("campaign", reference.campaign), ("tenant", reference.tenant),
             ("sender_domain", reference.sender_domain))  # fmt: skip
    fields |= {name: text_of(value) for name, value in named if value}
    if recipient:
        fields["domain"] = text_of(recipient.rpartition(b"@")[2]).lower()
    return fields


def text_of(octets: bytes) -> str:
    """For events, which are UTF-8."""
    return octets.decode("utf-8", "replace")


def feedback_source(parsed: Complaint) -> str:
    """Who told it: a provider, or the domain of the report's sender."""
    if parsed.reporter != "other":
        return parsed.reporter
    return parsed.sender.rpartition("@")[2].lower()[:255] or "other"


async def suppress(desk: Desk, reason: Reason, reference: Reference, recipient: bytes, source: str) -> bool:
    """Adds an entry as the configuration has it, on stable storage when it returns; True where it is new. LmdbError,
    OSError, SuppressionError: nothing may be answered for."""
    return await desk.suppression.add_rule(
        reason, recipient, tenant=reference.tenant, sender_domain=reference.sender_domain, source=source
    )


def _spelled(address: str) -> str:
    """The one spelling of an IP address; "" for what is none."""
    try:
        return str(ipaddress.ip_address(address.strip().removeprefix("IPv6:")))
    except ValueError:
        return ""
