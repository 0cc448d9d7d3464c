"""Which message of ours a bounce or complaint is about: only our own references prove that.

    recipient of the bounce (VERP)    bounces+f4x…@news.example          "verp"
    reference field in what came back  X-Fastrelay-Reference: f4x…        "reference"

A reference is sealed (reference.py), so who has one has seen that message. It proves that we sent to the recipient that
it names, or whose hash it has, and to nobody else: a report that has our reference and names another address (of a
forwarder, or an invented one) says nothing about that address. Classic VERP (bounces+user=far.example@…) anybody can
write: it helps to read a bounce, and proves nothing.

Known faults: who was forwarded a message has its reference, and can say that the first recipient bounced. A message
with several recipients has one reference, which names none, so bounces of it are matched by VERP alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fastrelay.config.schema import Config
from fastrelay.config.security import Compose
from fastrelay.feedback.bounce_types import plausible

if TYPE_CHECKING:
    from fastrelay.feedback.reference import Reference, References

How = Literal["reference", "verp"]

OLDEST_DAYS = 180  # a bounce of an older message is none
AHEAD_DAYS = 1  # clocks of hosts that share a key
MOST_TOKENS = 100  # that are tried in one message
_TOKEN = re.compile(rb"[a-z2-7]{29,1001}")  # begins with f, maybe behind letters of a template
_VERP = re.compile(rb"(?:[^+]+\+|[^+-]+-(?=[^-]+=))(.+)=([^=]+)")  # with hyphens nobody knows where the first part ends


@dataclass(frozen=True, slots=True)
class Proof:
    """A reference that came with a message, and where it stood."""

    reference: Reference
    how: How


@dataclass(frozen=True, slots=True)
class Match:
    """The message of ours, and its recipient.

    agrees   the report names that recipient; else it came about that message, and names somebody else (a forwarder's
             address, mostly), so that nobody may be suppressed for it
    at       index of the reported address, -1 where none was reported
    """

    reference: Reference
    recipient: bytes
    how: How
    agrees: bool = True
    at: int = -1


class Matcher:
    """Reads references. `today`: days since 1970, UTC."""

    def __init__(self, references: References, today: Callable[[], int]) -> None:
        self.references = references
        self._today = today

    def read(self, text: bytes | str) -> Reference | None:
        """A reference of ours, of a day that can be; None for anything else."""
        if isinstance(text, bytes):
            text = text.decode("ascii", "replace")
        try:
            found = self.references.read(text.strip())
        except ValueError:
            return None
        return found if found.day <= self._today() + AHEAD_DAYS else None

    def is_old(self, reference: Reference) -> bool:
        """Whether it is too old for a bounce; complaints come late."""
        return reference.day < self._today() - OLDEST_DAYS

    def tokens(self, octets: bytes, most: int = MOST_TOKENS) -> list[Reference]:
        """Every reference of ours in octets (a local part, a subject, the start of a text), `most` tries."""
        found: list[Reference] = []
        for run in _TOKEN.findall(octets.lower()):
            at = run.find(b"f")
            while at >= 0 and len(run) - at >= 29 and most > 0:
                most -= 1
                reference = self.read(run[at:])
                if reference is not None:
                    found.append(reference)
                    break
                at = run.find(b"f", at + 1)
        return found

    def proofs(self, recipients: Iterable[bytes], field: str = "") -> list[Proof]:
        """What a message proves: by whom it came to, and by our field in what it brought back."""
        found: list[Proof] = []
        left = MOST_TOKENS
        for recipient in recipients:
            left -= 1
            if left < 0:
                break
            found += [Proof(one, "verp") for one in self.tokens(recipient.rpartition(b"@")[0], 40)]
        reference = self.read(field) if field else None
        if reference is not None:
            found.append(Proof(reference, "reference"))
        return found

    def match(self, proofs: Sequence[Proof], reported: Sequence[str], hints: Iterable[str] = ()) -> list[Match]:
        """For each message that is proven, whom of `reported` (addresses) it was sent to; each once.

        hints   other addresses of the message (To:, final recipients): by a hash they tell whom we sent to
        """
        matches: dict[tuple[str, bytes], Match] = {}
        hints = list(hints)[:MOST_TOKENS]
        for proof in _fullest_first(proofs):
            found = self._of(proof, reported, hints)
            if found is not None:
                matches.setdefault((found.reference.id, found.recipient.lower()), found)
        return list(matches.values())

    def _of(self, proof: Proof, reported: Sequence[str], hints: Sequence[str]) -> Match | None:
        reference = proof.reference
        for at, address in enumerate(reported):
            octets = address.encode("utf-8", "surrogateescape")
            if octets and self.names(reference, octets):
                return Match(reference, reference.recipient or octets, proof.how, True, at)
        if reference.recipient:
            return Match(reference, reference.recipient, proof.how, False, 0 if len(reported) == 1 else -1)
        for address in hints:
            octets = address.encode("utf-8", "surrogateescape")
            if octets and self.names(reference, octets):
                return Match(reference, octets, proof.how, False, 0 if len(reported) == 1 else -1)
        return None

    def names(self, reference: Reference, recipient: bytes) -> bool:
        """Whether a reference is of a message to this recipient."""
        if reference.recipient:
            return reference.recipient.lower() == recipient.lower()
        return bool(reference.recipient_hash) and self.references.hash_of(recipient) == reference.recipient_hash


def _fullest_first(proofs: Sequence[Proof]) -> list[Proof]:
    """Of the references to one message the one that says most; what VERP proves counts as such all the same."""
    by_verp = {proof.reference.id for proof in proofs if proof.how == "verp"}
    best: dict[str, Proof] = {}
    for proof in proofs:
        one = proof.reference
        kept = best.get(one.id)
        how: How = "verp" if one.id in by_verp else proof.how
        if kept is None or _says(one) > _says(kept.reference):
            best[one.id] = Proof(one, how)
    return list(best.values())


def _says(reference: Reference) -> int:
    return 4 * bool(reference.recipient) + 2 * bool(reference.recipient_hash) + bool(reference.sender_domain)


def classic_verp(mailbox: bytes) -> str:
    """Whom bounces+user=far.example@… stands for; "" where it is no such address. Proves nothing."""
    found = _VERP.fullmatch(mailbox.rpartition(b"@")[0])
    if found is None:
        return ""
    address = b"%b@%b" % (found[1], found[2])
    text = address.decode("utf-8", "replace")
    return text if plausible(text) else ""


def make_matcher(config: Config, state_dir: str, today: Callable[[], int]) -> Matcher:
    """By the key of the configuration, which is made where there is none. KeyFileError."""
    from fastrelay.feedback.reference import KEY_FILE, References, obtain_key, read_key

    path = config.compose.reference_key
    key = read_key(path) if path else obtain_key(os.path.join(state_dir, KEY_FILE))
    return Matcher(References(key), today)


class Purposes:
    """What an address is for, by the templates of `compose`."""

    def __init__(self, compose: Compose) -> None:
        mailto = (compose.list_unsubscribe_mailto or "").removeprefix("mailto:").partition("?")[0]
        self._unsubscribe = _pattern(mailto)
        self._reverse_path = _pattern(compose.reverse_path or "")

    def is_unsubscribe(self, recipients: Iterable[bytes]) -> bool:
        """Whether the mail is for the address in List-Unsubscribe. One that is the reverse-path, too, is for bounces:
        nobody is taken off a list by a bounce."""
        unsubscribe = self._unsubscribe
        if unsubscribe is None:
            return False
        others = self._reverse_path
        return any(unsubscribe.fullmatch(one) and not (others and others.fullmatch(one)) for one in recipients)


def _pattern(template: str) -> re.Pattern[bytes] | None:
    """Of the addresses that a template makes."""
    if "@" not in template:
        return None
    parts = re.split(r"\{[^{}]*\}", template)
    return re.compile(b".+".join(re.escape(part.encode()) for part in parts), re.I | re.S)
