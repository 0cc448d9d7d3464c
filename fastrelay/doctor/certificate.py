"""Check `certificate`: what clients see at listeners with TLS: names, dates, chain, and the key that belongs to it."""

from __future__ import annotations

import datetime
import ipaddress
import itertools

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from fastrelay.config.schema import Config
from fastrelay.doctor import reasons
from fastrelay.doctor.findings import Finding, Severity, listed
from fastrelay.doctor.look import Look

SOON_DAYS = 14
MAX_FILE_BYTES = 1 << 20


async def check_certificate(look: Look) -> list[Finding]:
    """The certificate of the configuration; none configured: nothing to look at, unless clients log in."""
    config = look.config
    if config.tls.certificate is None:
        if config.auth.users is None or not config.listeners.smtp:
            return []
        found = "no certificate, so clients cannot authenticate (except where auth.without_tls_on_loopback allows it)"
        mend = "get a certificate for the name that clients connect to, and name it in tls.certificate"
        return [_finding("warning", found, mend)]
    try:
        chain = x509.load_pem_x509_certificates(_read(config.tls.certificate))
    except (OSError, ValueError) as error:
        return [_finding("error", f"{config.tls.certificate} cannot be used ({_words(error)})", "name a PEM file")]
    found_all = [*_dates(chain, look.wall), *_names(config, chain[0]), *_chain(chain), *_key(config, chain[0])]
    if any(finding.severity in ("warning", "error") for finding in found_all):
        return found_all
    until = chain[0].not_valid_after_utc
    words = f"{listed(_dns_names(chain[0]))}, until {until:%Y-%m-%d}, {len(chain)} in the chain, key fits"
    return [Finding(check="certificate", subject="listeners", severity="ok", found=words), *found_all]


def _finding(severity: Severity, found: str, mend: str) -> Finding:
    return Finding(
        check="certificate", subject="listeners", severity=severity, found=found, why=reasons.CERTIFICATE, mend=mend
    )


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_FILE_BYTES)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error).split("\n")[0][:100] or "unreadable"


def _dates(chain: list[x509.Certificate], wall: float) -> list[Finding]:
    now = datetime.datetime.fromtimestamp(wall, datetime.UTC)
    found = []
    for at, one in enumerate(chain):
        which = "the certificate" if at == 0 else f"number {at + 1} of the chain"
        days = (one.not_valid_after_utc - now).total_seconds() / 86400
        if days < 0:
            words = f"{which} expired on {one.not_valid_after_utc:%Y-%m-%d}"
            found.append(_finding("error", words, "renew it; the relay reads the new file by itself"))
        elif one.not_valid_before_utc > now:
            words = f"{which} is valid from {one.not_valid_before_utc:%Y-%m-%d} only"
            found.append(_finding("error", words, "check the clock, or use the certificate before it"))
        elif days < SOON_DAYS:
            words = f"{which} expires in {int(days)} days ({one.not_valid_after_utc:%Y-%m-%d})"
            found.append(_finding("warning", words, "renew it, and check why that did not happen by itself"))
    return found


def _dns_names(one: x509.Certificate) -> list[str]:
    try:
        names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]


def _names(config: Config, one: x509.Certificate) -> list[Finding]:
    """The relay's hostname is one of the names, or clients on this host use an address that is."""
    names = _dns_names(one)
    wanted = config.hostname
    above = wanted.partition(".")[2]
    if wanted in names or f"*.{above}" in names:
        return []
    try:
        addresses = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        literal = [str(address) for address in addresses.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        literal = []
    binds = {listener.address[0] for listener in config.listeners.smtp}
    if binds & {str(ipaddress.ip_address(address)) for address in literal}:
        return []
    has = f"it has {listed([*names, *literal])}" if names or literal else "it has none at all"
    words = f"the certificate does not have the name {wanted} ({has})"
    return [_finding("warning", words, f"get one that has {wanted} among its names, or let clients use a name it has")]


def _chain(chain: list[x509.Certificate]) -> list[Finding]:
    """Each certificate is issued by the next one; a lone one that is not self-signed lacks its intermediates."""
    for one, issuer in itertools.pairwise(chain):
        try:
            one.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            words = f"{_subject(one)} is not issued by the next one in the file, {_subject(issuer)}"
            return [_finding("error", words, "write the certificate first, then each issuer behind it")]
    if chain[0].issuer == chain[0].subject:
        words = "the certificate is self-signed, so clients that check it refuse it"
        return [_finding("warning", words, "get one from an authority that the clients know")]
    if len(chain) == 1:
        words = "the file has no intermediate certificate, which clients may lack"
        return [_finding("note", words, "name the file with the full chain, such as fullchain.pem")]
    return []


def _subject(one: x509.Certificate) -> str:
    return one.subject.rfc4514_string() or f"serial {one.serial_number:x}"


def _key(config: Config, one: x509.Certificate) -> list[Finding]:
    path = config.tls.key or config.tls.certificate
    assert path is not None
    try:
        private = load_pem_private_key(_read(path), None)
    except PermissionError:
        found = f"could not tell whether the key fits: {path} cannot be read by this user"
        return [_finding("unknown", found, "run the doctor as the relay's user, or as root")]
    except (OSError, ValueError, TypeError) as error:
        return [
            _finding("error", f"the key in {path} cannot be used ({_words(error)})", "name its PEM file in tls.key")
        ]
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != one.public_key().public_bytes(*form):
        return [
            _finding("error", f"the key in {path} belongs to another certificate", "name the key that was made for it")
        ]
    return []
