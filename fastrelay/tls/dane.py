"""DANE for SMTP (RFC 7671, RFC 7672): TLSA records, and whether a peer's certificate chain satisfies them.

Usages 2 (DANE-TA) and 3 (DANE-EE) count, no others; a record of another kind is unusable, and if all are, TLS is
mandatory without authentication (RFC 7672 section 2.2). With usage 3 the certificate itself is named: its names and
dates say nothing more. With usage 2 a CA in the chain is named; the chain up to it must hold, and the certificate must
be for one of the reference identifiers. Per usage and selector only the strongest digest counts, beside full values
(RFC 7671 section 9).

TLSA records are looked for only where the MX answer and the host's addresses were validated; when the question about
them can't be answered, the host is not used: an attacker who can make it fail would win otherwise (RFC 7672 2.1.1).

Known faults: name constraints and policies of CAs are not looked at (they belong to the public CAs that usage 2 does
without). The next-hop domain is no reference identifier, since a connection serves many domains.
"""

from __future__ import annotations

import hashlib
import ssl
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fastrelay.route.addresses import Addresses, Questions
from fastrelay.route.cache import BoundedCache, Lifetimes
from fastrelay.route.flights import Flights
from fastrelay.route.resolver import Answer

TA, EE = 2, 3
CERTIFICATE, KEY = 0, 1
FULL, SHA256, SHA512 = 0, 1, 2

MAX_CHAIN = 10  # certificates of a peer that are looked at
MAX_LOOKUPS = 20_000

_USAGES = {0: "PKIX-TA", 1: "PKIX-EE", TA: "DANE-TA", EE: "DANE-EE"}
_SELECTORS = {CERTIFICATE: "certificate", KEY: "public key"}
_MATCHINGS = {FULL: "full", SHA256: "SHA-256", SHA512: "SHA-512"}
_LENGTHS = {SHA256: 32, SHA512: 64}


class Tlsa(msgspec.Struct, frozen=True, gc=False):
    """One TLSA record (RFC 6698 section 2.1)."""

    usage: int
    selector: int
    matching: int
    octets: bytes

    @property
    def flaw(self) -> str:
        """Why the record can't be used, for people; "" if it can."""
        if self.usage not in (TA, EE):
            name = _USAGES.get(self.usage, "unknown")
            return f"usage {self.usage} ({name}) means nothing for SMTP (RFC 7672 section 3.1.3)"
        if self.selector not in _SELECTORS:
            return f"selector {self.selector} is unknown"
        if self.matching not in _MATCHINGS:
            return f"matching type {self.matching} is unknown"
        wanted = _LENGTHS.get(self.matching)
        if wanted is not None and len(self.octets) != wanted:
            return f"a digest of {len(self.octets)} octets, where {_MATCHINGS[self.matching]} has {wanted}"
        if self.matching == FULL:
            return _full_flaw(self)
        return ""

    @property
    def text(self) -> str:
        """As in a zone file."""
        return f"{self.usage} {self.selector} {self.matching} {self.octets.hex()}"

    @property
    def meaning(self) -> str:
        """For people."""
        what = _SELECTORS.get(self.selector, f"selector {self.selector}")
        how = _MATCHINGS.get(self.matching, f"matching type {self.matching}")
        if self.usage == EE:
            return f"the server's own {what} ({how}); names and dates do not matter"
        if self.usage == TA:
            return f"the {what} ({how}) of a CA in the server's chain; the certificate must be for the host"
        return f"usage {self.usage} ({_USAGES.get(self.usage, 'unknown')}), {what} ({how})"


def _full_flaw(record: Tlsa) -> str:
    try:
        if record.selector == CERTIFICATE:
            load_certificate(record.octets)
        else:
            load_der_public_key(record.octets)
    except Exception as error:
        return f"a {_SELECTORS[record.selector]} that can't be read ({error})"
    return ""


def parse_tlsa(rdata: bytes) -> Tlsa | None:
    """The record of its data; None if it is cut short."""
    if len(rdata) < 4:
        return None
    return Tlsa(rdata[0], rdata[1], rdata[2], bytes(rdata[3:]))


def strongest(records: Sequence[Tlsa]) -> tuple[Tlsa, ...]:
    """The usable records that count: per usage and selector full values and the strongest digest."""
    usable = [record for record in records if not record.flaw]
    best: dict[tuple[int, int], int] = {}
    for record in usable:
        kind = (record.usage, record.selector)
        best[kind] = max(best.get(kind, 0), record.matching)
    return tuple(one for one in usable if one.matching in (FULL, best[one.usage, one.selector]))


# -- looking up -------------------------------------------------------------------------------------------------------

TlsaState = Literal["insecure", "none", "usable", "unusable", "failed"]


