"""The private keys that sign, as files have them now.

What it is: a key costs milliseconds to load, so each is loaded once, and again when its file changes. A key that can't
be used (missing, unreadable, encrypted, too short) is a problem in words: an error at a start, and at run time the
reason why mail waits.

Who can read a key can sign as its domain. So a file that others than its owner may read is a problem at a start; its
group may read it (0640, root and the relay's own group), but not write it. At run time the mode is not asked for.

Keys are the operator's own, so the costly validation of their numbers is left out; instead each key signs a probe, and
its public half verifies it, before it signs mail.

Known faults: that a file changed is seen by its times, size and inode; an edit in place that keeps all of them is not.
"""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from nacl.bindings import crypto_sign

from fastrelay.config.security import Dkim, DkimKey
from fastrelay.errors import FastrelayError

Algorithm = Literal["rsa", "ed25519"]

LEAST_BITS = 1024  # verifiers ignore shorter ones (RFC 8301 section 3.2)
ADVISED_BITS = 2048
MOST_BITS = 4096  # verifiers need not take longer ones
MOST_FILE_BYTES = 65536
FILES_A_LOOK = 200  # files that one look for changes asks for; the next look goes on behind them
PROBE = b"fastrelay signs this to see that a key works"


class NoKey(FastrelayError):
    """Mail has to be signed with a key that can't be used now. The text says which and why.

    domain, selector   of the key
    """

    def __init__(self, domain: str, selector: str, words: str) -> None:
        self.domain = domain
        self.selector = selector
        super().__init__(words)


