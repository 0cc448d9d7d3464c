"""Whom a user may send as: patterns of addresses, held against the reverse-path and the From field.

    news.example           every address of this domain
    *.news.example         of every domain below it
    info@shop.example      this address (capitals do not matter)
    bounce-*@shop.example  every address whose local part begins so
    <>                     the null reverse-path, which nothing else allows

A From field is read as RFC 5322 section 3.6.2 has it, as far as it takes to be sure: every address in it must be
allowed, and one that can't be read with certainty is refused rather than guessed at.

Known faults: none.
"""

from __future__ import annotations

import re
from functools import lru_cache

from fastrelay.config.forms import TEXTS, normalize_hostname

LONGEST_ADDRESS = 320
VALUES_CACHED = 1000  # From fields that were read before
LONGEST_CACHED = 500  # octets; longer ones are read each time


class Senders:
    """The patterns of one user. Raises ValueError, "problem; mend", for one that is none."""

    def __init__(self, patterns: list[str]) -> None:
        self.patterns = patterns
        self.null = False
        self._domains: set[str] = set()
        self._below: list[str] = []  # with the dot in front
        self._addresses: set[str] = set()
        self._beginnings: list[tuple[str, str]] = []  # of local parts, with their domains
        for pattern in patterns:
            self._add(pattern)

    def _add(self, pattern: str) -> None:
        local, at, domain = pattern.rpartition("@")
        if pattern == "<>":
            self.null = True
        elif not at:
            name = TEXTS["domain_pattern"](pattern)
            if name == "*":
                raise ValueError("'*' allows every sender; leave senders away for that")
            if name.startswith("*."):
                self._below.append(name[1:])
            else:
                self._domains.add(name)
        elif not local or "*" in local[:-1] or any(c <= " " or c in '<>"\x7f' for c in local):
            raise ValueError(
                f"{pattern!r} is not a sender; write news.example, info@news.example or news-*@news.example"
            )
        elif local.endswith("*"):
            self._beginnings.append((local[:-1].lower(), normalize_hostname(domain)))
        else:
            self._addresses.add(f"{local.lower()}@{normalize_hostname(domain)}")

    def allows(self, address: bytes) -> bool:
        """Whether an address (b"": the null reverse-path) fits."""
        if not address:
            return self.null
        text = address[: LONGEST_ADDRESS + 1].decode("utf-8", "surrogateescape")
        local, at, domain = text.rpartition("@")
        if not at or len(address) > LONGEST_ADDRESS:
            return False
        local = local.lower()
        domain = domain.lower()
        if not domain.isascii():
            try:
                domain = normalize_hostname(domain)
            except ValueError:
                return False
        return (
            domain in self._domains
            or any(domain.endswith(end) for end in self._below)
            or f"{local}@{domain}" in self._addresses
            or any(domain == name and local.startswith(start) for start, name in self._beginnings)
        )

    def allows_from(self, header: bytes) -> bool:
        """Whether every address of every From (and Sender) field in a header block fits. No From field: no."""
        addresses = from_addresses(header)
        return bool(addresses) and all(self.allows(one) for one in addresses)


# A field from its name on: how its value ends is for the folding to say.
_FIELD = re.compile(rb"(?i)(from|sender)[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)")
_UNCERTAIN = [b"\0"]  # an address that no pattern allows


def from_addresses(header: bytes) -> list[bytes]:
    """The addresses in the From and Sender fields of a header block; [NUL] where one can't be read."""
    found: list[bytes] = []
    has_from = False
    lines = b"\n" + header.lower()
    for name in (b"\nfrom", b"\nsender"):
        place = lines.find(name)
        while place >= 0:
            match = _FIELD.match(header, place)
            place = lines.find(name, place + 1)
            if match is None:
                continue
            has_from = has_from or name == b"\nfrom"
            value = match[2]
            addresses = _mailboxes(value) if len(value) <= LONGEST_CACHED else _mailboxes.__wrapped__(value)
            if not addresses:
                return _UNCERTAIN
            found += addresses
    return found if has_from else []


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|\((?:[^()\\]|\\.)*\)|<|>|,|;|:|[^"()<>,;:]+', re.DOTALL)


@lru_cache(maxsize=VALUES_CACHED)
def _mailboxes(value: bytes) -> tuple[bytes, ...]:
    """The addresses of a mailbox list; none where it can't be read with certainty."""
    value = value.replace(b"\r", b"").replace(b"\n", b"")
    found: list[bytes] = []
    inside: bytes | None = None  # angle brackets
    bare = b""
    position = 0
    while position < len(value):
        match = _TOKEN.match(value, position)
        if match is None:
            return ()
        token, position = match[0], match.end()
        if token == b"<":
            if inside is not None:
                return ()
            inside = b""
        elif token == b">":
            if inside is None or not _is_plain(inside.strip()):
                return ()
            found.append(inside.strip())
            inside, bare = None, b"\0"
        elif token == b",":
            if inside is not None:
                return ()
            if not _end(bare, found):
                return ()
            bare = b""
        elif token in (b";", b":"):
            return ()  # groups and routes
        elif token.startswith(b"("):
            if b"(" in token[1:] or inside is not None:
                return ()
        elif inside is not None:
            inside += token
        elif bare == b"\0":
            if token.strip():
                return ()
        else:
            bare += token
    if inside is not None or not _end(bare, found):
        return ()
    return tuple(found)


def _end(bare: bytes, found: list[bytes]) -> bool:
    """A mailbox ends; one without angle brackets is the address itself."""
    if bare == b"\0":
        return True
    if not _is_plain(bare.strip()):
        return False
    found.append(bare.strip())
    return True


def _is_plain(address: bytes) -> bool:
    """An address that every reader takes for the same one: no quotes, spaces or second @."""
    return address.count(b"@") == 1 and not any(c <= 32 or c in b'"()<>,;:\\[]\x7f' for c in address)