class HostTlsa(msgspec.Struct, frozen=True, gc=False):
    """What a host publishes.

    state       "insecure": nothing here can be believed (no DNSSEC); "none": no records; "unusable": only records that
                can't be used; "failed": nobody knows
    base        the TLSA base domain: where the records were found
    expires_at  in the caller's `now`
    """

    state: TlsaState
    base: str = ""
    records: tuple[Tlsa, ...] = ()
    why: str = ""
    expires_at: float = 0.0


class TlsaBook:
    """Cached look-ups of TLSA records. Concurrent calls for one name share the question."""

    def __init__(
        self,
        resolver: Questions,
        *,
        lifetimes: Lifetimes = Lifetimes(),
        cache_size: int = 100_000,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.resolver = resolver
        self.lifetimes = lifetimes
        self.cache: BoundedCache[HostTlsa] = BoundedCache(cache_size)
        self.flights: Flights[HostTlsa] = Flights(MAX_LOOKUPS)
        self._clock = clock

    async def of_host(self, host: str, port: int, found: Addresses, now: float) -> HostTlsa:
        """The records of an MX host whose addresses are known (RFC 7672 section 2.2.2 and 2.2.3).

        An alias is looked at where it leads first, then under its own name.
        """
        if found.secure:
            bases = [found.alias, host] if found.alias and found.alias != host else [host]
        elif found.alias and found.alias != host:
            # The alias itself may be signed where its target is not; then the host's own name is the base domain.
            alias = await self.resolver.query(host, "CNAME")
            if alias.status == "temporary":
                return self._failed(host, alias.detail, now)
            if not alias.secure:
                return HostTlsa("insecure", host, why=f"{host} is not secured by DNSSEC", expires_at=found.expires_at)
            bases = [host]
        else:
            why = f"the addresses of {host} are not secured by DNSSEC"
            return HostTlsa("insecure", host, why=why, expires_at=found.expires_at)
        until = found.expires_at
        told = HostTlsa("none", host, expires_at=until)
        for base in bases:
            told = await self._at(base, port, now)
            until = min(until, told.expires_at)
            if told.state not in ("none", "insecure"):
                break
        return msgspec.structs.replace(told, expires_at=until)

    async def _at(self, base: str, port: int, now: float) -> HostTlsa:
        name = f"_{port}._tcp.{base}"
        known = self.cache.get(name)
        if known is not None and now < known.expires_at:
            return known
        if self.flights.full(name):
            return HostTlsa("failed", base, why="too many DNS look-ups are under way", expires_at=now + 1.0)
        return await self.flights.join(name, lambda: self._look_up(name, base, now))

    async def _look_up(self, name: str, base: str, now: float) -> HostTlsa:
        answer = await self.resolver.query(name, "TLSA")
        if self._clock is not None:
            now = self._clock()
        told = self._judged(name, base, answer, now)
        self.cache.put(name, told)
        return told

    def _judged(self, name: str, base: str, answer: Answer, now: float) -> HostTlsa:
        if answer.status == "temporary":
            return self._failed(name, answer.detail, now, base)
        if answer.status != "ok":
            return HostTlsa("none", base, expires_at=now + self.lifetimes.negative(answer.ttl))
        until = now + self.lifetimes.positive(answer.ttl)
        records = tuple(record for record in map(parse_tlsa, answer.records) if record is not None)
        if not answer.secure:
            return HostTlsa("insecure", base, records, f"{name} is not secured by DNSSEC", until)
        if any(not record.flaw for record in records):
            return HostTlsa("usable", base, records, "", until)
        flaw = next((record.flaw for record in records), "records that are cut short")
        return HostTlsa("unusable", base, records, flaw, until)

    def _failed(self, name: str, detail: str, now: float, base: str = "") -> HostTlsa:
        why = f"{name} cannot be looked up: {detail}"
        return HostTlsa("failed", base or name, why=why, expires_at=now + self.lifetimes.after_failure(1))


def load_certificate(octets: bytes) -> x509.Certificate:
    """A certificate of its DER. Raises ValueError. What is merely odd about others' certificates is no warning here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_der_x509_certificate(octets)


# -- the peer's chain -------------------------------------------------------------------------------------------------


def peer_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """The certificates (DER) that the peer sent, its own first; empty without any."""
    inner: Any = connection
    if not hasattr(inner, "get_unverified_chain"):  # public from Python 3.13
        inner = getattr(connection, "_sslobj", None)
    chain = inner.get_unverified_chain() if hasattr(inner, "get_unverified_chain") else None
    if chain:
        return [one if isinstance(one, bytes) else one.public_bytes(_ENCODING_DER) for one in chain][:MAX_CHAIN]
    own = connection.getpeercert(True)
    return [own] if own else []


_ENCODING_DER = 2  # _ssl.ENCODING_DER, which has no public name before Python 3.13


@dataclass(frozen=True, slots=True)
class Check:
    """Whether a peer's chain satisfies a host's records; called with the connection after the handshake.

    names  reference identifiers for usage 2
    clock  wall time, seconds
    """

    records: tuple[Tlsa, ...]
    names: tuple[str, ...]
    clock: Callable[[], float]

    def __call__(self, connection: ssl.SSLObject) -> str | None:
        """None if it does, else why not, for people. Never raises for what a peer sent."""
        try:
            chain = peer_chain(connection)
            return judge(chain, self.records, self.names, self.clock())
        except Exception as error:
            return f"its certificate can't be read ({error})"


def judge(chain: Sequence[bytes], records: Sequence[Tlsa], names: Sequence[str], wall: float) -> str | None:
    """None if a chain (DER, the peer's own certificate first) satisfies TLSA records, else why not.

    Raises ValueError and what cryptography raises for certificates that can't be read.
    """
    if not chain:
        return "it shows no certificate"
    records = strongest(records)
    certificates = [load_certificate(octets) for octets in chain[:MAX_CHAIN]]
    if any(_names(record, certificates[0]) for record in records if record.usage == EE):
        return None
    anchors = [record for record in records if record.usage == TA]
    if not anchors:
        return "its certificate is none of those in its TLSA records"
    return _anchored(certificates, anchors, names, datetime.fromtimestamp(wall, UTC))


def _names(record: Tlsa, certificate: x509.Certificate) -> bool:
    """Whether a record is about this certificate."""
    octets = certificate.public_bytes(Encoding.DER) if record.selector == CERTIFICATE else _key_octets(certificate)
    if record.matching == FULL:
        return octets == record.octets
    digest = hashlib.sha256 if record.matching == SHA256 else hashlib.sha512
    return digest(octets).digest() == record.octets


def _key_octets(certificate: x509.Certificate) -> bytes:
    """The DER SubjectPublicKeyInfo."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _anchored(
    chain: list[x509.Certificate], anchors: Sequence[Tlsa], names: Sequence[str], when: datetime
) -> str | None:
    """Usage 2: a CA that a record names vouches for the certificate, which is for one of the names, and valid now."""
    path = [chain[0]]
    rest = chain[1:]
    while True:
        current = path[-1]
        issuer = next((one for one in rest if _issued(current, one, len(path) - 1)), None)
        if issuer is None:
            if not any(_issued_by_record(current, record, len(path) - 1) for record in anchors):
                return "no CA in its chain is named by its TLSA records"
            break
        rest = [one for one in rest if one is not issuer]
        path.append(issuer)
        if any(_names(record, issuer) for record in anchors):
            break
    for certificate in path:
        if not certificate.not_valid_before_utc <= when <= certificate.not_valid_after_utc:
            return f"a certificate of its chain is valid from {_days(certificate)} only"
    if not _for_servers(chain[0]):
        return "its certificate is not for servers (extended key usage)"
    presented = presented_names(chain[0])
    if not any(matches_name(pattern, name) for pattern in presented for name in names):
        shown = ", ".join(presented[:5]) or "no name"
        return f"its certificate is for {shown}, not for {' or '.join(names)}"
    return None


def _days(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"


def _issued(certificate: x509.Certificate, issuer: x509.Certificate, below: int) -> bool:
    """Whether a CA signed a certificate; `below`: how many CAs stand between the CA and the first certificate."""
    if not _is_ca(issuer, below):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _is_ca(certificate: x509.Certificate, below: int) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    if not constraints.ca or (constraints.path_length is not None and constraints.path_length < below):
        return False
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _issued_by_record(certificate: x509.Certificate, record: Tlsa, below: int) -> bool:
    """Whether a CA that a record holds in full, and the peer need not send (RFC 7671 section 5.2.2), signed it."""
    if record.matching != FULL:
        return False
    if record.selector == CERTIFICATE:
        return _issued(certificate, load_certificate(record.octets), below)
    return _signed_with(certificate, load_der_public_key(record.octets))


def _signed_with(certificate: x509.Certificate, key: Any) -> bool:
    """Whether a bare key made a certificate's signature."""
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    parameters: Any = certificate.signature_algorithm_parameters
    try:
        if isinstance(key, rsa.RSAPublicKey):
            hash_algorithm = certificate.signature_hash_algorithm
            if hash_algorithm is None:
                return False
            key.verify(signature, signed, parameters, hash_algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, signed, parameters)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except (InvalidSignature, ValueError, TypeError, AttributeError):
        return False
    return True


def _for_servers(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def presented_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names of a certificate, lower case; its common name where it has none (RFC 7672 section 3.2.3)."""
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    if not names:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [str(one.value) for one in common]
    return [name.lower() for name in names]


def matches_name(pattern: str, name: str) -> bool:
    """Whether a presented name, of which a wildcard may be the whole first label, is about a host (RFC 6125 6.4.3)."""
    pattern, name = pattern.lower().rstrip("."), name.lower().rstrip(".")
    if pattern.startswith("*."):
        first, _, rest = name.partition(".")
        return bool(first) and rest == pattern[2:] and "*" not in rest
    return pattern == name and "*" not in pattern
