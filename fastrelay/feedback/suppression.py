"""The suppression list: who gets no mail, from whom, why, and until when. Storage and look-up.

    suppression         address (lower case; a domain as @domain) → its entries, packed
    suppression_names   b"n" + number → a tenant, a sender domain or a source, so that entries can say it in two octets;
                        b"counts" → how many entries there are, by reason

An entry is known by address, scope, scope value and reason; the same one again takes its place (`replace`), or makes it
last longer. It stops mail of everybody (global), of one tenant (no value: mail without a tenant), or of one sender
domain: that is the domain of From or of the reverse-path. A domain's entry holds for its addresses, not for those of
its subdomains.

Spelling: the domain in A-labels and lower case, the local part in lower case (nobody has a Joe@ and a joe@), a quoted
local part without quotes. Plus tags are left as they are: joe+news@ is the address that was asked for.

Packed, little-endian:

    u8      reason (3 bits), scope (2), and whether it has an expiry, the scope's value in full, the source in full
    u32     created (seconds since 1970)
    u32     expires, where it has an expiry
    u16     number of the scope's value, where the scope is not global; or u8 length and octets
    u16     number of the source, 0: none; or u8 length and octets

Crash argument: a change and the counts it makes are one synced LMDB commit; a name is written no later than the first
entry that says its number, in the same commit, and is never changed or removed.

Known faults: times end in 2106. An expired entry counts until the sweep has removed it.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from fastrelay.errors import FastrelayError
from fastrelay.route.names import InvalidDomain, normalize_domain

ENTRIES = "suppression"
NAMES = "suppression_names"
COUNTS = b"counts"

SCOPES = ("global", "tenant", "sender")
REASONS = ("hard_bounce", "soft_bounces", "complaint", "unsubscribe", "manual")
SCOPE_NUMBER = {name: number for number, name in enumerate(SCOPES)}
REASON_NUMBER = {name: number for number, name in enumerate(REASONS)}

LONGEST_KEY = 500  # octets; LMDB takes 511
LONGEST_VALUE = 255  # octets of a scope's value or a source
LONGEST_SOURCE = 100  # characters
ENTRIES_OF_ONE = 4096  # address
MOST_NAMES = 65_000
MOST_SOURCES = 20_000  # names: a source that every entry has another of is said in full beyond it
SCOPE_MASK = 0x18
HAS_EXPIRY, SCOPE_INLINE, SOURCE_INLINE = 0x20, 0x40, 0x80
LATEST = 2**32 - 1

_NEVER = re.compile(rb"[\x00-\x1f\x7f]")
_UNQUOTED = re.compile(rb"[\x00-\x20\x7f()<>\[\]:;,@\\\"]")
_HEAD = struct.Struct("<BI")
_TIME = struct.Struct("<I")
_NUMBER = struct.Struct("<H")


class SuppressionError(FastrelayError):
    """An entry that can't be taken, or a list that can't be read, in words."""


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One entry. `address` as `address_key` spells it; times in seconds since 1970, `expires` 0: never."""

    address: bytes
    scope: str = "global"
    value: bytes = b""  # of the scope
    reason: str = "manual"
    source: str = ""
    created: int = 0
    expires: int = 0

    @property
    def identity(self) -> tuple[str, bytes, str]:
        """What makes it another one of the same address."""
        return self.scope, self.value, self.reason

    def live(self, wall: float) -> bool:
        """Whether it still holds."""
        return not self.expires or self.expires > wall

    @property
    def of_domain(self) -> bool:
        return self.address.startswith(b"@")


# -- spelling ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8192)
def domain_name(domain: bytes) -> bytes:
    """The one spelling of a domain. SuppressionError."""
    try:
        return normalize_domain(domain.decode("utf-8")).encode().lower()
    except (InvalidDomain, UnicodeDecodeError) as error:
        raise SuppressionError(str(error)) from None


def local_key(local: bytes) -> bytes:
    """The one spelling of a local part."""
    if local.startswith(b'"') and local.endswith(b'"') and len(local) >= 2:
        local = _unquoted(local[1:-1])
    if local.isascii():
        return local.lower()
    return local.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")


