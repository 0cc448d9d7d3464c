"""Our opaque reference: in a header field, an unsubscribe address or a reverse-path, it tells us which message came
back.

A reference is sealed with AES-SIV (RFC 5297): who has no key can neither read nor make one, and the same content gives
the same text, so that a retry shows no new address. The text is lower-case base32, which survives URLs, local parts and
programs that fold case:

    f  base32( tag of 16 octets, content encrypted )        `f` is the version

    content:  what it has (1 octet), day (2, days since 1970), tag of the spool (length, octets),
              then by what it has: recipient, or 4 octets of its hash; campaign, tenant, sender domain (each with its
              length); last the number in the message id, without leading zeros

A local part has 64 octets (RFC 5321 section 4.5.3.1.1), so `make` takes a limit and leaves away what does not fit, in
this order: the names, the recipient (a hash of it stays), the hash. What always stays, the day and the message id,
makes 45 to 49 characters in a spool of up to four thousand million messages; with the hash it is 51 to 56. A recipient
of 8 octets makes at most 64: it fits where nothing else stands in the local part.

Known faults: the length of a reference tells roughly how long the recipient's address is. A key can't be changed
without losing what older references mean.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from fastrelay.errors import FastrelayError

VERSION = "f"
KEY_OCTETS = 32
KEY_FILE = "reference.key"  # in the state directory
HASH_OCTETS = 4
TAG_OCTETS = 16  # of AES-SIV
LONGEST = 400  # characters; one line of a header field takes it
_CONTEXT = [b"fastrelay reference 1"]
_TEXT = re.compile(r"f[a-z2-7]{28,1000}")
_HAS_RECIPIENT, _HAS_HASH, _HAS_NAMES = 1, 2, 4
_DAYS = 1 << 16


class KeyFileError(FastrelayError):
    """The key of references can't be had; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a reference says; empty: it was left away (or there was none). `day` counts from 1970-01-01, UTC."""

    id: str
    day: int
    recipient: bytes = b""
    recipient_hash: bytes = b""
    campaign: bytes = b""
    tenant: bytes = b""
    sender_domain: bytes = b""


class References:
    """Makes and reads references with one key of 32 octets."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_OCTETS:
            raise ValueError(f"a key has {KEY_OCTETS} octets, not {len(key)}")
        self._cipher = AESSIV(key)
        self._hash_key = hashlib.sha256(b"recipient hash" + key).digest()

    def make(
        self,
        recipient: bytes | None,
        campaign: bytes,
        tenant: bytes,
        sender_domain: bytes,
        day: int,
        id: str,
        limit: int = LONGEST,
    ) -> str:
        """The reference of a message, at most `limit` characters long where that can be.

        `id` is the message id (TAG-hexadecimal). ValueError for one of another form.
        """
        tag, _, number = id.rpartition("-")
        spool, msgid = tag.encode("ascii"), int(number, 16)
        tail = msgid.to_bytes((msgid.bit_length() + 7) // 8, "big")
        room = (limit - 1) * 5 // 8 - TAG_OCTETS - 4 - len(spool) - len(tail)  # octets for all that may be left away
        has, middle = 0, b""
        names = 3 + len(campaign[:255]) + len(tenant[:255]) + len(sender_domain[:255])
        if recipient:
            who = 1 + len(recipient)
            if who <= min(room, 256):
                has, middle = _HAS_RECIPIENT, _sized(recipient)
                room -= who
            elif room >= HASH_OCTETS:
                has, middle = _HAS_HASH, self.hash_of(recipient)
        if names <= room and (has or not recipient) and has != _HAS_HASH:
            has |= _HAS_NAMES
            middle += _sized(campaign) + _sized(tenant) + _sized(sender_domain)
        head = bytes((has, *min(max(day, 0), _DAYS - 1).to_bytes(2, "big"), len(spool)))
        return self._seal(head + spool + middle + tail)

    def _seal(self, content: bytes) -> str:
        return VERSION + base64.b32encode(self._cipher.encrypt(content, _CONTEXT)).decode().rstrip("=").lower()

    def hash_of(self, recipient: bytes) -> bytes:
        """By which a reference without room for the recipient still tells the recipients of a message apart."""
        return hashlib.blake2s(recipient.lower(), digest_size=HASH_OCTETS, key=self._hash_key).digest()

    def read(self, text: str) -> Reference:
        """What a reference of ours says, in whatever case it came back. ValueError for anything else."""
        text = text.lower()
        if _TEXT.fullmatch(text) is None:
            raise ValueError("not a reference of this relay")
        body = text[1:].upper()
        try:
            sealed = base64.b32decode(body + "=" * (-len(body) % 8))
            content = self._cipher.decrypt(sealed, _CONTEXT)
        except (ValueError, InvalidTag):
            raise ValueError("not a reference of this relay, or made with another key") from None
        if self._seal(content) != text:  # bits behind the last octet
            raise ValueError("not a reference of this relay")
        return _opened(content)


def _sized(name: bytes) -> bytes:
    name = name[:255]
    return len(name).to_bytes(1, "big") + name


def _opened(content: bytes) -> Reference:
    """The content was sealed by us, so it has its form."""
    has, at = content[0], 3

    def part() -> bytes:
        nonlocal at
        end = at + 1 + content[at]
        found, at = content[at + 1 : end], end
        return found

    tag = part()
    recipient = part() if has & _HAS_RECIPIENT else b""
    hashed = b""
    if has & _HAS_HASH:
        hashed, at = content[at : at + HASH_OCTETS], at + HASH_OCTETS
    campaign, tenant, sender = (part(), part(), part()) if has & _HAS_NAMES else (b"", b"", b"")
    number = int.from_bytes(content[at:], "big")
    return Reference(
        f"{tag.decode('ascii')}-{number:x}", int.from_bytes(content[1:3], "big"), recipient, hashed, campaign, tenant,
        sender,
    )  # fmt: skip


# -- the key file -----------------------------------------------------------------------------------------------------


def read_key(path: str) -> bytes:
    """The key in a file: 64 hexadecimal digits. KeyFileError, in words."""
    try:
        with open(path, "rb") as file:
            found = file.read(200).strip()
        if len(found) == 2 * KEY_OCTETS:
            return bytes.fromhex(found.decode("ascii"))
    except OSError as error:
        raise KeyFileError(
            f"the key of our references, {path}, can't be read: {os.strerror(error.errno or 0)}"
        ) from error
    except ValueError:
        pass
    raise KeyFileError(
        f"the key of our references, {path}, is not {2 * KEY_OCTETS} hexadecimal digits; restore it from a copy, or "
        "remove it to have a new one made (references in mail that was sent mean nothing then)"
    )


def obtain_key(path: str) -> bytes:
    """The key in a file, which is made where there is none (mode 0600, on stable storage before it is used).

    Several processes may ask at once: all get the same.
    """
    if not os.path.exists(path):
        fresh = f"{path}.{os.getpid()}.new"
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(descriptor, secrets.token_hex(KEY_OCTETS).encode() + b"\n")
                if os.geteuid() == 0:  # whoever the relay becomes later owns the folder
                    owner = os.stat(os.path.dirname(path))
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)  # the first one stays
            os.unlink(fresh)
        except OSError as error:
            raise _unwritten(path, error) from error
    key = read_key(path)
    try:
        _sync_folder(os.path.dirname(path))  # by each: who made it may have died before
    except OSError as error:
        raise _unwritten(path, error) from error
    return key


def _unwritten(path: str, error: OSError) -> KeyFileError:
    return KeyFileError(f"the key of our references, {path}, can't be written: {os.strerror(error.errno or 0)}")


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