class UnusableKey(Exception):
    """Why a file gives no key: (what is wrong, what to do)."""

    def __init__(self, problem: str, mend: str) -> None:
        self.problem = problem
        self.mend = mend
        super().__init__(f"{problem}; {mend}")


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """Something about a key: `path` is its place in the configuration, as dkim.keys[0].key."""

    path: str
    problem: str
    mend: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that works. `sign`: octets to signature. `public`: what p= holds in the DNS, before base64."""

    algorithm: Algorithm
    bits: int
    public: bytes
    sign: Callable[[bytes], bytes]

    @property
    def record(self) -> str:
        """The text of its DNS record (RFC 6376 section 3.6.1, RFC 8463 section 4)."""
        return f"v=DKIM1; k={self.algorithm}; p={b64encode(self.public).decode()}"


def read_key(pem: bytes) -> PrivateKey:
    """The key in a PEM file (PKCS #1 or #8). Raises UnusableKey."""
    if b"-----BEGIN" not in pem:
        raise UnusableKey("is not a PEM file", "write the private key in PEM form, as `fastrelay dkim new` does")
    if b"ENCRYPTED" in pem:
        raise UnusableKey(
            "is encrypted, and nobody is there to type its password", "decrypt it: openssl pkey -in FILE -out NEW"
        )
    if b"PRIVATE KEY-----" not in pem:
        raise UnusableKey("has no private key", "name the file of the private key")
    try:
        private = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKey("is damaged, or of a kind that is not known", "make a key: fastrelay dkim new") from None
    if isinstance(private, RSAPrivateKey):
        return _rsa(private)
    if isinstance(private, Ed25519PrivateKey):
        return _ed25519(private)
    raise UnusableKey("is neither RSA nor Ed25519", "make a key: fastrelay dkim new")


def _rsa(private: RSAPrivateKey) -> PrivateKey:
    padding, algorithm, sign_now = PKCS1v15(), SHA256(), private.sign
    if private.key_size < LEAST_BITS:
        raise UnusableKey(
            f"is an RSA key of {private.key_size} bits, and verifiers ignore those below {LEAST_BITS}",
            "make a key of 2048: fastrelay dkim new",
        )
    if private.key_size > MOST_BITS:
        raise UnusableKey(
            f"is an RSA key of {private.key_size} bits, and verifiers need not take more than {MOST_BITS}",
            "make a key of 2048: fastrelay dkim new",
        )

    def sign(octets: bytes) -> bytes:
        return sign_now(octets, padding, algorithm)

    try:
        private.public_key().verify(sign(PROBE), PROBE, padding, algorithm)
    except (InvalidSignature, ValueError):
        raise UnusableKey("is damaged: what it signs does not verify", "make a key: fastrelay dkim new") from None
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PrivateKey("rsa", private.key_size, public, sign)


def _ed25519(private: Ed25519PrivateKey) -> PrivateKey:
    """Signed by libsodium, which takes 60 % of OpenSSL's time (benchmarks/bench_dkim.py)."""
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    secret = private.private_bytes_raw() + public

    def sign(octets: bytes) -> bytes:
        return crypto_sign(sha256(octets).digest(), secret)[:64]  # RFC 8463 section 3: of the hash

    try:
        private.public_key().verify(sign(PROBE), sha256(PROBE).digest())
    except InvalidSignature:
        raise UnusableKey("is damaged: what it signs does not verify", "make a key: fastrelay dkim new") from None
    return PrivateKey("ed25519", 256, public, sign)


Stamp = tuple[int, int, int, int]


class Slot:
    """A key of the configuration: its file as it was when it was last read, and the key, or why there is none."""

    __slots__ = ("config", "key", "mode", "number", "stamp", "trouble")

    def __init__(self, number: int, config: DkimKey) -> None:
        self.number = number
        self.config = config
        self.key: PrivateKey | None = None
        self.trouble: UnusableKey | None = None
        self.stamp: Stamp | None = None
        self.mode = 0

    @property
    def words(self) -> str:
        """Why there is no key, for an operator."""
        one = self.config
        why = self.trouble.problem if self.trouble else "has not been read"
        return f"the key {one.selector}._domainkey.{one.domain} can't be used: {one.key} {why}"

    def changed(self) -> bool:
        """Whether the file is another one than the one that was read."""
        try:
            return _stamp(os.stat(self.config.key)) != self.stamp
        except OSError:
            return self.stamp is not None

    def load(self) -> None:
        """Read the file; `key` or `trouble` says what came of it."""
        self.key = self.trouble = None
        try:
            with open(self.config.key, "rb") as file:
                status = os.fstat(file.fileno())
                self.stamp, self.mode = _stamp(status), stat.S_IMODE(status.st_mode)
                if not stat.S_ISREG(status.st_mode):
                    raise UnusableKey("is not a file", "name the file of the private key")
                self.key = read_key(file.read(MOST_FILE_BYTES))
        except UnusableKey as trouble:
            self.trouble = trouble
        except OSError as error:
            self.stamp = None
            try:
                self.stamp = _stamp(os.stat(self.config.key))
            except OSError:
                pass
            mend = {
                FileNotFoundError: "make one (fastrelay dkim new), or correct the name",
                PermissionError: "let the user that runs fastrelay read it, and nobody else",
                IsADirectoryError: "name the file in it",
            }.get(type(error), "check the file")
            self.trouble = UnusableKey(f"cannot be read ({os.strerror(error.errno or 0)})", mend)


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class Keyring:
    """The keys of a configuration. `generation` grows whenever any of them was read anew."""

    def __init__(self, config: Dkim) -> None:
        self.slots = [Slot(number, one) for number, one in enumerate(config.keys)]
        self.problems: list[KeyProblem] = []
        self.generation = 0
        self._next_look = 0

    def load(self) -> list[KeyProblem]:
        """Read every file; the problems and warnings (also kept in `problems`)."""
        for slot in self.slots:
            slot.load()
        self._judge()
        return self.problems

    def reload_if_changed(self) -> bool:
        """Read the files that changed since they were read; whether there were any. Meant to be called every few
        seconds; one call looks at FILES_A_LOOK of them."""
        changed = False
        for _ in range(min(FILES_A_LOOK, len(self.slots))):
            slot = self.slots[self._next_look]
            self._next_look = (self._next_look + 1) % len(self.slots)
            if slot.changed():
                slot.load()
                changed = True
        if changed:
            self._judge()
        return changed

    @property
    def usable(self) -> int:
        """How many keys can sign now."""
        return sum(slot.key is not None for slot in self.slots)

    def _judge(self) -> None:
        self.generation += 1
        self.problems = []
        for slot in self.slots:
            path = f"dkim.keys[{slot.number}].key"
            if slot.trouble is not None:
                # A key that no longer signs is needed to show its record only.
                warning = not slot.config.sign
                self.problems.append(
                    KeyProblem(path, f"{slot.config.key} {slot.trouble.problem}", slot.trouble.mend, warning)
                )
                continue
            self.problems.extend(_advice(slot, path))


def _advice(slot: Slot, path: str) -> list[KeyProblem]:
    """What is unwise about a key that works, or too open about its file."""
    found = []
    file, key = slot.config.key, slot.key
    if slot.mode & 0o037:
        found.append(
            KeyProblem(
                path,
                f"{file} can be read or written by others (mode {slot.mode:04o}), "
                f"who could sign as {slot.config.domain}",
                f"take it from them: chmod 0600 {file} (0640 if a group of the relay's own reads it)",
            )
        )
    if key is not None and key.algorithm == "rsa" and key.bits < ADVISED_BITS:
        found.append(
            KeyProblem(
                path,
                f"{file} is an RSA key of {key.bits} bits, which some providers no longer trust",
                "rotate to one of 2048: fastrelay dkim new",
                warning=True,
            )
        )
    return found
