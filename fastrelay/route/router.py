"""From a recipient's domain to the site that its mail goes to, or to the reason why it goes nowhere.

In order: an explicit route, an address literal, MX records, and without any the domain's own addresses (RFC 5321
section 5.1).

    what the DNS says                             action   code
    MX records                                    site
    only `MX 0 .` (any preference)                fail     556 5.1.10  RFC 7505; beside real MX records it is ignored
    no MX, but A or AAAA                          site                 implicit MX
    NXDOMAIN                                      fail     550 5.1.2   RFC 3463: bad destination system address
    it exists, with neither MX nor address        fail     550 5.4.4   RFC 3463 names this case; Postfix too
    MX records, none of them usable               fail     550 5.4.4   RFC 5321 section 5.1: reported, no A instead
    the only addresses are private                fail     550 5.4.4
    the best MX is this relay                     fail     554 5.4.6   RFC 5321 section 5.1; Postfix: the same
    not a domain at all                           fail     550 5.1.2
    SERVFAIL, REFUSED, timeout                    defer    451 4.4.3   RFC 3463: directory server failure; Postfix too
    MX hosts that cannot be looked up now         defer    451 4.4.3

Addresses of MX hosts are asked for when a connection is wanted (`addresses`, `targets`), except where they decide
about a loop to ourselves. A host without addresses is skipped; `unreachable` says what it means if all of a site's
are.

`cached` is called for each queued recipient group and costs one dict look-up. A hit in the last tenth of a route's
life starts a refresh in the background. When a refresh fails for now, the expired route serves on for `stale` seconds
(RFC 8767).

Known faults: which of two equal MX sets a domain moved between is only seen when the TTL ends; an MX host whose
addresses change to ours within the life of a route is not seen as a loop (the count of Received lines catches it).
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from fastrelay.route.addresses import AddressBook, Addresses, Questions
from fastrelay.route.cache import BoundedCache, Lifetimes
from fastrelay.route.flights import Flights
from fastrelay.route.names import (
    InvalidDomain,
    address_of,
    is_host_name,
    is_local_address,
    literal_host,
    normalize_domain,
    parse_literal,
    split_host,
)
from fastrelay.route.resolver import Answer
from fastrelay.route.rules import Rule, Rules
from fastrelay.route.site import Site, Sites, group_by_preference

log = logging.getLogger(__name__)

RouteAction = Literal["site", "fail", "defer", "discard", "reject"]

FOREVER = float("inf")
PREFETCH_SHARE = 0.1  # of a route's life, at its end


class Route(msgspec.Struct, gc=False):
    """What happens to mail for a domain.

    domain      normalized
    action      "site": deliver there; "fail": bounce; "defer": ask again at expires_at; "discard", "reject": a rule
    code        basic reply code (fail, defer, reject), 0 otherwise; enhanced and text go with it
    expires_at  in the caller's `now`; a defer's is the time to ask again
    secure      the MX answer was validated by the nameserver (AD); of an implicit MX: that there is none
    tls         the level of TLS that an explicit route asks for; "": as for any domain
    implicit    by A or AAAA, for want of MX records
    failures    temporary failures in a row, up to now
    stale       expired, in use because the DNS cannot say now; stale_until is the end of that
    """

    domain: str
    action: RouteAction
    site: Site | None = None
    code: int = 0
    enhanced: str = ""
    text: str = ""
    expires_at: float = FOREVER
    refresh_at: float = FOREVER
    stale_until: float = 0.0
    failures: int = 0
    secure: bool = False
    implicit: bool = False
    stale: bool = False
    tls: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a site cannot be connected to: like a route of action "fail" or "defer"; retry_at in the caller's `now`."""

    action: Literal["fail", "defer"]
    code: int
    enhanced: str
    text: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class Target:
    """One address to connect to. host is the MX host as the site names it (without port)."""

    host: str
    port: int
    family: int
    address: str


@dataclass(slots=True)
class RouterStats:
    """Counters since the start. Those of the resolver and the address book are theirs."""

    cache_hits: int = 0
    cache_misses: int = 0
    prefetches: int = 0
    stale: int = 0
    loops: int = 0
    null_mx: int = 0
    ignored_mx: int = 0  # MX records whose exchange is no host name
    errors: int = 0  # bugs of ours, answered with a deferral


