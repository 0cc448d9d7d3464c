"""The certificate that clients see, and the TLS that goes with it.

`load` reads certificate and key and says in words what is wrong with them; `fastrelay check` and the start of a relay
use it as well (config/checks.py). `ServerTls` is one worker's: it looks at the files every few seconds and at each
reload. New connections get a new file once it is sound and has not changed between two looks (so that certificate and
key may be replaced one after the other); a broken one is said in the log and as a metric, and the old one stays.

TLS 1.2 or later, with forward secrecy and authenticated encryption only; session tickets as OpenSSL makes them.

Known faults: tickets are sealed with a key of the worker's own, so a client that comes to another worker, or after the
certificate was replaced, makes a full handshake.
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509

from fastrelay.config.security import Tls
from fastrelay.errors import FastrelayError
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # how often the files are looked at
CIPHERS_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"  # those of TLS 1.3 are all sound
SOON_SECONDS = 14 * 86400.0  # before the end, `fastrelay check` warns
SHUTDOWN_SECONDS = 3.0  # for a client to answer our close_notify
RESULTS = ("ok", "alert", "protocol", "timeout", "lost")

Stamp = tuple[tuple[int, int, int], ...]


class CertificateFault(FastrelayError):
    """A certificate or key that can't be used: `key` is the configuration's (tls.certificate or tls.key)."""

    def __init__(self, key: str, problem: str, mend: str) -> None:
        self.key = key
        self.problem = problem
        self.mend = mend
        super().__init__(f"{key}: {problem}; {mend}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was loaded. `expires`: seconds since the epoch."""

    context: ssl.SSLContext
    expires: float


def load(tls: Tls, wall: float) -> Certificate:
    """The context for a configuration that names a certificate. Raises CertificateFault."""
    assert tls.certificate is not None
    leaf = _leaf(tls.certificate)
    since, expires = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    now = datetime.fromtimestamp(wall, UTC)
    if now > expires:
        problem = f"{tls.certificate} has expired, on {expires:%Y-%m-%d %H:%M} UTC"
        raise CertificateFault("tls.certificate", problem, "renew it")
    if now < since:
        problem = f"{tls.certificate} is not valid before {since:%Y-%m-%d %H:%M} UTC"
        raise CertificateFault("tls.certificate", problem, "use another one until then, and look at the clock")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_1_2)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1
    _load_chain(context, tls.certificate, tls.key)
    return Certificate(context, expires.timestamp())


def _read(key: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        problem = f"{path} can't be read ({error.strerror})"
        raise CertificateFault(key, problem, "name a file that the user who runs fastrelay may read") from None


def _leaf(path: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(_read("tls.certificate", path))[0]
    except ValueError:
        problem = f"{path} holds no certificate in PEM"
        raise CertificateFault("tls.certificate", problem, "name the file of the certificate with its chain") from None


def _load_chain(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    where, path = ("tls.key", key) if key else ("tls.certificate", certificate)
    _read(where, path)

    def password() -> str:
        raise CertificateFault(where, f"the key in {path} is encrypted", "store it without a passphrase, mode 0600")

    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"the key in {path} is not that of the certificate in {certificate}"
            mend = "name the key that belongs to it; the certificate itself stands before its chain"
            raise CertificateFault(where, problem, mend) from None
        if error.reason in (None, "NO_START_LINE", "PEM_LIB", "BAD_BASE64_DECODE"):
            problem = f"{path} holds no usable key in PEM"
            raise CertificateFault(where, problem, "name the file of the certificate's key") from None
        problem = f"OpenSSL refuses {certificate} with the key in {path} ({error.reason})"
        raise CertificateFault("tls.certificate", problem, "use a certificate of RSA 2048 or more, or ECDSA") from None
    except OSError as error:
        problem = f"{path} can't be read ({error.strerror})"
        raise CertificateFault(where, problem, "name a file that the user who runs fastrelay may read") from None


class ServerTls:
    """One worker's TLS with clients. `context` is None where no certificate was ever configured."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._tls = Tls()
        self._stamp: Stamp = ()  # of the files that were loaded, or found broken
        self._seen: Stamp = ()  # at the last look
        self._looked_at = float("-inf")
        self.context: ssl.SSLContext | None = None
        self.broken: CertificateFault | None = None

    def configure(self, tls: Tls) -> None:
        """A configuration, at start or reload. Raises CertificateFault while there is no certificate in use."""
        self._tls = tls
        if tls.certificate is not None:
            self._stamp = self._seen = self._now()
            self._load()
            if self.broken is not None and self.context is None:
                raise self.broken

    def look(self, now: float) -> None:
        """Whether the files changed; about once a second."""
        if self._tls.certificate is None or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        before, self._seen = self._seen, self._now()
        if self._seen == before and self._seen != self._stamp:
            self._stamp = self._seen
            self._load()

    def _now(self) -> Stamp:
        """What tells a file from another one."""
        found = []
        for path in (self._tls.certificate, self._tls.key):
            if path is not None:
                try:
                    status = os.stat(path)
                except OSError:
                    found.append((0, 0, 0))
                else:
                    found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)

    def _load(self) -> None:
        meters, before = self._app.meters, self.broken
        try:
            certificate = load(self._tls, self._app.clock.wall())
        except CertificateFault as fault:
            self.broken = fault
            if self.context is not None:
                log.error("the new certificate can't be used, so the one before it stays in use: %s", fault)
        else:
            if self.context is not None or before is not None:
                until = datetime.fromtimestamp(certificate.expires, UTC)
                log.info("the certificate was loaded; it is valid until %s UTC", f"{until:%Y-%m-%d %H:%M}")
            self.broken = None
            self.context = certificate.context
            meters.slab.set(meters.entry(names.TLS_CERTIFICATE_EXPIRY), certificate.expires)
        meters.slab.set(meters.entry(names.TLS_CERTIFICATE_BROKEN), self.broken is not None)


def handshake_result(error: BaseException | None) -> str:
    """The word of the metric for how a handshake went (RESULTS)."""
    if error is None:
        return "ok"
    if isinstance(error, ssl.SSLError):
        return "alert" if "ALERT" in (error.reason or "") else "protocol"
    # uvloop's own end of patience; a client that goes is a reset, or nothing at all.
    return "timeout" if isinstance(error, (ConnectionAbortedError, TimeoutError)) else "lost"
