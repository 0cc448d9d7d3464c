"""Which lines of the event logs the suppression rules read: failures, and deliveries to whom a soft bounce is known.

Nearly all lines are deliveries to somebody who never had a soft bounce, and say nothing to the rules. They are told by
a look at the recipient alone, which takes a quarter of the time that it takes to read them.

`Known` is what decides: the addresses with soft bounces in the store, and those of failures that were read and not yet
counted, since an address is there as soon as a line with its failure was read, before the next line is looked at. An
address too many costs time, one too few would leave soft bounces that a delivery should have cleared; so nothing is
ever taken out but after a walk over the whole store (the sweep of suppress_rules.py), every RENEW_SECONDS at most, and
what was added since the time before stays.

Bound: KNOWN_ADDRESSES. Beyond it, and until the first walk is over, every delivery is read.
Known faults: a slice of a log in which an address is spelled in an unusual way is read whole.
"""

from __future__ import annotations

import re

from fastrelay.feedback.eventfiles import Line, Wanted
from fastrelay.feedback.suppression import SuppressionError, address_key
from fastrelay.feedback.tail import decode

KNOWN_ADDRESSES = 100_000  # some 10 MB
RENEW_SECONDS = 600.0  # what was read is counted long before that passes twice
FAILURES = frozenset({"failed", "expired"})
DELIVERED = "delivered"

_IS_DELIVERED = b'","event":"delivered","time":"'
# As the engine writes it. The recipient is spelled as its key is, but for upper case: no quotes, no address literal.
_RECIPIENT = re.compile(
    rb'","event":"delivered","time":"[^"]*","id":"[^"]*","reverse_path":"[^"\\]*",(?:"mail_from":"[^"\\]*",)?'
    rb'"recipient":"([!#-Z^-~]+)"'
)


class Known:
    """Keys (suppression.address_key) of addresses for which a delivery means something; `all`: it may be anybody."""

    def __init__(self, *, none: bool) -> None:
        self._keys: set[bytes] = set()
        self._added: set[bytes] = set()  # since the keys were made anew
        self._walked: set[bytes] = set()
        self._renewed_at = -RENEW_SECONDS
        self.all = not none

    def add(self, key: bytes) -> None:
        self._added.add(key)
        self._keys.add(key)
        if len(self._keys) > KNOWN_ADDRESSES:
            self._forget()

    def _forget(self) -> None:
        """Too many: until the next walk is over it may be anybody."""
        self._keys, self._added = set(), set()
        self.all = True

    def walked(self, key: bytes) -> None:
        """The walk over the store met an address."""
        if len(self._walked) <= KNOWN_ADDRESSES:
            self._walked.add(key)

    def walk_is_over(self, now: float) -> None:
        """The whole store was met: what is not in it any more goes."""
        walked, self._walked = self._walked, set()
        if now - self._renewed_at < RENEW_SECONDS:
            return
        self._renewed_at = now
        self._keys, self._added = walked | self._added, set()
        self.all = False
        if len(self._keys) > KNOWN_ADDRESSES:
            self._forget()

    def any_of(self, recipients: list[bytes]) -> bool:
        """Whether one of these may be known; they are spelled as _RECIPIENT finds them."""
        together = b"\n".join(recipients).lower()
        # (the key of an encoded domain is another one)
        return b"xn--" in together or not self._keys.isdisjoint(together.split(b"\n"))


class Needed(Wanted):
    """In the place of a reader's choice of lines."""

    def __init__(self, known: Known) -> None:
        super().__init__(FAILURES | {DELIVERED})
        self._failures = Wanted(FAILURES)
        self._known = known

    def lines(self, log: str, octets: bytes, base: int) -> list[Line]:
        failures = self._failures.lines(log, octets, base)
        for line in failures:
            event = decode(line.raw)
            try:
                self._known.add(address_key(event.recipient.encode("utf-8", "surrogateescape") if event else b""))
            except SuppressionError:
                continue  # the rules know nothing of it either
        if not self._known.all:
            found = _RECIPIENT.findall(octets)
            if len(found) == octets.count(_IS_DELIVERED) and not self._known.any_of(found):
                return failures
        return super().lines(log, octets, base)
