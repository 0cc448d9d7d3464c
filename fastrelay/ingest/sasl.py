"""SASL mechanisms of the server's side as machines without sockets: PLAIN, LOGIN, CRAM-MD5, SCRAM-SHA-256.

Each is `start(octets | None)` with the client's initial response, then `step(octets)` for each response (both decoded
from base64 by the SMTP machine). What comes back is one of

    Challenge   to be sent (334)
    Password    a name and a password to be compared with a hash, which takes time: the caller does it
    Proven      the client knows the password of `name`; `last`, if any, is a last challenge, answered by nothing
    Wrong       it does not, or there is no such user: nobody can tell which
    Malformed   no message of this mechanism

PLAIN is RFC 4616, CRAM-MD5 RFC 2195, SCRAM RFC 5802 and 7677, LOGIN draft-murchison-sasl-login. A user who does not
exist is given made-up keys by the caller, so that both cost and look the same. An authorization identity that is not
the user is refused. No channel binding: the flags `n` and `y` are right (we offer no -PLUS), `p` is malformed.

No password and no key is ever part of a repr. Known faults: none.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import stringprep
import unicodedata
from collections.abc import Callable
from typing import Protocol

NAME_OCTETS = 255  # of a user's name on the wire
PASSWORD_OCTETS = 1024
NONCE_OCTETS = 512


class Challenge:
    """Octets for the client."""

    __slots__ = ("octets",)

    def __init__(self, octets: bytes) -> None:
        self.octets = octets


class Password:
    """What the client says its password is."""

    __slots__ = ("name", "password")

    def __init__(self, name: str, password: str) -> None:
        self.name = name
        self.password = password

    def __repr__(self) -> str:
        return f"Password({self.name!r}, …)"


class Proven:
    """The client knows the password."""

    __slots__ = ("last", "name")

    def __init__(self, name: str, last: bytes | None = None) -> None:
        self.name = name
        self.last = last


class Wrong:
    """The client does not know the password, or wants to act for somebody else."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Malformed:
    """The client does not speak the mechanism; `why` in words, without what it said."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


Said = Challenge | Password | Proven | Wrong | Malformed


class Mechanism(Protocol):
    """One authentication exchange."""

    def start(self, octets: bytes | None) -> Said: ...

    def step(self, octets: bytes) -> Said: ...


class ScramKeys:
    """What the server stores of a password (RFC 5802 section 3)."""

    __slots__ = ("iterations", "salt", "server_key", "stored_key")

    def __init__(self, salt: bytes, iterations: int, stored_key: bytes, server_key: bytes) -> None:
        self.salt = salt
        self.iterations = iterations
        self.stored_key = stored_key
        self.server_key = server_key


def scram_keys(password: str, salt: bytes, iterations: int) -> ScramKeys:
    """The keys of a prepared password (saslprep)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = _hmac(salted, b"Client Key")
    return ScramKeys(salt, iterations, hashlib.sha256(client_key).digest(), _hmac(salted, b"Server Key"))


def _hmac(key: bytes, octets: bytes) -> bytes:
    return hmac.digest(key, octets, "sha256")


# -- the mechanisms ---------------------------------------------------------------------------------------------------


class Plain:
    """RFC 4616: [authzid] NUL authcid NUL passwd."""

    def start(self, octets: bytes | None) -> Said:
        return Challenge(b"") if octets is None else self.step(octets)

    def step(self, octets: bytes) -> Said:
        parts = octets.split(b"\0")
        if len(parts) != 3:
            return Malformed("PLAIN is authzid NUL authcid NUL password")
        return _password(parts[1], parts[2], parts[0])


class Login:
    """The name and the password, one after the other; an initial response is the name."""

    def __init__(self) -> None:
        self._name: bytes | None = None

    def start(self, octets: bytes | None) -> Said:
        return Challenge(b"Username:") if octets is None else self.step(octets)

    def step(self, octets: bytes) -> Said:
        if self._name is None:
            self._name = octets
            return Challenge(b"Password:")
        return _password(self._name, octets)


def _password(name: bytes, password: bytes, authorized: bytes = b"") -> Said:
    if not 0 < len(name) <= NAME_OCTETS or len(password) > PASSWORD_OCTETS or len(authorized) > NAME_OCTETS:
        return Malformed("a name or password is empty or too long")
    try:
        user = prepared(name)
        secret = prepared(password)
        acting_for = prepared(authorized) if authorized else user
    except ValueError:
        return Malformed("a name or password is no text (RFC 4013)")
    return Password(user, secret) if acting_for == user and secret else Wrong(user)


class CramMd5:
    """RFC 2195: name SP HMAC-MD5 of the challenge under the password, in hexadecimal.

    secret_of   the password of a user; made up for one who has none
    challenge   never the same twice, in angle brackets
    """

    _ANSWER = re.compile(rb"([^\0]+) ([0-9a-fA-F]{32})", re.DOTALL)

    def __init__(self, secret_of: Callable[[str], bytes], challenge: bytes) -> None:
        self._secret_of = secret_of
        self._challenge = challenge

    def start(self, octets: bytes | None) -> Said:
        if octets is not None:
            return Malformed("CRAM-MD5 has no initial response")
        return Challenge(self._challenge)

    def step(self, octets: bytes) -> Said:
        match = self._ANSWER.fullmatch(octets)
        if match is None or len(match[1]) > NAME_OCTETS:
            return Malformed("the answer to CRAM-MD5 is a name, a space and 32 hexadecimal digits")
        try:
            name = prepared(match[1])
        except ValueError:
            return Malformed("a name is no text (RFC 4013)")
        digest = hmac.digest(self._secret_of(name), self._challenge, "md5")
        same = hmac.compare_digest(digest, binascii.unhexlify(match[2]))
        return Proven(name) if same else Wrong(name)


