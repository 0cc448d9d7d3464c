"""The users file: who may authenticate, what is stored of a password, and what a user may do.

One user a line, as JSON; lines that begin with # are comments. `fastrelay user` writes it, people may edit it. A
running relay looks every few seconds whether the file is another (and at SIGHUP); one that is broken changes nothing.

    {"made_up_salts": "…"}                      a random key, from which users who do not exist get their SCRAM salts
    {"name": "listmonk",
     "scrypt": "$scrypt$ln=15,r=8,p=1$SALT$HASH",                    for PLAIN and LOGIN
     "scram_sha_256": "SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER", for SCRAM-SHA-256 (as PostgreSQL writes it)
     "cram_md5": "the password itself",                              for CRAM-MD5, which can't do with less
     "mail": {"pool": …, "campaign": …, "tenant": …, "priority": …},
     "senders": ["news.example", "*.news.example", "info@shop.example", "bounce-*@shop.example"],
     "rate": "3000/h burst 50", "connections": 10, "recipients_per_day": 100000,
     "disabled": false, "created": "2026-11-23T09:05:00Z", "note": "…"}

`senders` bound both the reverse-path and the From field: who may send as somebody else would be signed as somebody
else. A name is compared as written, capitals and all.

Writing is atomic (a new file, synced, renamed), keeps all other lines as they are, and holds a lock on the folder
against a second writer. Known faults: none.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fastrelay.config.forms import TEXTS
from fastrelay.config.sending import Assignment
from fastrelay.errors import ConfigError, ConfigProblem
from fastrelay.ingest.sasl import ScramKeys, saslprep, scram_keys
from fastrelay.ingest.senders import Senders
from fastrelay.limits.rate import Rate, parse_rate

MAX_FILE_BYTES = 16 * 2**20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}")
SHORTEST_PASSWORD = 8

# 32 MiB of memory and about a tenth of a second. More would not help: what SCRAM needs stored is the weaker of the two.
SCRYPT_LN, SCRYPT_R, SCRYPT_P = 15, 8, 1
SCRYPT_MOST_BYTES = 256 * 2**20
SCRAM_ITERATIONS = 100_000  # computed by the client, at each login
FEWEST_ITERATIONS = 4096  # RFC 7677 section 4
MOST_ITERATIONS = 10_000_000

HEADER = """\
# Users of fastrelay, one a line, as JSON; `fastrelay user` writes them, and people may. Keep it readable by the relay
# alone (mode 0600). "scrypt" and "scram_sha_256" are made of the password and do not give it away. "cram_md5" is
# THE PASSWORD ITSELF, in the clear: CRAM-MD5 can't do with less, so only users who need it should have it.
"""

Number = Annotated[int, Meta(ge=1, le=10**9)]


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of the file, as written."""

    name: str
    scrypt: str | None = None
    scram_sha_256: str | None = None
    cram_md5: str | None = None
    mail: Assignment = Assignment()
    senders: list[str] = []
    rate: str | None = None
    connections: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    recipients_per_day: Number | None = None
    disabled: bool = False
    created: str = ""
    note: Annotated[str, Meta(max_length=500)] = ""

    def __repr__(self) -> str:
        return f"User({self.name!r})"  # what is stored of a password is nobody's business

    def public(self) -> dict[str, Any]:
        """What may be shown of it."""
        shown: dict[str, Any] = {**EMPTY, **msgspec.to_builtins(self)}
        for secret, _ in SECRETS:
            shown.pop(secret, None)
        shown["mechanisms"] = [name for kept, names in SECRETS if getattr(self, kept) for name in names]
        return shown


SECRETS = (("scram_sha_256", ("SCRAM-SHA-256",)), ("scrypt", ("PLAIN", "LOGIN")), ("cram_md5", ("CRAM-MD5",)))
EMPTY: dict[str, Any] = {
    "name": "", "mail": {}, "senders": [], "rate": None, "connections": None, "recipients_per_day": None,
    "disabled": False, "created": "", "note": "",
}  # fmt: skip


