"""Keys for tests of DKIM, made once a run, and a verifier that is not ours."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from fastrelay.config.security import Dkim, DkimKey
from fastrelay.dkim.keys import Keyring
from fastrelay.dkim.sign import Signer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import dkim

Private = RSAPrivateKey | Ed25519PrivateKey


@functools.cache
def rsa_key(bits: int = 2048, number: int = 0) -> RSAPrivateKey:
    """An RSA key; another for each number."""
    return generate_private_key(65537, bits)


@functools.cache
def ed25519_key(number: int = 0) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def pem(private: Private, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes = b"") -> bytes:
    how: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
    return private.private_bytes(Encoding.PEM, form, how)


def key_file(folder: Path, name: str, private: Private) -> str:
    """A file with the key that its owner alone may read."""
    file = folder / name
    file.touch(mode=0o600)
    file.write_bytes(pem(private))
    return str(file)


def signer_for(config: Dkim) -> Signer:
    """A Signer whose keys are all sound."""
    keyring = Keyring(config)
    assert not [problem for problem in keyring.load() if not problem.warning]
    return Signer(keyring, config)


def one_key(folder: Path, private: Private, selector: str = "s1", domain: str = "news.example") -> DkimKey:
    return DkimKey(domain=domain, selector=selector, key=key_file(folder, f"{selector}.{domain[:20]}.pem", private))


def records_of(signer: Signer) -> dict[str, str]:
    """The TXT records of all keys, by name."""
    return {
        f"{slot.config.selector}._domainkey.{slot.config.domain}": slot.key.record
        for slot in signer.keyring.slots
        if slot.key is not None
    }


def from_records(records: dict[str, str]) -> Callable[..., bytes | None]:
    """The DNS as dkimpy wants it."""

    def answer(name: bytes, timeout: float = 5) -> bytes | None:
        text = records.get(name.decode().rstrip("."))
        return None if text is None else text.encode()

    return answer


def verdicts(content: bytes, records: dict[str, str], signatures: int) -> Sequence[bool]:
    """Whether dkimpy verifies each signature of a message, from the topmost on."""
    return [dkim.DKIM(content).verify(at, dnsfunc=from_records(records)) for at in range(signatures)]
