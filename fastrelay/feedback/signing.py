"""Signatures of webhook requests: Standard Webhooks (HMAC) and SendGrid's (ECDSA).

Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; the secret is base64, as `whsec_…`.
SendGrid: the base64 of an ECDSA P-256 signature (SHA-256, DER) over timestamp and body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING

from fastrelay.errors import FastrelayError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

SECRET_PREFIX = "whsec_"
SECRET_BYTES = (24, 64)  # Standard Webhooks, "Signature scheme"


class SecretError(FastrelayError):
    """A secret or key that can't be used, in words that don't show it."""


def read_secret(text: str) -> bytes:
    """The secret in a file's text: `whsec_` (may be left out) and base64. SecretError."""
    word = text.strip().removeprefix(SECRET_PREFIX)
    try:
        secret = base64.b64decode(word + "=" * (-len(word) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise SecretError(f"is not {SECRET_PREFIX} and base64") from None
    least, most = SECRET_BYTES
    if not least <= len(secret) <= most:
        raise SecretError(f"has {len(secret)} octets; {least} to {most} are right")
    return secret


def read_key(pem: bytes) -> EllipticCurvePrivateKey:
    """The EC private key (P-256) in a PEM file. SecretError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SecretError("is no private key in PEM without a passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SecretError(
            "is no EC key of the curve P-256; `openssl ecparam -name prime256v1 -genkey -noout` makes one"
        )
    return key


def public_key_text(key: EllipticCurvePrivateKey) -> str:
    """The public key as applications want it for SendGrid's webhooks: DER in base64."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def standard_webhooks(secret: bytes, identity: str, timestamp: int, body: bytes) -> str:
    """The value of webhook-signature. `timestamp`: s since 1970."""
    signed = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def sendgrid(key: EllipticCurvePrivateKey, timestamp: str, body: bytes) -> str:
    """The value of X-Twilio-Email-Event-Webhook-Signature."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return base64.b64encode(key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
