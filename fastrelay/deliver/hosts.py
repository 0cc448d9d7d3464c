"""Memory of hosts.

An address that could not be used is tried after all others for a while (RFC 5321 section 4.5.4.1). One whose TLS is
broken gets plain connections for a while, where its policy lets it; one that refused BDAT gets DATA.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

Target = TypeVar("Target")

REMEMBERED_HOSTS = 100_000
FIRST_SECONDS = 60.0
LONGEST_SECONDS = 1800.0


class DeadHosts:
    """By address: until when, and how many failures in a row. Bounded; the oldest memory goes first."""

    def __init__(self, most: int = REMEMBERED_HOSTS) -> None:
        self._dead: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._most = most
        self._without_chunking: OrderedDict[str, None] = OrderedDict()
        self._tls_broken: OrderedDict[str, tuple[float, str, str]] = OrderedDict()

    def no_chunking(self, address: str) -> None:
        """This address offers BDAT and then refuses it as unknown: DATA from now on."""
        self._without_chunking[address] = None
        if len(self._without_chunking) > self._most:
            self._without_chunking.popitem(last=False)

    def chunking(self, address: str) -> bool:
        """Whether BDAT may be used with this address."""
        return address not in self._without_chunking

    def tls_failed(self, address: str, until: float, result: str, words: str) -> None:
        """TLS with this address does not work: an RFC 8460 result type and words, remembered until then."""
        self._tls_broken.pop(address, None)
        self._tls_broken[address] = (until, result, words)
        if len(self._tls_broken) > self._most:
            self._tls_broken.popitem(last=False)

    def tls_broken(self, address: str, now: float) -> tuple[str, str] | None:
        """(result type, words) where TLS with this address did not work lately."""
        if not self._tls_broken:
            return None
        until, result, words = self._tls_broken.get(address, (now, "", ""))
        if until > now:
            return result, words
        self._tls_broken.pop(address, None)
        return None

    def failed(self, address: str, now: float) -> None:
        failures = self._dead.pop(address, (0.0, 0))[1] + 1
        self._dead[address] = (now + min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(failures - 1, 16)), failures)
        if len(self._dead) > self._most:
            self._dead.popitem(last=False)

    def succeeded(self, address: str) -> None:
        if self._dead:
            self._dead.pop(address, None)

    def is_dead(self, address: str, now: float) -> bool:
        return bool(self._dead) and self._dead.get(address, (0.0, 0))[0] > now

    def in_order(self, targets: list[Target], now: float) -> list[Target]:
        """The order to try: those not known to be dead first, else as given."""
        if not self._dead:
            return targets
        return sorted(targets, key=lambda target: self.is_dead(target.address, now))  # type: ignore[attr-defined]