class ScramSha256:
    """RFC 5802 with SHA-256 (RFC 7677), without channel binding.

    keys_of   the keys of a user; made up, and the same each time, for one who has none
    nonce     the server's part, never the same twice, printable without a comma
    """

    # gs2-header (flag, authzid), then client-first-message-bare: name, nonce, extensions (ignored)
    _FIRST = re.compile(
        rb"((?P<flag>n|y|p=[A-Za-z0-9.-]+),(?:a=(?P<acting>[^,\0]+))?,)"
        rb"(?P<bare>n=(?P<name>[^,\0]+),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,\0]+)*)",
        re.DOTALL,
    )
    _FINAL = re.compile(
        rb"(?P<unproven>c=(?P<binding>[A-Za-z0-9+/=]+),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,\0]+)*)"
        rb",p=(?P<proof>[A-Za-z0-9+/=]+)",
        re.DOTALL,
    )

    def __init__(self, keys_of: Callable[[str], ScramKeys], nonce: bytes) -> None:
        self._keys_of = keys_of
        self._nonce = nonce
        self._keys: ScramKeys | None = None
        self._name = ""
        self._acts_for_other = False
        self._binding = b""
        self._signed = b""

    def start(self, octets: bytes | None) -> Said:
        return Challenge(b"") if octets is None else self._first(octets)

    def step(self, octets: bytes) -> Said:
        return self._first(octets) if self._keys is None else self._final(octets, self._keys)

    def _first(self, octets: bytes) -> Said:
        match = self._FIRST.fullmatch(octets)
        if match is None or len(match["name"]) > NAME_OCTETS or len(match["nonce"]) > NONCE_OCTETS:
            return Malformed("no client-first-message of SCRAM")
        if match["flag"].startswith(b"p"):
            return Malformed("channel binding is not offered")
        try:
            self._name = prepared(_saslname(match["name"]))
            acting = match["acting"]
            self._acts_for_other = acting is not None and prepared(_saslname(acting)) != self._name
        except ValueError:
            return Malformed("a name is no text (RFC 4013, RFC 5802)")
        self._keys = keys = self._keys_of(self._name)
        self._nonce = match["nonce"] + self._nonce
        self._binding = base64.b64encode(match[1])
        said = b"r=%b,s=%b,i=%d" % (self._nonce, base64.b64encode(keys.salt), keys.iterations)
        self._signed = match["bare"] + b"," + said + b","
        return Challenge(said)

    def _final(self, octets: bytes, keys: ScramKeys) -> Said:
        match = self._FINAL.fullmatch(octets)
        if match is None or match["nonce"] != self._nonce or match["binding"] != self._binding:
            return Malformed("no client-final-message of SCRAM, or not to what was said before")
        try:
            proof = base64.b64decode(match["proof"], validate=True)
        except binascii.Error:
            return Malformed("the proof is not base64")
        if len(proof) != 32:
            return Malformed("the proof is not of SHA-256")
        signed = self._signed + match["unproven"]
        mask = _hmac(keys.stored_key, signed)
        client_key = bytes(a ^ b for a, b in zip(proof, mask, strict=True))
        same = hmac.compare_digest(hashlib.sha256(client_key).digest(), keys.stored_key)
        if not same or self._acts_for_other:
            return Wrong(self._name)
        return Proven(self._name, b"v=" + base64.b64encode(_hmac(keys.server_key, signed)))


def _saslname(octets: bytes) -> bytes:
    """=2C and =3D are a comma and an equals sign; ValueError for any other use of `=`."""
    if b"=" not in octets:
        return octets
    if re.search(rb"=(?!2C|3D)", octets):
        raise ValueError("an equals sign that escapes nothing")
    return octets.replace(b"=2C", b",").replace(b"=3D", b"=")


# -- SASLprep ---------------------------------------------------------------------------------------------------------

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepared(octets: bytes) -> str:
    """A name or password off the wire, prepared to be compared. Raises ValueError (also for what is not UTF-8)."""
    return saslprep(octets.decode("utf-8"), stored=False)


def saslprep(text: str, stored: bool = True) -> str:
    """RFC 4013. `stored`: as it is kept in a file, so without code points that Unicode 3.2 did not have; those that a
    client asks with may have them. Raises ValueError, without the text in its words: it may be a password."""
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    folded = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for letter in folded:
        if any(table(letter) for table in _PROHIBITED):
            raise ValueError(f"the character U+{ord(letter):04X} may not be in it (RFC 4013)")
        if stored and stringprep.in_table_a1(letter):
            raise ValueError(f"the character U+{ord(letter):04X} is newer than RFC 4013 knows")
    if any(map(stringprep.in_table_d1, folded)):
        ends = stringprep.in_table_d1(folded[0]) and stringprep.in_table_d1(folded[-1])
        if not ends or any(map(stringprep.in_table_d2, folded)):
            raise ValueError("it mixes scripts of both directions (RFC 3454 section 6)")
    return folded
