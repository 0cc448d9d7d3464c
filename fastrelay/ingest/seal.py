"""What happens to a message between the client's last octet and the spool: fields are added, it is checked, and signed.

The engine calls `seal` where the configuration asks for any of it; otherwise there is no Seal, and accepting costs
what it always did. What comes of it is a part of the record's prefix, sent before the content: the content itself is
never touched.

    DKIM-Signature …      top: covers everything below but Received
    Received: …           the engine's
    Date, List-…          bottom: what was missing
    content               as the client gave it

The order matters: fields are added first, so that the checks see what will be sent and the signature covers it.

Known faults: a large content that began to arrive before signing was switched on, or canonicalization changed, is
refused once (451), since its body was not hashed so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastrelay._core.canon import BodyHash, body_hash, parse_fields
from fastrelay.dkim.keys import NoKey
from fastrelay.dkim.sign import Signer
from fastrelay.ingest.checks import Checks, Seen
from fastrelay.ingest.compose import Composer
from fastrelay.ingest.pending import Pending
from fastrelay.schedule.state import FLAG_UNSIGNED, FLAG_VERP

NOT_HASHED = b"451 4.3.0 The configuration of signing changed while this message arrived; send it again\r\n"
Sealed = tuple[bytes, bytes, int, bytes | None]


class LargeBody:
    """The hash of a large content's body, fed while it arrives. `relaxed`: the canonical form that is hashed."""

    __slots__ = ("digest", "feed", "relaxed")

    def __init__(self, relaxed: bool) -> None:
        one = BodyHash(relaxed)
        self.relaxed = relaxed
        self.feed = one.feed
        self.digest = one.digest


class Seal:
    """For one configuration; a reload makes another. `missing_key`: wait, refuse or unsigned (dkim.missing_key).

    `waited(words)` is told why a message waits for its key.
    """

    def __init__(
        self,
        composer: Composer | None,
        checks: Checks | None,
        signer: Signer | None,
        missing_key: str,
        waited: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._composer = composer
        self._checks = checks
        self._signer = signer
        self._missing_key = missing_key
        self._waited = waited
        self._relaxed = signer is not None and signer.relaxed_body

    @property
    def composer(self) -> Composer | None:
        return self._composer

    @property
    def signer(self) -> Signer | None:
        return self._signer

    def body_hasher(self) -> LargeBody | None:
        """What a large content's body is fed to while it arrives; None: nobody signs."""
        return LargeBody(self._relaxed) if self._signer is not None else None

    def seal(
        self,
        envelope: Any,
        header: bytes,
        content: bytes | None,
        hasher: LargeBody | None,
        mail: tuple[Any, ...],
        msgid: str,
        wall: float,
    ) -> Sealed | bytes:
        """What goes before and behind Received, the flags of the record, and warnings for the event (JSON) or None; or
        a reply that refuses the message.

        `header`: the header block as it will be sent. `content`: all of it, None for a large one, whose body went
        through `hasher`. `mail`: campaign, tenant, pool, class, … as assign.py gives them. `wall`: seconds since 1970.
        """
        fields = parse_fields(header)
        bottom, warnings, flags = b"", None, 0
        composer = self._composer
        if composer is not None:
            bottom = composer.added(fields, envelope.recipients, envelope.reverse_path, mail, msgid, wall)
            if bottom:
                fields = parse_fields(bottom + header)
            if composer.verp and envelope.reverse_path:
                flags = FLAG_VERP
        signer, domain = self._signer, fields.from_domain()
        signed = signer is not None and signer.wants(domain, mail[1])
        if self._checks is not None:
            refusal, names = self._checks.look(Seen(fields, domain, envelope, mail[3], signed))
            if refusal:
                return refusal
            warnings = json.dumps(names).encode() if names else None
        if not signed:
            return b"", bottom, flags, warnings
        if content is not None:
            digest = body_hash(content, len(header), self._relaxed)
        elif hasher is not None and hasher.relaxed == self._relaxed:
            digest = hasher.digest()
        else:
            return NOT_HASHED
        try:
            return signer.sign(fields, digest, domain, mail[1], wall), bottom, flags, warnings  # type: ignore[union-attr]
        except NoKey as error:
            if self._missing_key == "refuse":
                return b"451 4.7.5 There is no key to sign mail of this sender with now, try again later\r\n"
            if self._missing_key == "unsigned":
                return b"", bottom, flags, warnings
            self._waited(str(error))
        block = Pending(digest, self._relaxed, len(header), len(bottom), domain or b"").encode()
        return block, bottom, flags | FLAG_UNSIGNED, warnings