class Router:
    """Routes by domain, cached. One per worker; all calls on the loop's thread.

    rules          explicit routes, the first match wins
    port           TCP port of MX hosts
    own_names      our host names: an MX of that name is us
    own_addresses  our addresses: "192.0.2.1" is us at any port, "192.0.2.1:25" or "[2001:db8::1]:25" only at that port;
                   "0.0.0.0:25" or "[::]:25" is every address of this host, as is_local tells
    is_local       whether an address is one of this host's
    clock          the caller's `now`, read again after a look-up; None: look-ups take no time (tests, simulation)
    """

    def __init__(
        self,
        resolver: Questions,
        *,
        sites: Sites,
        rules: Sequence[Rule] = (),
        port: int = 25,
        allow_private_hosts: bool = False,
        own_names: Iterable[str] = (),
        own_addresses: Iterable[str] = (),
        lifetimes: Lifetimes = Lifetimes(),
        families: Sequence[int] = (socket.AF_INET, socket.AF_INET6),
        max_addresses: int = 5,
        cache_size: int = 200_000,
        max_lookups: int = 20_000,
        is_local: Callable[[str], bool] = is_local_address,
        clock: Callable[[], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.resolver = resolver
        self.sites = sites
        self.rules = Rules(rules, port)
        self.port = port
        self.lifetimes = lifetimes
        self.stats = RouterStats()
        self.book = AddressBook(
            resolver,
            lifetimes=lifetimes,
            families=families,
            allow_private=allow_private_hosts,
            max_addresses=max_addresses,
            cache_size=cache_size,
            max_lookups=max_lookups,
            clock=clock,
        )
        self._own_names = {name.lower().rstrip(".") for name in own_names}
        self._own_addresses = {_own_endpoint(text) for text in own_addresses}
        self._is_local = is_local
        self._cache: BoundedCache[Route] = BoundedCache(cache_size)
        self._cache_get = self._cache.get
        self._flights: Flights[Route] = Flights(max_lookups)
        self._clock = clock
        self._rng = rng or random.Random()

    # -- looking up ---------------------------------------------------------------------------------------------------

    def cached(self, domain: str, now: float) -> Route | None:
        """The route of a domain if it is known; None: ask `resolve`. An odd spelling costs an entry more."""
        route = self._cache_get(domain)
        if route is not None and now < route.refresh_at:
            self.stats.cache_hits += 1
            return route
        return self._cached_late(domain, route, now)

    def _cached_late(self, domain: str, route: Route | None, now: float) -> Route | None:
        """The rest of `cached`: near the end of its life, expired, or unknown."""
        if route is None:
            return None
        if route.domain != domain:  # another spelling: what the normal one has is newer
            newer = self._cache_get(route.domain)
            if newer is not None and newer.expires_at > route.expires_at:
                self._cache.put(domain, newer)
                route = newer
        if now >= route.expires_at:
            return None
        self.stats.cache_hits += 1
        if now >= route.refresh_at:
            self._prefetch(route, now)
        return route

    async def resolve(self, domain: str, now: float) -> Route:
        """The route of a domain. Concurrent calls for one domain share the questions. Never raises for DNS trouble."""
        route = self.cached(domain, now)
        if route is not None:
            return route
        try:
            name = normalize_domain(domain)
        except InvalidDomain as error:
            expires_at = now + self.lifetimes.negative_ttl
            route = Route(error.domain, "fail", None, 550, "5.1.2", str(error), expires_at, expires_at)
            if error.domain == domain:  # not one of unbounded length
                self._cache.put(domain, route)
            return route
        if name != domain:
            route = self.cached(name, now)
        if route is None:
            self.stats.cache_misses += 1
            if self._flights.full(name):
                return Route(name, "defer", None, 451, "4.4.3", "too many DNS look-ups are under way", now + 1.0)
            route = await self._flights.join(name, lambda: self._look_up(name, now))
        if name != domain:
            self._cache.put(domain, route)
        return route

    def _prefetch(self, route: Route, now: float) -> None:
        """Refresh in the background; once, also when it fails."""
        route.refresh_at = route.expires_at
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # outside the loop (a test, a tool): it is looked up when it has expired
        if self._flights.full(route.domain):
            return
        self.stats.prefetches += 1
        self._flights.start(route.domain, lambda: self._look_up(route.domain, now))

    async def _look_up(self, domain: str, now: float) -> Route:
        """Ask, keep the answer, give it."""
        try:
            route = await self._find(domain, now)
        except Exception:
            self.stats.errors += 1
            log.exception("looking up the route of %s failed; its mail waits. Please report this", domain)
            route = self._temporary(domain, "an error inside the relay, see its log", now)
        if route.action == "defer":
            route = self._after_failure(route, self._clock() if self._clock else now)
        elif route.expires_at != FOREVER:
            life = route.expires_at - now
            route.refresh_at = route.expires_at - (life * PREFETCH_SHARE if route.site is not None else 0.0)
            route.stale_until = route.expires_at + self.lifetimes.stale
        self._cache.put(domain, route)
        return route

    def _after_failure(self, route: Route, now: float) -> Route:
        """The DNS cannot say now: keep what is valid, serve what is stale, else wait, longer each time."""
        old = self._cache_get(route.domain)
        if old is not None and old.action != "defer" and now < old.expires_at:
            return old
        failures = old.failures + 1 if old is not None else 1
        again = now + self.lifetimes.after_failure(failures)
        if old is not None and old.action == "site" and now < old.stale_until:
            self.stats.stale += 1
            return msgspec.structs.replace(old, expires_at=again, refresh_at=again, failures=failures, stale=True)
        return msgspec.structs.replace(route, expires_at=again, refresh_at=again, failures=failures)

    # -- what a domain's route is -------------------------------------------------------------------------------------

    async def _find(self, domain: str, now: float) -> Route:
        """The route by rule, literal or DNS; expires_at is now + its TTL."""
        rule = self.rules.match(domain)
        if rule is not None:
            return self._by_rule(domain, rule)
        if domain.startswith("["):
            return await self._by_addresses(domain, literal_host(parse_literal(domain)), now, FOREVER)
        answer = await self.resolver.query(domain, "MX")
        if answer.status == "temporary":
            return self._temporary(domain, answer.detail, now)
        if answer.status == "nxdomain":
            expires_at = now + self.lifetimes.negative(answer.ttl)
            return Route(domain, "fail", None, 550, "5.1.2", f"domain {domain} does not exist in the DNS", expires_at)
        if answer.status == "nodata":
            until = now + self.lifetimes.negative(answer.ttl)
            return await self._by_addresses(domain, domain, now, until, answer.secure)
        return await self._by_mx(domain, answer, now)

    def _by_rule(self, domain: str, rule: Rule) -> Route:
        """An explicit route. It has no TTL: rules change with the configuration, and so does the router."""
        if rule.action == "discard":
            return Route(domain, "discard", text=f"mail for {domain} is discarded by a route of this relay")
        if rule.action == "reject":
            return Route(
                domain, "reject", None, 550, "5.7.1", f"mail for {domain} is rejected by a route of this relay"
            )
        hosts = [host for host in rule.hosts if not self._is_own_listener(host)]
        if not hosts:
            return self._loop(domain, "the only host of its route is this relay itself", FOREVER)
        return Route(domain, "site", self.sites.of_hosts(hosts, self.port, rule.username), tls=rule.tls)

    async def _by_mx(self, domain: str, answer: Answer, now: float) -> Route:
        """By MX records: null MX, junk, loops."""
        expires_at = now + self.lifetimes.positive(answer.ttl)
        if all(exchange == "." for _, exchange in answer.records):
            self.stats.null_mx += 1
            return Route(domain, "fail", None, 556, "5.1.10", f"domain {domain} accepts no mail (null MX)", expires_at)
        records = [(preference, exchange) for preference, exchange in answer.records if is_host_name(exchange)]
        self.stats.ignored_mx += len(answer.records) - len(records)
        if not records:
            junk = next(exchange for _, exchange in answer.records if exchange != ".")[:100]
            text = f"the MX records of {domain} name no host ({junk!r})"
            return Route(domain, "fail", None, 550, "5.4.4", text, expires_at)
        groups = group_by_preference(records)
        kept = [(preference, host) for preference, group in enumerate(groups) for host in group]
        own = await self._best_own(kept, now)
        if own is not None:
            better = [record for record in kept if record[0] < own[0]]
            if not better:
                return self._loop(domain, f"its best MX host {own[1]} is this relay itself", expires_at)
            kept = better
        return Route(domain, "site", self.sites.of_mx(kept, self.port), expires_at=expires_at, secure=answer.secure)

    async def _by_addresses(
        self, domain: str, host: str, now: float, expires_at: float, secure: bool = False
    ) -> Route:
        """The domain's own addresses: implicit MX or an address literal."""
        found = await self.book.addresses(host, now)
        expires_at = min(expires_at, found.expires_at)
        if not found.addresses:
            if not found.permanent:
                return self._temporary(domain, found.error or "", now)
            text = found.error or ""
            if host == domain and not found.not_public:
                text = f"domain {domain} has neither MX nor address records"
            return Route(domain, "fail", None, 550, "5.4.4", text, expires_at)
        if await self._best_own([(0, host)], now) is not None:
            return self._loop(domain, f"its address {found.addresses[0][1]} is this relay's own", expires_at)
        site = self.sites.of_mx([(0, host)], self.port)
        return Route(domain, "site", site, expires_at=expires_at, implicit=host == domain, secure=secure)

    def _temporary(self, domain: str, detail: str, now: float) -> Route:
        text = f"domain {domain} cannot be looked up: {detail}"
        return Route(domain, "defer", None, 451, "4.4.3", text, now)

    # -- loops to ourselves -------------------------------------------------------------------------------------------

    def _loop(self, domain: str, why: str, expires_at: float) -> Route:
        self.stats.loops += 1
        return Route(
            domain, "fail", None, 554, "5.4.6", f"mail for {domain} loops back to this relay: {why}", expires_at
        )

    def _is_own_listener(self, host: str) -> bool:
        """Whether an explicit host is an address and port that this relay listens at."""
        name, port = split_host(host)
        address = address_of(name)
        return address is not None and self._is_own(str(address), port)

    def _is_own(self, address: str, port: int) -> bool:
        """Whether this relay listens at an address and port."""
        if (address, port) in self._own_addresses:
            return True
        everywhere = ("::" if ":" in address else "0.0.0.0", port)
        return everywhere in self._own_addresses and self._is_local(address)

    async def _best_own(self, records: Sequence[tuple[int, str]], now: float) -> tuple[int, str] | None:
        """The best of the records (in order of preference) that is this relay, by name or by address."""
        by_name = next((record for record in records if record[1] in self._own_names), None)
        if not self._own_addresses:
            return by_name
        better = [record for record in records if by_name is None or record[0] < by_name[0]]
        found = await self.book.all_addresses([host for _, host in better], now)
        for record, known in zip(better, found, strict=True):
            for _, address in known.addresses:
                if (address, 0) in self._own_addresses or self._is_own(address, self.port):
                    return record
        return by_name

    # -- where to connect ---------------------------------------------------------------------------------------------

    def cached_addresses(self, host: str, now: float) -> Addresses | None:
        """Addresses of a site's host (as in Site.groups) if known; None: ask `addresses`."""
        return self.book.cached(host, now)

    async def addresses(self, host: str, now: float) -> Addresses:
        """Addresses of a site's host (as in Site.groups). Look at `error` and `permanent` when there are none."""
        return await self.book.addresses(host, now)

    async def targets(self, site: Site, now: float) -> tuple[list[Target], Failure | None]:
        """Every address of a site in the order to try for one connection, or why there is none.

        By preference, equals shuffled anew in each call. One slow look-up delays the answer; ask
        `addresses` host by host in `site.order()` where that matters.
        """
        hosts = site.order(self._rng)
        seen = await self.book.all_addresses(hosts, now)
        targets: list[Target] = []
        for host, found in zip(hosts, seen, strict=True):
            name, port = split_host(host)
            targets += [Target(name, port or site.port, family, address) for family, address in found.addresses]
        return targets, None if targets else self.unreachable(site, seen, now)

    def unreachable(self, site: Site, seen: Sequence[Addresses], now: float) -> Failure:
        """What it means that none of a site's hosts has an address: for good only if it is so for each of them."""
        temporary = [found for found in seen if not found.permanent]
        if temporary:
            retry_at = max(now, min(found.expires_at for found in temporary))
            return Failure("defer", 451, "4.4.3", temporary[0].error or "", retry_at)
        text = "; ".join(found.error or "" for found in seen[:3])
        if len(seen) > 3:
            text += f"; and {len(seen) - 3} more"
        return Failure(
            "fail", 550, "5.4.4", f"no MX host can be reached: {text}", min(found.expires_at for found in seen)
        )

    # -- for people ---------------------------------------------------------------------------------------------------

    async def explain(self, domain: str, now: float) -> dict[str, Any]:
        """The route of a domain in words and numbers, for people; asks the DNS for what is not cached."""
        route = await self.resolve(domain, now)
        told: dict[str, Any] = {
            "domain": route.domain,
            "action": route.action,
            "ttl_seconds": None if route.expires_at == FOREVER else round(max(route.expires_at - now, 0.0), 1),
            "stale": route.stale,
        }
        if route.code:
            told["reply"] = f"{route.code} {route.enhanced}"
        if route.text:
            told["text"] = route.text
        site = route.site
        if site is not None:
            told.update(
                site=site.key, provider=site.provider, port=site.port, implicit=route.implicit, explicit=site.explicit
            )
            told["hosts"] = [
                self._explain_host(preference, await self.book.addresses(host, now), now)
                for preference, group in enumerate(site.groups)
                for host in group
            ]
        return told

    def _explain_host(self, preference: int, found: Addresses, now: float) -> dict[str, Any]:
        return {
            "group": preference,
            "host": found.host,
            "addresses": [address for _, address in found.addresses],
            "error": found.error,
            "ttl_seconds": None if found.expires_at == FOREVER else round(max(found.expires_at - now, 0.0), 1),
        }

    def clear(self) -> None:
        """Forget all answers."""
        self._cache.clear()
        self.book.cache.clear()

    async def close(self) -> None:
        """Stop what is being looked up."""
        await self._flights.close()
        await self.book.flights.close()


def _own_endpoint(text: str) -> tuple[str, int]:
    """(address, port) of an own address; port 0 for any. Raises ValueError."""
    address = address_of(text)
    if address is not None:
        return str(address), 0
    name, port = split_host(text)
    address = address_of(name)
    if address is None:
        raise ValueError(f"own address {text!r} is not an IP address")
    return str(address), port