class Hash:
    """A scrypt hash with its parameters."""

    __slots__ = ("digest", "ln", "p", "r", "salt")

    def __init__(self, ln: int, r: int, p: int, salt: bytes, digest: bytes) -> None:
        self.ln, self.r, self.p = ln, r, p
        self.salt = salt
        self.digest = digest

    @property
    def cost(self) -> tuple[int, int, int]:
        return self.ln, self.r, self.p

    def fits(self, password: str) -> bool:
        """Whether the password is this one. Takes its time, without the GIL."""
        made = scrypt(password, self.salt, self.ln, self.r, self.p, len(self.digest))
        return hmac.compare_digest(made, self.digest)


def scrypt(password: str, salt: bytes, ln: int, r: int, p: int, length: int = 32) -> bytes:
    room = 128 * r * ((1 << ln) + p + 2) + 2**20
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << ln, r=r, p=p, maxmem=room, dklen=length)


class Account:
    """A user as the relay needs one; made once for each line."""

    __slots__ = ("cram_md5", "hash", "mail", "name", "rate", "scram", "senders", "user")

    def __init__(self, user: User) -> None:
        """Raises ValueError, "key: problem; mend"."""
        self.user = user
        self.name = user.name.encode()
        with _at("name"):
            check_name(user.name)
        with _at("scrypt"):
            self.hash = read_hash(user.scrypt) if user.scrypt else None
        with _at("scram_sha_256"):
            self.scram = read_scram(user.scram_sha_256) if user.scram_sha_256 else None
        self.cram_md5 = user.cram_md5.encode() if user.cram_md5 else None
        with _at("mail"):
            self.mail = checked_assignment(user.mail)
        with _at("senders"):
            self.senders = Senders(user.senders) if user.senders else None
        with _at("rate"):
            self.rate: Rate | None = parse_rate(user.rate) if user.rate is not None else None

    def __repr__(self) -> str:
        return f"Account({self.user.name!r})"

    @property
    def secrets(self) -> tuple[str | None, ...]:
        """What is stored of the password: who authenticated with another one is not this user any more."""
        return self.user.scrypt, self.user.scram_sha_256, self.user.cram_md5