def _unquoted(octets: bytes) -> bytes:
    """What a quoted string says (RFC 5321 section 4.1.2)."""
    if b"\\" not in octets:
        return octets
    parts = octets.split(b"\\\\")
    return b"\\".join(part.replace(b"\\", b"") for part in parts)


def address_key(text: bytes) -> bytes:
    """The key of an address, or of a domain (`example.com` or `@example.com`). SuppressionError, in words."""
    local, at, domain = text.strip().rpartition(b"@")
    if not local and (at or b"." in domain):
        return b"@" + domain_name(domain)
    quoted = len(local) >= 2 and local[:1] == b'"' == local[-1:]
    if (_NEVER if quoted else _UNQUOTED).search(local) is not None:
        raise SuppressionError(f"{text[:100].decode('utf-8', 'replace')!r} is no address")
    key = local_key(local) + b"@" + domain_name(domain)
    if len(key) > LONGEST_KEY or key[:1] == b"@":
        raise SuppressionError(f"{text[:100].decode('utf-8', 'replace')!r} is no address that can be kept")
    return key


def shown(key: bytes) -> str:
    """A key for people and files: `address_key` gives it back."""
    local, _, domain = key.rpartition(b"@")
    if local and (_UNQUOTED.search(local) is not None or local[:1] == b'"'):
        local = b'"' + local.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return (local + b"@" + domain).decode("utf-8", "backslashreplace")


def scope_value(scope: str, value: bytes) -> bytes:
    """The one spelling of a scope's value. SuppressionError where it does not fit the scope."""
    if scope == "global":
        if value:
            raise SuppressionError("the scope global has no value")
        return b""
    if scope not in SCOPE_NUMBER:
        raise SuppressionError(f"{scope[:100]!r} is no scope: global, tenant or sender")
    if scope == "sender":
        if not value:
            raise SuppressionError("the scope sender needs a domain")
        return domain_name(value.rpartition(b"@")[2])
    if len(value) > LONGEST_VALUE:
        raise SuppressionError("a tenant's name has at most 255 octets")
    return value


# -- packing ----------------------------------------------------------------------------------------------------------


class Reader(Protocol):
    """What is read from: an Environment, or a ReadOnly one (_core/lmdb.pyx)."""

    def get(self, database: str, key: bytes) -> bytes | None:
        """A value, or None. LmdbError."""
        ...


class Names(dict[int, bytes]):
    """Names by number, each read when it is asked for first. A name never changes, so what was read once holds."""

    def __init__(self, reader: Reader) -> None:
        super().__init__({0: b""})
        self._reader = reader

    def __missing__(self, number: int) -> bytes:
        found = self._reader.get(NAMES, b"n%d" % number)
        if found is None:
            raise SuppressionError(f"the suppression list is damaged: the name {number} is missing")
        self[number] = found
        return found


