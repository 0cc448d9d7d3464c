"""Addresses of MX hosts: A and AAAA asked together, cached, and held against the rule on private addresses.

A remote domain chooses what its MX records name, so a host without a public address is not connected to (it would
turn the relay against its own network) unless `allow_private_hosts`. A host that carries a port was named by the
operator and is exempt.

At most `max_addresses` of a host are used, taken from both families in turn (so that neither is crowded out), then
ordered by family. `localhost` is answered here (RFC 6761 section 6.3).

Known faults: address literals with a zone (fe80::1%eth0) cannot be written.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Protocol

import msgspec

from fastrelay.route.cache import BoundedCache, Lifetimes
from fastrelay.route.flights import Flights
from fastrelay.route.names import address_of, is_host_name, is_public, split_host
from fastrelay.route.resolver import Answer

AddressPair = tuple[int, str]  # (socket.AF_INET or AF_INET6, address text)

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Questions(Protocol):
    """What routing needs of a resolver."""

    async def query(self, name: str, rdtype: str) -> Answer:
        """See resolver.Resolver.query."""


class Addresses(msgspec.Struct, gc=False):
    """Where a host can be connected to.

    host         as asked for
    addresses    (family, address) in the order to try; empty when there is none
    error        why there is none, for people
    permanent    asking again soon will not help: the DNS said so, or the rule on private addresses did
    expires_at   in the caller's `now`
    not_public   addresses left out by the rule
    failures     temporary failures in a row, up to now
    stale        expired, in use because the DNS cannot say now (RFC 8767); stale_until is the end of that
    secure       every answer that says so was validated (RFC 7672 section 2.2.2)
    alias        where the name leads (CNAME); "": it is none
    """

    host: str
    addresses: tuple[AddressPair, ...]
    error: str | None
    permanent: bool
    expires_at: float
    not_public: int = 0
    failures: int = 0
    stale: bool = False
    stale_until: float = 0.0
    secure: bool = False
    alias: str = ""


class AddressBook:
    """Cached look-ups of host addresses.

    families       socket.AF_INET and AF_INET6 in the order to try; one left out is not asked for
    allow_private  connect to hosts at private addresses
    clock          the caller's `now`, read again after a look-up; None: look-ups take no time (tests, simulation)
    """

    def __init__(
        self,
        resolver: Questions,
        *,
        lifetimes: Lifetimes = Lifetimes(),
        families: Sequence[int] = (socket.AF_INET, socket.AF_INET6),
        allow_private: bool = False,
        max_addresses: int = 5,
        cache_size: int = 200_000,
        max_lookups: int = 20_000,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.resolver = resolver
        self.lifetimes = lifetimes
        self.families = tuple(families)
        self.allow_private = allow_private
        self.max_addresses = max_addresses
        self.cache: BoundedCache[Addresses] = BoundedCache(cache_size)
        self.flights: Flights[Addresses] = Flights(max_lookups)
        self.hits = 0
        self.misses = 0
        self._clock = clock

    def cached(self, host: str, now: float) -> Addresses | None:
        """What is known of the host now; None: ask `addresses`."""
        known = self.cache.get(host)
        if known is None or known.expires_at <= now:
            return None
        self.hits += 1
        return known

    async def addresses(self, host: str, now: float) -> Addresses:
        """The host's addresses. Concurrent calls for one host share the questions. Never raises for DNS trouble."""
        known = self.cached(host, now)
        if known is not None:
            return known
        self.misses += 1
        if self.flights.full(host):
            return Addresses(host, (), "too many DNS look-ups are under way", False, now + 1.0)
        return await self.flights.join(host, lambda: self._look_up(host, now))

    async def all_addresses(self, hosts: Sequence[str], now: float) -> list[Addresses]:
        """The addresses of each host, looked up in parallel; without a task when all are known."""
        known = [self.cached(host, now) for host in hosts]
        missing = [host for host, found in zip(hosts, known, strict=True) if found is None]
        if not missing:
            return [found for found in known if found is not None]
        asked = iter(await asyncio.gather(*(self.addresses(host, now) for host in missing)))
        return [found if found is not None else next(asked) for found in known]

    async def _look_up(self, host: str, now: float) -> Addresses:
        name, port = split_host(host)
        exempt = self.allow_private or port != 0
        literal = address_of(name)
        if literal is not None:
            found = self._literal(host, literal, exempt)
        elif name == "localhost" or name.endswith(".localhost"):
            pairs = [(family, _LOOPBACK[socket.AddressFamily(family)]) for family in self.families]
            found = self._usable(host, pairs, now + self.lifetimes.max_ttl, exempt)
        elif not is_host_name(name):
            found = Addresses(host, (), f"{name!r} is not a host name", True, now + self.lifetimes.negative_ttl)
        else:
            found = await self._ask(host, name, exempt, now)
        self.cache.put(host, found)
        return found

    def _literal(self, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, exempt: bool) -> Addresses:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        if family not in self.families:
            return Addresses(host, (), f"{host} is IPv{address.version}, which is switched off", True, float("inf"))
        return self._usable(host, [(family, str(address))], float("inf"), exempt)

    async def _ask(self, host: str, name: str, exempt: bool, now: float) -> Addresses:
        """A and AAAA in parallel; what one of them gives is enough."""
        types = ["A" if family == socket.AF_INET else "AAAA" for family in self.families]
        answers = await asyncio.gather(*(self.resolver.query(name, rdtype) for rdtype in types))
        if self._clock is not None:
            now = self._clock()
        pairs = self._pick(answers)
        temporary = [answer for answer in answers if answer.status == "temporary"]
        if pairs:
            ttl = self.lifetimes.positive(min(answer.ttl for answer in answers if answer.status == "ok"))
            if temporary:
                ttl = min(ttl, self.lifetimes.retry[-1])  # the other family is worth asking again soon
            found = self._usable(host, pairs, now + ttl, exempt)
            said = [answer for answer in answers if answer.status != "temporary"]
            found.secure = all(answer.secure for answer in said)
            found.alias = next((answer.alias for answer in said if answer.status == "ok"), "")
            return found
        if temporary:
            return self._failed(host, temporary[0].detail, now)
        why = "does not exist" if any(answer.status == "nxdomain" for answer in answers) else "has no address record"
        ttl = self.lifetimes.negative(min(answer.ttl for answer in answers))
        return Addresses(host, (), f"host {name} {why} in the DNS", True, now + ttl)

    def _pick(self, answers: Sequence[Answer]) -> list[AddressPair]:
        """At most max_addresses, from the families in turn, then in the families' order."""
        by_family = [
            [(family, str(address)) for address in answer.records]
            for family, answer in zip(self.families, answers, strict=True)
        ]
        turns = [pair for pair in chain.from_iterable(zip_longest(*by_family)) if pair is not None]
        chosen = set(dict.fromkeys(turns[: self.max_addresses]))
        return [pair for pairs in by_family for pair in dict.fromkeys(pairs) if pair in chosen]

    def _usable(self, host: str, pairs: Sequence[AddressPair], expires_at: float, exempt: bool) -> Addresses:
        """Apply the rule on private addresses."""
        allowed = tuple(pair for pair in pairs if exempt or is_public(ipaddress.ip_address(pair[1])))
        left_out = len(pairs) - len(allowed)
        error = None
        if not allowed:
            shown = ", ".join(address for _, address in pairs[:3])
            error = (
                f"host {host} has only private, loopback or otherwise unroutable addresses ({shown}), "
                "which delivery.allow_private_hosts does not allow"
            )
        return Addresses(
            host, allowed, error, not allowed, expires_at, left_out, stale_until=expires_at + self.lifetimes.stale
        )

    def _failed(self, host: str, detail: str, now: float) -> Addresses:
        """The DNS cannot say now: an expired answer serves on (RFC 8767), else wait, longer each time."""
        old = self.cache.get(host)
        failures = old.failures + 1 if old is not None else 1
        again = now + self.lifetimes.after_failure(failures)
        if old is not None and old.addresses and now < old.stale_until:
            return msgspec.structs.replace(old, expires_at=again, failures=failures, stale=True)
        return Addresses(host, (), f"host {host} cannot be looked up: {detail}", False, again, 0, failures)
