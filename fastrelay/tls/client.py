"""TLS towards MX hosts: contexts, resumption of TLS sessions, and what a failure is called (RFC 8460).

uvloop makes the TLS object itself, by `wrap_bio` of the context it is given, so the session to resume is put in there:
the server name carries behind a NUL what else the session is kept under (uvloop hands on nothing but a plain str). A
session belongs to the context it was made with; contexts keep their own, so what was agreed without a look at the
certificate never stands in for a session that must be verified.

A resumed session skips the certificate: a host that has proved its name has done so for the life of its ticket.
Connections with a `check` (DANE) are never resumed, since the chain is not there to be checked.

Known faults: one ticket may be used for several connections, which tells those on the way that they are of one client;
our address does so anyway.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from cryptography import x509

if TYPE_CHECKING:
    from fastrelay.config.security import OutboundTls

SESSIONS_KEPT = 4096  # per context; a session holds a certificate, some 3 KiB
NAMES_SHOWN = 5

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

# Names of X509_V_ERR_… (OpenSSL, x509_vfy.h) by what RFC 8460 section 4.3.1 calls them.
_EXPIRED = frozenset({10, 12})
_MISMATCH = frozenset({62, 64})
_NOT_TRUSTED = frozenset({2, 7, 9, 13, 18, 19, 20, 21, 22, 23, 24, 26, 27, 28, 79})

STARTTLS_MISSING = "starttls-not-supported"
FAILURE = "validation-failure"
_KEY = "\0"


def name_with_key(name: str, address: str, port: int) -> str:
    """A server name ("": none) and where its TLS session is kept, for `ClientContext.wrap_bio` alone."""
    return f"{name}{_KEY}{address}:{port}"


class ClientContext(ssl.SSLContext):
    """A context that remembers the sessions made with it, the newest SESSIONS_KEPT."""

    sessions: OrderedDict[str, ssl.SSLSession]  # by name_with_key

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if isinstance(server_hostname, str) and _KEY in server_hostname:
            session = self.sessions.get(server_hostname)
            server_hostname = server_hostname.partition(_KEY)[0] or None
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def keep(self, name: str, tls: ssl.SSLObject) -> None:
        """Remembers the session of a connection that is over, for the next one under that name.

        Tickets of TLS 1.3 come after the handshake, so it is taken as late as can be.
        """
        session = tls.session if _KEY in name else None
        if session is not None and session.has_ticket:
            self.sessions[name] = session
            self.sessions.move_to_end(name)
            if len(self.sessions) > SESSIONS_KEPT:
                self.sessions.popitem(last=False)

    def forget(self, name: str) -> None:
        """The next connection makes a session of its own."""
        self.sessions.pop(name, None)


class Contexts:
    """The contexts of a configuration, each made when it is needed first: reading the CAs takes milliseconds."""

    def __init__(self, config: OutboundTls) -> None:
        self._config = config
        self._made: dict[str, ClientContext] = {}

    def _context(self, kind: str) -> ClientContext:
        context = self._made.get(kind)
        if context is None:
            context = self._made[kind] = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
            context.sessions = OrderedDict()
            context.minimum_version = _VERSIONS[self._config.min_version]
            if kind == "verified":
                if self._config.ca_file is None:
                    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
                else:
                    context.load_verify_locations(self._config.ca_file)
            else:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if kind == "unverified":
                # Whatever can be had is better than plain, which is what follows a failed handshake (RFC 7435).
                context.set_ciphers("DEFAULT:@SECLEVEL=0")
        return context

    def unverified(self) -> ClientContext:
        """Any certificate."""
        return self._context("unverified")

    def verified(self) -> ClientContext:
        """A certificate for the server name, by a CA of `ca_file` or of the system (RFC 5280, 9525).

        OSError where ca_file can't be read, ssl.SSLError where it holds no certificate.
        """
        return self._context("verified")

    def dane(self) -> ClientContext:
        """Any certificate too: the chain is held against TLSA records afterwards."""
        return self._context("dane")


def classify(error: BaseException) -> tuple[str, str]:
    """An error of a handshake: its RFC 8460 section 4.3 result type, and words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code in _EXPIRED:
            kind = "certificate-expired"
        elif code in _MISMATCH:
            kind = "certificate-host-mismatch"
        else:
            kind = "certificate-not-trusted" if code in _NOT_TRUSTED else FAILURE
        return kind, f"the certificate is refused: {str(error.verify_message).rstrip('.')}"
    if isinstance(error, TimeoutError):
        return FAILURE, "the TLS handshake timed out"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        return FAILURE, f"the TLS handshake failed: {reason}"
    if isinstance(error, OSError):
        return FAILURE, f"the connection broke in the TLS handshake: {error.strerror or error}"
    return FAILURE, f"the TLS handshake failed: {error}"


def describe(tls: ssl.SSLObject) -> dict[str, Any]:
    """What is worth showing of a TLS connection: version, cipher, resumed."""
    cipher = tls.cipher()
    return {"version": tls.version() or "", "cipher": cipher[0] if cipher else "", "resumed": bool(tls.session_reused)}


def describe_certificate(der: bytes) -> str:
    """A host's certificate in a sentence: for which names, by whom, until when."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = [str(name) for name in names.get_values_for_type(x509.DNSName)]
        shown += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    except (x509.ExtensionNotFound, ValueError):
        shown = []
    more = f" and {len(shown) - NAMES_SHOWN} more" if len(shown) > NAMES_SHOWN else ""
    subject = ", ".join(shown[:NAMES_SHOWN]) + more if shown else certificate.subject.rfc4514_string()
    until = certificate.not_valid_after_utc
    return f"certificate for {subject}, by {certificate.issuer.rfc4514_string()}, until {until:%Y-%m-%d}"