@contextlib.contextmanager
def _at(key: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def check_name(name: str) -> str:
    """A user's name; ValueError otherwise."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a user's name; use up to 128 letters, digits and . _ - + @")
    return name


def checked_assignment(mail: Assignment) -> Assignment:
    """The assignment in its normal form. Whether the pool exists is for the configuration to say."""
    forms = {"pool": "name", "campaign": "label", "tenant": "label"}
    given = {key: getattr(mail, key) for key in forms}
    texts: dict[str, Any] = {
        key: None if text is None else TEXTS[forms[key]](text) for key, text in given.items()
    }
    return Assignment(priority=mail.priority, bounces=mail.bounces, **texts)


# -- what is stored of a password -------------------------------------------------------------------------------------

_HASH = re.compile(r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,4}),p=([0-9]{1,4})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
_SCRAM = re.compile(r"SCRAM-SHA-256\$([0-9]{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


def _encode(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("is not base64; make it anew with fastrelay user passwd") from None


def read_hash(text: str) -> Hash:
    """A scrypt hash as the file has it. Raises ValueError."""
    match = _HASH.fullmatch(text)
    if match is None:
        raise ValueError("is not $scrypt$ln=…,r=…,p=…$SALT$HASH; make it anew with fastrelay user passwd")
    ln, r, p = (int(number) for number in match.groups()[:3])
    read = Hash(ln, r, p, _decode(match[4]), _decode(match[5]))
    if not (1 <= ln <= 24 and 1 <= r <= 64 and 1 <= p <= 64 and 128 * r * (1 << ln) <= SCRYPT_MOST_BYTES):
        raise ValueError("has parameters that would take too much memory or time; make it anew")
    if not (8 <= len(read.salt) <= 64 and 16 <= len(read.digest) <= 64):
        raise ValueError("has a salt or hash of a strange length; make it anew with fastrelay user passwd")
    return read


def read_scram(text: str) -> ScramKeys:
    """SCRAM keys as the file has them. Raises ValueError."""
    match = _SCRAM.fullmatch(text)
    if match is None:
        raise ValueError("is not SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER; make it anew with fastrelay user passwd")
    keys = ScramKeys(_decode(match[2]), int(match[1]), _decode(match[3]), _decode(match[4]))
    if not FEWEST_ITERATIONS <= keys.iterations <= MOST_ITERATIONS:
        raise ValueError(f"has {keys.iterations} iterations; {FEWEST_ITERATIONS} to {MOST_ITERATIONS} are allowed")
    if not (8 <= len(keys.salt) <= 64 and len(keys.stored_key) == len(keys.server_key) == 32):
        raise ValueError("has a salt or key of a strange length; make it anew with fastrelay user passwd")
    return keys


def secrets_of(password: str, cram_md5: bool) -> dict[str, str | None]:
    """What is stored of a password. Raises ValueError, without the password in its words."""
    if len(password) < SHORTEST_PASSWORD:
        raise ValueError(f"the password is shorter than {SHORTEST_PASSWORD} characters; --generate makes a good one")
    try:
        ready = saslprep(password)
    except ValueError as error:
        raise ValueError(f"the password can't be used: {error}") from None
    if len(ready.encode()) > 512:
        raise ValueError("the password is longer than 512 octets")
    salt = secrets.token_bytes(16)
    digest = scrypt(ready, salt, SCRYPT_LN, SCRYPT_R, SCRYPT_P)
    keys = scram_keys(ready, secrets.token_bytes(16), SCRAM_ITERATIONS)
    stored, server = _encode(keys.stored_key), _encode(keys.server_key)
    return {
        "scrypt": f"$scrypt$ln={SCRYPT_LN},r={SCRYPT_R},p={SCRYPT_P}${_encode(salt)}${_encode(digest)}",
        "scram_sha_256": f"SCRAM-SHA-256${keys.iterations}:{_encode(keys.salt)}${stored}:{server}",
        "cram_md5": ready if cram_md5 else None,
    }


def generated_password() -> str:
    """A password nobody guesses (120 bits), easy to copy."""
    return base64.b32encode(secrets.token_bytes(15)).decode("ascii").lower()


# -- reading ----------------------------------------------------------------------------------------------------------


class Users:
    """The users of one state of the file."""

    def __init__(
        self, accounts: dict[str, Account], made_up_key: bytes, by_line: dict[str, Account] | None = None
    ) -> None:
        self.accounts = accounts
        self.by_line = by_line or {}  # what was made of which line
        self._key = made_up_key
        self.with_cram_md5 = any(one.cram_md5 is not None for one in accounts.values())
        self.with_scram = any(one.scram is not None for one in accounts.values())
        costs = Counter(one.hash.cost for one in accounts.values() if one.hash is not None)
        rounds = Counter(one.scram.iterations for one in accounts.values() if one.scram is not None)
        self._cost = costs.most_common(1)[0][0] if costs else (SCRYPT_LN, SCRYPT_R, SCRYPT_P)
        self._iterations = rounds.most_common(1)[0][0] if rounds else SCRAM_ITERATIONS
        self._nobody = Hash(*self._cost, salt=self._made_up("scrypt", "")[:16], digest=bytes(32))

    def _made_up(self, what: str, name: str) -> bytes:
        return hmac.digest(self._key, f"{what}\0{name}".encode(), "sha256")

    def hash_of(self, name: str) -> tuple[Hash, bool]:
        """What a password is compared with, and whether it may fit: one that never does costs the same."""
        account = self.accounts.get(name)
        if account is None or account.hash is None:
            return self._nobody, False
        return account.hash, True

    def scram_of(self, name: str) -> ScramKeys:
        """The keys of a user, or such that no proof fits: the same salt each time, as if there were one."""
        account = self.accounts.get(name)
        if account is not None and account.scram is not None:
            return account.scram
        made_up = self._made_up("stored", name)
        return ScramKeys(self._made_up("salt", name)[:16], self._iterations, made_up, made_up)

    def cram_md5_of(self, name: str) -> bytes:
        """The password of a user, or one that nobody knows."""
        account = self.accounts.get(name)
        return self._made_up("cram", name) if account is None or account.cram_md5 is None else account.cram_md5


NOBODY = Users({}, secrets.token_bytes(32))


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    made_up_salts: str


def read_lines(path: str) -> list[str]:
    """The lines of the file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            octets = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        mend = (
            "make it with fastrelay user add"
            if isinstance(error, FileNotFoundError)
            else "let the user that runs fastrelay read it"
        )
        problem = f"cannot be read ({os.strerror(error.errno or 0)})"
        raise ConfigError([ConfigProblem(path, 0, "", problem, mend)]) from None
    if len(octets) > MAX_FILE_BYTES:
        problem = f"is larger than {MAX_FILE_BYTES // 2**20} MiB"
        raise ConfigError([ConfigProblem(path, 0, "", problem, "check that this is the users file")])
    try:
        lines = octets.decode("utf-8-sig").split("\n")  # (splitlines knows ends that JSON does not escape)
    except UnicodeDecodeError as error:
        line = octets[: error.start].count(b"\n") + 1
        raise ConfigError([ConfigProblem(path, line, "", "is not UTF-8 text", "save it as UTF-8")]) from None
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def read_users(path: str, before: Users = NOBODY) -> Users:
    """The users of a file. Raises ConfigError with all that is wrong in it."""
    return parse_users(read_lines(path), path, before)


def parse_users(lines: list[str], path: str, before: Users = NOBODY) -> Users:
    """The users of the lines of a file. Raises ConfigError. No words of it have a secret in them.

    `before`: an earlier state; lines that it had are not read again, as a change is mostly of one line among many.
    """
    accounts: dict[str, Account] = {}
    by_line: dict[str, Account] = {}
    places: dict[str, int] = {}
    problems: list[ConfigProblem] = []
    key = b""
    for number, line in enumerate(lines, 1):
        if not is_entry(line):
            continue
        account = before.by_line.get(line)
        try:
            if account is None:
                entry = parse_line(line)
                if isinstance(entry, _Key):
                    key = _decode(entry.made_up_salts)
                    continue
                account = Account(entry)
            name = account.user.name
            if name in accounts:
                raise ValueError(f"{name!r} is also in line {places[name]}; keep one of them")
        except ValueError as error:
            problem, _, mend = str(error).partition("; ")
            problems.append(ConfigProblem(path, number, "", problem, mend))
            continue
        accounts[name] = by_line[line] = account
        places[name] = number
    if problems:
        raise ConfigError(problems)
    if not key:  # a file that people wrote: stable as long as its users are
        stored = "\n".join(one.user.scram_sha_256 or one.user.scrypt or "" for one in accounts.values())
        key = hashlib.sha256(b"fastrelay made-up salts\0" + stored.encode()).digest()
    return Users(accounts, key, by_line)


def is_entry(line: str) -> bool:
    """Whether a line is neither a comment nor empty."""
    folded = line.strip()
    return bool(folded) and not folded.startswith("#")


def parse_line(line: str) -> User | _Key:
    """A line of the file. Raises ValueError, "problem; mend", which quotes nothing of the line."""
    try:
        raw = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        raise ValueError("is not JSON; mend it, or remove the user, who may be added again") from None
    try:
        if isinstance(raw, dict) and "made_up_salts" in raw:
            return msgspec.convert(raw, _Key)
        return msgspec.convert(raw, User)
    except msgspec.ValidationError as error:
        words = re.sub(r" - at `\$\.?([^`]*)`", r" at \1", str(error))
        raise ValueError(f"{words}; see the help of fastrelay user for what a user has") from None


def mode_problem(path: str) -> str | None:
    """What is wrong with who may read the file, in words; None: nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"has mode {stat.S_IMODE(found.st_mode):04o}, so others than its owner may read or change it"
    return None


class UsersFile:
    """The file as a process knows it: `current` is its last good state."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.current: Users = NOBODY
        self.error: ConfigError | None = None  # what is wrong with the file now
        self._seen: tuple[int, ...] | None = None

    def reload_if_changed(self) -> bool:
        """Reads the file if it is another than at the last look; whether `current` is new."""
        seen = self._stamp()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            users = read_users(self.path, self.current)
        except ConfigError as error:
            self.error = error
            return False
        self.error = None
        self.current = users
        return True

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = os.stat(self.path)
        except OSError as error:
            return (error.errno or 0,)
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev, found.st_mode, found.st_ctime_ns


# -- writing ----------------------------------------------------------------------------------------------------------


def edit_users(path: str, change: Callable[[list[str]], list[str]], owner: tuple[int, int] | None = None) -> None:
    """Gives the lines of the file (of a new one, where there is none) to `change` and writes what comes back.

    `owner` (user and group id): whose a new file is. Raises ConfigError for a file that is broken, or would be.
    """
    folder = os.path.dirname(os.path.abspath(path))
    with _locked(folder):
        try:
            old = os.stat(path)
        except FileNotFoundError:
            lines = [*HEADER.splitlines(), _line(_Key(_encode(secrets.token_bytes(32))))]
        else:
            owner = old.st_uid, old.st_gid
            lines = read_lines(path)
            parse_users(lines, path)
        lines = change(lines)
        parse_users(lines, path)
        _write(path, folder, "".join(line + "\n" for line in lines), owner)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """One writer at a time. The lock is the folder's: the file itself is replaced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        problem = f"cannot be opened ({os.strerror(error.errno or 0)})"
        raise ConfigError([ConfigProblem(folder, 0, "", problem, "create it, or name another file")]) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: str, folder: str, text: str, owner: tuple[int, int] | None) -> None:
    target = os.path.realpath(path)  # what a link names is replaced, not the link
    temporary = f"{target}.{secrets.token_hex(6)}.new"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if owner is not None and os.geteuid() == 0:
                os.fchown(descriptor, *owner)
            os.fsync(descriptor)
        os.rename(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        problem = f"cannot be written ({os.strerror(error.errno or 0)})"
        raise ConfigError([ConfigProblem(path, 0, "", problem, "make room, or run this as its owner")]) from None
    folder_descriptor = os.open(os.path.dirname(target) or folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder_descriptor)
    finally:
        os.close(folder_descriptor)


def _line(entry: User | _Key) -> str:
    return msgspec.json.encode(entry).decode("utf-8")


def with_user(lines: list[str], user: User) -> list[str]:
    """The lines with this user, in the place of the old line if there is one."""
    changed = _line(user)
    found = [_name_of(line) == user.name for line in lines]
    if not any(found):
        return [*lines, changed]
    return [changed if here else line for line, here in zip(lines, found, strict=True)]


def without_user(lines: list[str], name: str) -> list[str]:
    return [line for line in lines if _name_of(line) != name]


def find_user(lines: list[str], name: str) -> User | None:
    for line in lines:
        if _name_of(line) == name:
            entry = parse_line(line)
            assert isinstance(entry, User)
            return entry
    return None


def _name_of(line: str) -> str | None:
    if not is_entry(line):
        return None
    entry = parse_line(line)
    return entry.name if isinstance(entry, User) else None
