"""New keys, and how their public halves are published (RFC 6376 section 3.6.1, RFC 8463 section 4)."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fastrelay.dkim.keys import Algorithm, PrivateKey, read_key

STRING_OCTETS = 255  # a character-string of a TXT record (RFC 1035 section 3.3.14)
EXPONENT = 65537


def make_key(algorithm: Algorithm, bits: int = 2048) -> tuple[bytes, PrivateKey]:
    """A new key: its PEM file (PKCS #8) and the key. `bits` is for RSA."""
    private = Ed25519PrivateKey.generate() if algorithm == "ed25519" else generate_private_key(EXPONENT, bits)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, read_key(pem)


def write_key(file: str, pem: bytes) -> None:
    """A file of mode 0600 that was not there before, on stable storage. Raises FileExistsError, OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        os.fchmod(descriptor, 0o600)
        out.write(pem)
        out.flush()
        os.fsync(descriptor)


def record_name(selector: str, domain: str) -> str:
    """Where the public half of a key is published."""
    return f"{selector}._domainkey.{domain}"


def strings(text: str) -> list[str]:
    """The character-strings of a TXT record; verifiers join them."""
    return [text[at : at + STRING_OCTETS] for at in range(0, len(text), STRING_OCTETS)]