class Texts(dict[int, str]):
    """The same as text."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, number: int) -> str:
        self[number] = found = self._names[number].decode("utf-8", "replace")
        return found


class Numbers:
    """What numbers in entries stand for."""

    def __init__(self, reader: Reader) -> None:
        self.names = Names(reader)
        self.texts = Texts(self.names)


def unpack(address: bytes, packed: bytes, numbers: Numbers) -> list[Entry]:
    """The entries of an address. SuppressionError where the octets are no entries."""
    entries = []
    at, size = 0, len(packed)
    names, texts = numbers.names, numbers.texts
    try:
        while at < size:
            head, created = _HEAD.unpack_from(packed, at)
            at += 5
            expires, scope, value = 0, "global", b""
            if head & HAS_EXPIRY:
                (expires,) = _TIME.unpack_from(packed, at)
                at += 4
            if head & SCOPE_MASK:
                scope = SCOPES[head >> 3 & 3]
                if head & SCOPE_INLINE:
                    value, at = _inline_at(packed, at)
                else:
                    value = names[packed[at] | packed[at + 1] << 8]
                    at += 2
            if head & SOURCE_INLINE:
                octets, at = _inline_at(packed, at)
                source = octets.decode("utf-8", "replace")
            else:
                source = texts[packed[at] | packed[at + 1] << 8]
                at += 2
            entries.append(Entry(address, scope, value, REASONS[head & 7], source, created, expires))
    except (struct.error, IndexError):
        raise SuppressionError("the suppression list is damaged: an entry can't be read") from None
    return entries


def _inline_at(packed: bytes, at: int) -> tuple[bytes, int]:
    """A name that stands in full, and where it ends."""
    end = at + 1 + packed[at]
    if end > len(packed):
        raise IndexError
    return packed[at + 1 : end], end


# -- looking up -------------------------------------------------------------------------------------------------------


class Lookup:
    """Finds what stops mail to an address. One reader, many look-ups; each sees the newest commit."""

    def __init__(self, reader: Reader) -> None:
        self._get = reader.get
        both = getattr(reader, "get_both", None)
        self._both = both if both is not None else self._one_by_one
        self._numbers = Numbers(reader)

    def entries(self, key: bytes) -> list[Entry]:
        """All entries of an address or @domain, expired ones too. LmdbError, SuppressionError."""
        packed = self._get(ENTRIES, key)
        return [] if packed is None else unpack(key, packed, self._numbers)

    def _one_by_one(self, database: str, first: bytes, second: bytes) -> tuple[bytes | None, bytes | None] | None:
        return self._get(database, first), self._get(database, second)

    def find(self, address: bytes, domain: bytes) -> list[Entry] | None:
        """All entries of an address and of its domain (in its one spelling), expired ones too; None: none.

        LmdbError or SuppressionError where the list can't be read: nothing is known then.
        """
        local = address[: address.rfind(b"@")]
        local = local.lower() if local.isascii() and local[:1] != b'"' else local_key(local)
        of_domain = b"@" + domain
        key = local + of_domain
        found = self._both(ENTRIES, key, of_domain)
        if found is None:
            return None
        own, whole = found
        if whole is None:
            return unpack(key, own, self._numbers) if own is not None else None
        entries = unpack(key, own, self._numbers) if own is not None else []
        return entries + unpack(of_domain, whole, self._numbers)


# -- writing ----------------------------------------------------------------------------------------------------------


class SuppressionList:
    """The writer: one in a store. Each call is one synced commit, all or nothing. LmdbError where that fails."""

    def __init__(self, store: Any, most: int) -> None:
        self._store = store
        self.most = most
        self.lookup = Lookup(store)
        self._numbers = Numbers(store)
        self._by_name: dict[bytes, int] = {}
        counted = store.get(NAMES, COUNTS)
        self.counts: list[int] = msgspec.msgpack.decode(counted) if counted else [0] * len(REASONS)
        for key, name in self._walk(NAMES, b"n", b"o"):
            self._by_name[name] = int(key[1:])

    @property
    def total(self) -> int:
        """How many entries there are, expired ones that are not yet swept too."""
        return sum(self.counts)

    def by_reason(self) -> dict[str, int]:
        """How many entries there are of each reason."""
        return dict(zip(REASONS, self.counts, strict=True))

    def add(self, entries: Iterable[Entry], *, replace: bool = False) -> list[Entry]:
        """Puts entries in; gives those that the list did not have, or whose expiry changed.

        replace    an entry that is there takes the new one's source and times; else it only comes to last longer
        Raises SuppressionError where the list is full.
        """
        change = Change(self)
        new = [entry for entry in entries if change.add(entry, replace=replace)]
        change.commit()
        return new

    def remove(self, identities: Iterable[Entry]) -> list[Entry]:
        """Takes entries out, by address and identity; gives those that were there."""
        change = Change(self)
        gone = [found for entry in identities if (found := change.remove(entry)) is not None]
        change.commit()
        return gone

    def entries(self, key: bytes) -> list[Entry]:
        """All entries of an address or @domain."""
        return self.lookup.entries(key)

    def page(self, start: bytes, most: int) -> tuple[list[Entry], bytes | None]:
        """Entries of at most `most` addresses from `start` on, in order; and where to go on, None at the end."""
        found = self._store.items(ENTRIES, start, most)
        entries = [entry for key, packed in found for entry in unpack(key, packed, self._numbers)]
        return entries, found[-1][0] + b"\0" if len(found) == most else None

    def _walk(self, database: str, start: bytes, end: bytes) -> Iterable[tuple[bytes, bytes]]:
        while slice_ := self._store.items(database, start):
            for key, value in slice_:
                if key >= end:
                    return
                yield key, value
            start = slice_[-1][0] + b"\0"


class Change:
    """Changes of one commit, gathered first. No other change may be committed in between."""

    def __init__(self, to: SuppressionList, now: int = 0) -> None:
        """`now`: seconds since 1970, for entries whose `created` is 0."""
        self._list = to
        self._wall = now
        self.new = 0
        self.altered = 0
        self._now: dict[bytes, dict[tuple[str, bytes, str], Entry]] = {}
        self._changed: set[bytes] = set()
        self.counts = [0] * len(REASONS)

    def _entries(self, key: bytes) -> dict[tuple[str, bytes, str], Entry]:
        found = self._now.get(key)
        if found is None:
            found = self._now[key] = {entry.identity: entry for entry in self._list.entries(key)}
        return found

    def add(self, entry: Entry, *, replace: bool = False) -> bool:
        """True: it is new, or ends at another time. SuppressionError: there is no room."""
        entries = self._entries(entry.address)
        identity = entry.identity
        former = entries.get(identity)
        if not entry.created:
            entry = msgspec.structs.replace(entry, created=self._wall if former is None else former.created)
        if former is None:
            self.new += 1
            if len(entries) >= ENTRIES_OF_ONE:
                raise SuppressionError(f"one address has at most {ENTRIES_OF_ONE} entries")
            if self._list.total + sum(self.counts) >= self._list.most:
                raise SuppressionError(f"the suppression list is full: suppression.entries is {self._list.most}")
            self.counts[REASON_NUMBER[entry.reason]] += 1
        elif not replace:
            lasting = former.expires == 0 or (entry.expires != 0 and entry.expires <= former.expires)
            if lasting:
                return False
            entry = msgspec.structs.replace(entry, created=min(former.created, entry.created))
        elif former == entry:
            return False
        if former is not None:
            self.altered += 1
        entries[identity] = entry
        self._changed.add(entry.address)
        return former is None or former.expires != entry.expires

    def remove(self, entry: Entry) -> Entry | None:
        """Gives the entry that was there."""
        former = self._entries(entry.address).pop(entry.identity, None)
        if former is not None:
            self.counts[REASON_NUMBER[former.reason]] -= 1
            self._changed.add(entry.address)
        return former

    def commit(self) -> None:
        """On stable storage when it returns. LmdbError: nothing has changed."""
        if not self._changed:
            return
        names: dict[bytes, int] = {}
        changes: list[tuple[str, bytes, bytes | None]] = []
        for key in sorted(self._changed):
            entries = self._now[key].values()
            packed = b"".join([self._pack(entry, names) for entry in entries]) if entries else None
            changes.append((ENTRIES, key, packed))
        changes += [(NAMES, b"n%d" % number, name) for name, number in names.items()]
        counts = [former + more for former, more in zip(self._list.counts, self.counts, strict=True)]
        changes.append((NAMES, COUNTS, msgspec.msgpack.encode(counts)))
        self._list._store.write(changes)
        self._list._by_name.update(names)
        self._list.counts = counts

    def _pack(self, entry: Entry, names: dict[bytes, int]) -> bytes:
        head = REASON_NUMBER[entry.reason] | SCOPE_NUMBER[entry.scope] << 3
        tail = b""
        if entry.expires:
            head |= HAS_EXPIRY
            tail = _TIME.pack(min(entry.expires, LATEST))
        if entry.scope != "global":
            inline, octets = self._name(entry.value, names, MOST_NAMES)
            head |= SCOPE_INLINE if inline else 0
            tail += octets
        source = entry.source[:LONGEST_SOURCE].encode("utf-8", "replace")[:LONGEST_VALUE]
        inline, octets = self._name(source, names, MOST_SOURCES)
        head |= SOURCE_INLINE if inline else 0
        return _HEAD.pack(head, min(max(entry.created, 0), LATEST)) + tail + octets

    def _name(self, name: bytes, names: dict[bytes, int], most: int) -> tuple[bool, bytes]:
        """(whether it is said in full, its octets)."""
        if not name:
            return False, b"\0\0"
        number = self._list._by_name.get(name) or names.get(name)
        if number is None:
            known = len(self._list._by_name) + len(names)
            if known >= most:
                return True, bytes((len(name),)) + name
            number = names[name] = known + 1
        return False, _NUMBER.pack(number)
