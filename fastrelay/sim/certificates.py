"""Certificates for the internet in a box, made when they are needed: one CA, and hosts that have good or bad ones.

    authority = Authority()
    authority.write("/tmp/ca.pem")                    # tls.outbound.ca_file of a relay
    context = authority.server("mx.a.example")        # for a simulated host

Known faults: keys live in memory and, for the moment OpenSSL needs to read them, in a file of mode 0600.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Flaw = Literal["good", "wrong-name", "expired", "self-signed"]
_DAY = timedelta(days=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """A CA and the certificates it gives."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("CA of the internet in a box")
        now = datetime.now(UTC)
        self.certificate = (
            self._builder(self._name, self._name, self._key.public_key(), now - _DAY, now + 3650 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(_key_usage(ca=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @staticmethod
    def _builder(
        subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(begin).not_valid_after(end)

    def pem(self) -> bytes:
        """The CA's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def write(self, path: str) -> str:
        """The CA's certificate into a file; the path."""
        with open(path, "wb") as file:
            file.write(self.pem())
        return path

    def issue(self, name: str, flaw: Flaw = "good") -> bytes:
        """PEM of a key, its certificate and the CA's. `name`: a host name or an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        end = now - _DAY if flaw == "expired" else now + 365 * _DAY
        subject = "another.host.example" if flaw == "wrong-name" else name
        alone = flaw == "self-signed"
        issuer, signer = (_name(subject), key) if alone else (self._name, self._key)
        made = (
            self._builder(_name(subject), issuer, key.public_key(), now - 30 * _DAY, end)
            .add_extension(x509.SubjectAlternativeName([_alternative(subject)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private + made.public_bytes(serialization.Encoding.PEM) + (b"" if alone else self.pem())

    def server(self, name: str, flaw: Flaw = "good") -> ssl.SSLContext:
        """A context of a host that shows such a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        handle, path = tempfile.mkstemp(prefix="fastrelay-sim-")
        try:
            with open(handle, "wb") as file:
                file.write(self.issue(name, flaw))
            context.load_cert_chain(path)
        finally:
            os.unlink(path)
        return context


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
