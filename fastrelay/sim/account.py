"""The exact account of what MX hosts took, and the verdict over it.

Each message of a campaign carries a header line ``X-Sim-Id: N`` in front of everything else, so that what a
relay puts before it (Received, a signature) can be told from what was submitted: the digest covers the octets
from that line to the end. One entry is kept for each (id, recipient) pair; a second arrival of the same pair
is counted, never folded away.

Known faults: a message without the header line is known by its Message-ID, and its digest covers all octets,
Received lines included.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ID_HEADER = b"X-Sim-Id"
HEADER_SEARCHED = 64 * 1024  # octets of a message that are searched for the id
MOST_ENTRIES = 10_000_000
MOST_VIOLATIONS = 200

_ID = re.compile(rb"^X-Sim-Id:[ \t]*([^\r\n]+)\r$", re.MULTILINE | re.IGNORECASE)
_MESSAGE_ID = re.compile(rb"^Message-ID:[ \t]*([^\r\n]+)\r$", re.MULTILINE | re.IGNORECASE)


class AccountFull(Exception):
    """More (id, recipient) pairs than the account is willing to hold."""


@dataclass
class Arrival:
    """One (message, recipient) pair as it arrived."""

    digest: bytes
    provider: str
    count: int = 1
    altered: bool = False  # a later copy had another digest


@dataclass
class Verdict:
    """The account held against what was submitted. Each list holds (id, recipient) pairs."""

    expected: int
    delivered: int = 0
    missing: list[tuple[bytes, bytes]] = field(default_factory=list)
    repeated: list[tuple[bytes, bytes]] = field(default_factory=list)
    altered: list[tuple[bytes, bytes]] = field(default_factory=list)
    unexpected: list[tuple[bytes, bytes]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @property
    def exactly_once(self) -> bool:
        """Everything arrived once, unaltered, and nothing else did."""
        return not (self.missing or self.repeated or self.altered or self.unexpected)

    def __str__(self) -> str:
        parts = [f"{self.delivered} of {self.expected} delivered"]
        for word in ("missing", "repeated", "altered", "unexpected", "violations"):
            found = getattr(self, word)
            if found:
                parts.append(f"{len(found)} {word} (first: {found[0]})")
        return ", ".join(parts)


def identify(content: bytes) -> tuple[bytes, bytes]:
    """(id, digest) of a message: SHA-256 over the octets from the id line on."""
    found = _ID.search(content, 0, HEADER_SEARCHED)
    if found is not None:
        return found.group(1).strip(), hashlib.sha256(memoryview(content)[found.start() :]).digest()
    found = _MESSAGE_ID.search(content, 0, HEADER_SEARCHED)
    return found.group(1).strip() if found else b"", hashlib.sha256(content).digest()


class Account:
    """Everything that was accepted, by (id, recipient)."""

    def __init__(self, keep_contents: bool = False) -> None:
        self.arrivals: dict[tuple[bytes, bytes], Arrival] = {}
        self.messages = 0  # transactions that were answered 2xx
        self.octets = 0
        self.duplicates = 0
        self.by_provider: dict[str, int] = {}
        self.violations: list[str] = []
        self.contents: dict[bytes, bytes] | None = {} if keep_contents else None

    def add(self, recipients: Iterable[bytes], content: bytes, provider: str) -> None:
        """Enter one accepted message. Raises AccountFull."""
        message_id, digest = identify(content)
        self.messages += 1
        self.octets += len(content)
        if self.contents is not None:
            self.contents[message_id] = content
        for recipient in recipients:
            self._enter(message_id, recipient, digest, provider)

    def _enter(self, message_id: bytes, recipient: bytes, digest: bytes, provider: str) -> None:
        self.by_provider[provider] = self.by_provider.get(provider, 0) + 1
        pair = (message_id, recipient)
        arrival = self.arrivals.get(pair)
        if arrival is None:
            if len(self.arrivals) >= MOST_ENTRIES:
                raise AccountFull(f"more than {MOST_ENTRIES} recipients")
            self.arrivals[pair] = Arrival(digest, provider)
            return
        arrival.count += 1
        arrival.altered |= arrival.digest != digest
        self.duplicates += 1

    def violation(self, what: str) -> None:
        """Note a breach of protocol by the client; only the first ones are kept."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(what)

    def verify(self, expected: Iterable[tuple[bytes, bytes, bytes]]) -> Verdict:
        """Hold the account against (id, recipient, digest) triples."""
        verdict = Verdict(0, violations=list(self.violations))
        known = 0
        for message_id, recipient, digest in expected:
            verdict.expected += 1
            pair = (message_id, recipient)
            arrival = self.arrivals.get(pair)
            if arrival is None:
                verdict.missing.append(pair)
                continue
            known += 1
            verdict.delivered += 1
            if arrival.count > 1:
                verdict.repeated.append(pair)
            if arrival.altered or arrival.digest != digest:
                verdict.altered.append(pair)
        if known != len(self.arrivals):
            self._find_unexpected(verdict, expected)
        return verdict

    def _find_unexpected(self, verdict: Verdict, expected: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Name what arrived and was never sent; works when ``expected`` can be gone through twice."""
        wanted = {(message_id, recipient) for message_id, recipient, _ in expected}
        verdict.unexpected = [pair for pair in self.arrivals if pair not in wanted]

    def write(self, path: Path) -> None:
        """Write the account as text, one arrival a line (tabs between the fields)."""
        with path.open("wb") as out:
            for (message_id, recipient), arrival in self.arrivals.items():
                digest = arrival.digest.hex().encode()
                out.write(
                    b"%b\t%b\t%b\t%d\t%d\t%b\n"
                    % (message_id, recipient, digest, arrival.count, arrival.altered, arrival.provider.encode())
                )
            for violation in self.violations:
                out.write(b"!\t%b\n" % violation.encode())

    @classmethod
    def read(cls, path: Path) -> Account:
        """Read back what ``write`` wrote."""
        account = cls()
        for line in path.read_bytes().splitlines():
            if line.startswith(b"!\t"):
                account.violations.append(line[2:].decode())
                continue
            message_id, recipient, digest, count, altered, provider = line.split(b"\t")
            arrival = Arrival(bytes.fromhex(digest.decode()), provider.decode(), int(count), altered == b"1")
            account.arrivals[message_id, recipient] = arrival
            account.duplicates += arrival.count - 1
            name = arrival.provider
            account.by_provider[name] = account.by_provider.get(name, 0) + arrival.count
        account.messages = sum(account.by_provider.values())
        return account
