"""Guessing is slowed: who failed to authenticate too often has to wait, longer each time.

Failures count for an address (of IPv6: its /64), for a user name, and together:

    any client               has to wait where its address or the user name has `failures` within `window`
    one that was right here  (this user at this address): only where this very pair has; so nobody else, at whatever
                             address or with whatever name, can lock out a client that works

Below `failures` nothing waits. From there on the next try is due `delay` after the last failure, then twice as long,
at most `window`. Tries before that are not looked at, so they say nothing and count for nothing. A count is forgotten
when nothing failed for a window after it was due. A success forgives nobody but its own pair: else an account of one's
own would pay for guesses at others.

Every table has a bound; of several old entries the one with the fewest failures goes. Time is passed in.

Known faults: who guesses from many addresses at many names at once is only slowed by what hashes cost.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from itertools import islice

ADDRESSES = 20_000
NAMES = 10_000
PAIRS = 20_000
LOOKED_AT = 8  # of the oldest entries, when one has to go

Key = str | tuple[str, str]


def address_key(address: str) -> str:
    """What counts as one address: an IPv4 address, the /64 of an IPv6 address; else the text itself."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return str(ip)


class _Failures:
    """Of one key: how many, since when, and from when on the next try is looked at."""

    __slots__ = ("due", "number", "since")

    def __init__(self, now: float) -> None:
        self.number = 0
        self.since = now
        self.due = now


class _Table:
    """Failures by key, bounded; the entry that was touched longest ago comes first."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._entries: OrderedDict[Key, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> _Failures | None:
        return self._entries.get(key)

    def touch(self, key: Key, now: float) -> _Failures:
        found = self._entries.get(key)
        if found is None:
            if len(self._entries) >= self._bound:
                oldest = islice(self._entries, LOOKED_AT)
                del self._entries[min(oldest, key=lambda one: self._entries[one].number)]
            found = self._entries[key] = _Failures(now)
        else:
            self._entries.move_to_end(key)
        return found

    def forget(self, key: Key) -> None:
        self._entries.pop(key, None)

    def sweep(self, now: float, window: float, most: int = 100) -> None:
        """Drops old entries that say nothing any more."""
        for key in list(islice(self._entries, most)):
            if now - self._entries[key].due <= window:
                return  # the rest was touched later
            del self._entries[key]

    def waiting(self, now: float) -> int:
        return sum(one.due > now for one in self._entries.values())


class Guard:
    """What one worker knows of failures. Seconds, monotonic."""

    def __init__(self, failures: int = 5, window: float = 600.0, delay: float = 2.0) -> None:
        self.configure(failures, window, delay)
        self.addresses = _Table(ADDRESSES)
        self.names = _Table(NAMES)
        self.pairs = _Table(PAIRS)
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()

    def configure(self, failures: int, window: float, delay: float) -> None:
        self.failures = failures
        self.window = window
        self.delay = min(delay, window)

    def __len__(self) -> int:
        return len(self.addresses) + len(self.names) + len(self.pairs)

    def was_right(self, address: str, name: str) -> bool:
        """Whether this user authenticated from this address."""
        return (address, name) in self._right

    def wait(self, address: str, name: str, now: float) -> float:
        """Seconds until a try of this user from this address (an address_key) may be looked at; 0: now."""
        if (address, name) in self._right:
            found = self.pairs.get((address, name))
            return 0.0 if found is None else max(0.0, found.due - now)
        due = now
        for found in (self.addresses.get(address), self.names.get(name)):
            if found is not None and found.due > due:
                due = found.due
        return due - now

    def failed(self, address: str, name: str, now: float, number: int = 1) -> bool:
        """Counts; True when the address has reached `failures` by this: guessing has begun."""
        if (address, name) in self._right:
            self._count(self.pairs.touch((address, name), now), now, number)
            return False
        self._count(self.names.touch(name, now), now, number)
        return self._count(self.addresses.touch(address, now), now, number)

    def failed_without_name(self, address: str, now: float) -> bool:
        """A failure of a client that named nobody."""
        return self._count(self.addresses.touch(address, now), now, 1)

    def _count(self, entry: _Failures, now: float, number: int) -> bool:
        if now - entry.due > self.window or (entry.number < self.failures and now - entry.since > self.window):
            entry.number = 0
            entry.since = now
        before = entry.number
        entry.number += number
        over = entry.number - self.failures
        entry.due = now if over < 0 else now + min(self.window, self.delay * 2.0 ** min(over, 60))
        return before < self.failures <= entry.number

    def succeeded(self, address: str, name: str) -> bool:
        """This user authenticated from this address; True if never before."""
        new = (address, name) not in self._right
        self._right[address, name] = None
        self._right.move_to_end((address, name))
        self.pairs.forget((address, name))
        if len(self._right) > PAIRS:
            self._right.popitem(last=False)
        return new

    def forget_user(self, name: str) -> None:
        """The user has another password, or is gone: who was right with the old one is nobody special."""
        for pair in [pair for pair in self._right if pair[1] == name]:
            del self._right[pair]
            self.pairs.forget(pair)

    def sweep(self, now: float) -> None:
        """Drops what says nothing any more; about once a second."""
        for table in (self.addresses, self.names, self.pairs):
            table.sweep(now, self.window)

    def waiting(self, now: float) -> int:
        """Addresses, names and pairs that have to wait now."""
        return sum(table.waiting(now) for table in (self.addresses, self.names, self.pairs))
