"""Whether a host would have passed an MTA-STS policy in testing mode, for reports to the domain (RFC 8461 section 5).

Such mail goes out whatever the certificate is, so the handshake does not look at it; here it is looked at afterwards.

Known faults: cryptography judges a little more strictly than OpenSSL does (RFC 5280, and what browsers ask of CAs), so
that a report may name a certificate which enforce mode would take. Where the CAs of the system are in a folder only,
nothing is judged.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fastrelay.tls.dane import load_certificate, matches_name, peer_chain, presented_names

log = logging.getLogger(__name__)


class Pkix:
    """The CAs of a verifying context."""

    def __init__(self, context: ssl.SSLContext) -> None:
        found = []
        for octets in context.get_ca_certs(binary_form=True):
            try:
                found.append(load_certificate(octets))
            except ValueError:
                continue  # an old root that is not DER to the letter
        self._store = Store(found) if found else None

    def judge(self, chain: Sequence[bytes], host: str, wall: float) -> str | None:
        """None if a chain (DER) is valid for a host, else why not, for people."""
        if self._store is None:
            return None
        if not chain:
            return "it shows no certificate"
        try:
            leaf, *others = [load_certificate(octets) for octets in chain]
            when = datetime.fromtimestamp(wall, UTC)
            if not leaf.not_valid_before_utc <= when <= leaf.not_valid_after_utc:
                return f"its certificate is valid until {leaf.not_valid_after_utc:%Y-%m-%d} only"
            if not any(matches_name(pattern, host) for pattern in presented_names(leaf)):
                return f"its certificate is for {', '.join(presented_names(leaf)[:5]) or 'no name'}, not for {host}"
            verifier = PolicyBuilder().store(self._store).time(when).build_server_verifier(x509.DNSName(host))
            verifier.verify(leaf, others)
        except VerificationError as error:
            return f"its certificate is not trusted ({error})"
        except Exception as error:
            return f"its certificate can't be read ({error})"
        return None


class TestingCheck:
    """What is wrong with a host by a policy in testing mode; called with the connection after the handshake."""

    __slots__ = ("_clock", "_host", "_named", "_pkix")
    __test__ = False  # no test class, whatever its name

    def __init__(self, pkix: Pkix, host: str, named: bool, clock: Callable[[], float]) -> None:
        self._pkix = pkix
        self._host = host
        self._named = named
        self._clock = clock

    def __call__(self, connection: ssl.SSLObject) -> str | None:
        if not self._named:
            return f"the MTA-STS policy (testing) does not name {self._host}"
        return self._pkix.judge(peer_chain(connection), self._host, self._clock())
