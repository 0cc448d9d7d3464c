"""Which TLS mail for a domain needs, and what that means for each MX host: the one place that decides.

    the operator's level       first the route's, then that of the first pattern in tls.outbound.domains, then the level
    opportunistic, required    what the domain publishes adds to it: DANE (tls/dane.py), MTA-STS (tls/mta_sts.py)
    mta-sts, dane              such a policy must be published, else the mail waits (reason tls_policy)
    none, verify, implicit     what the domain publishes makes no difference
    REQUIRETLS                 every host must prove its name: by DANE, or by a CA where the name itself is proved by
                               DNSSEC, by MTA-STS, or by the operator's own configuration (RFC 8689 section 4.2.1)
    TLS-Required: No           what the domain publishes is waived (RFC 8689 section 3); the operator's own level is not

    of one host                                 what happens
    TLSA records that can be used               TLS that satisfies them
    the question about them can't be answered   passed over
    TLSA records, none of which can be used     TLS with any certificate, or as below
    MTA-STS (enforce) names it                  TLS with a valid certificate for its name
    MTA-STS (enforce) does not name it          passed over
    MTA-STS (testing)                           by the level; what enforce mode would refuse is reported
    otherwise                                   by the level

A domain that publishes nothing costs one TXT question, asked beside the MX question (`begin`). What was found is kept
for as long as the answers it comes from.

Known faults: a domain's MTA-STS record that is taken away is noticed when the policy ends, as RFC 8461 wants it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from fastrelay.route.cache import BoundedCache
from fastrelay.route.flights import Flights
from fastrelay.route.names import address_of, split_host
from fastrelay.route.router import FOREVER, Route, Target
from fastrelay.route.site import Site
from fastrelay.tls.client import Contexts
from fastrelay.tls.dane import Check, HostTlsa, TlsaBook, strongest
from fastrelay.tls.mta_sts import allowed
from fastrelay.tls.pkix import Pkix, TestingCheck
from fastrelay.tls.policy import NORMAL, OPPORTUNISTIC, OPTIONAL, PLAIN, REQUIRETLS, HostPlan, Level, TlsPolicy, intern
from fastrelay.tls.sts_cache import Announced, StsCache

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

MAX_LOOKUPS = 20_000
STALE_SECONDS = 3600.0  # so long past its end, that a domain publishes nothing is believed until it is asked again
RENEWED_SECONDS = 30.0  # for asking again
LOOKED_UP = ("opportunistic", "required")  # levels to which published policies add


class Known(msgspec.Struct, gc=False):
    """The policy of a domain's mail, for as long as its route leads to that site."""

    policy: TlsPolicy
    site: Site
    secure: bool
    expires_at: float


class OutboundTls:
    """One worker's policies. All calls on the loop's thread."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.sts = StsCache(app)
        self._generation = 0  # of the configuration
        self.configure()

    def configure(self) -> None:
        """What follows from the configuration; after a reload everything is decided anew."""
        app = self._app
        outbound = app.config.tls.outbound
        self.config = outbound
        self._generation += 1
        self.contexts = Contexts(outbound)
        self._levels = list(outbound.domains.items())
        self._known: BoundedCache[Known] = BoundedCache(outbound.policies_cached)
        self._flights: Flights[Known] = Flights(MAX_LOOKUPS)
        self._records: TlsaBook | None = None
        self._pkix: Pkix | None = None
        self.sts.configure(outbound)

    @property
    def tlsa(self) -> TlsaBook:
        """TLSA records, by the router's own resolver."""
        router = self._app.router
        if self._records is None or self._records.resolver is not router.resolver:
            self._records = TlsaBook(
                router.resolver, lifetimes=router.lifetimes, cache_size=self.config.policies_cached,
                clock=self._app.clock.monotonic,
            )  # fmt: skip
        return self._records

    # -- the policy of a domain ---------------------------------------------------------------------------------------

    def level_of(self, domain: str, route: Route | None = None) -> Level:
        """What the operator asks for mail to a domain."""
        if route is not None and route.tls:
            return route.tls  # type: ignore[return-value]
        for pattern, level in self._levels:
            if pattern in ("*", domain) or (pattern.startswith("*.") and domain.endswith(pattern[1:])):
                return level
        return self.config.level

    def cached(self, domain: str, route: Route, variant: int, now: float) -> TlsPolicy | None:
        """The policy if it is known; None: ask `policy`."""
        known = self.known(domain, route, variant, now)
        return None if known is None else known.policy

    async def policy(self, domain: str, route: Route, variant: int, now: float) -> TlsPolicy:
        """The policy of mail to a domain. Never raises for trouble with DNS or a policy's server."""
        return (await self.find(domain, route, variant, now)).policy

    def known(self, domain: str, route: Route, variant: int, now: float) -> Known | None:
        """The policy and until when it holds, if it is known; None: ask `find`."""
        site = route.site
        assert site is not None
        known = self._known.get(f"{domain} {variant}" if variant else domain)
        if known is not None and known.site is site and known.expires_at > now and known.secure is route.secure:
            return known
        if known is not None and self._may_be_stale(known, route, now):
            key = f"{domain} {variant}" if variant else domain
            self._flights.start(key, lambda: self._find(domain, route, variant, True, now))
            return Known(known.policy, site, known.secure, now + RENEWED_SECONDS)
        level = self.level_of(domain, route)
        if self._looks_nowhere(site, level, variant):
            return Known(self._made(level, variant, route, site), site, route.secure, FOREVER)
        if not self._asks_sts(level, variant) or site.explicit or self._wants_dane(level, variant, route):
            return None
        sts = self.sts.known(domain, now)
        if sts is None:
            return None
        return self._kept(
            domain, variant, Known(self._made(level, variant, route, site, sts), site, route.secure, sts.expires_at)
        )

    def _may_be_stale(self, known: Known, route: Route, now: float) -> bool:
        """Whether what ran out may serve while it is asked for again, so that the domain's mail keeps its turn: that it
        publishes nothing. (RFC 8461 section 5.1 wants no mail to wait for a policy.)"""
        return (
            known.policy is OPPORTUNISTIC
            and known.site is route.site
            and known.secure is route.secure
            and known.expires_at + STALE_SECONDS > now
            and not self._flights.full("")
        )

    def _kept(self, domain: str, variant: int, known: Known) -> Known:
        self._known.put(f"{domain} {variant}" if variant else domain, known)
        return known

    def begin(self, domain: str, variant: int, now: float) -> None:
        """Mail waits for the domain's MX records: its MTA-STS record is asked for at the same time."""
        if self._asks_sts(self.level_of(domain), variant) and not domain.startswith("["):
            self.sts.begin(domain, now)

    async def find(self, domain: str, route: Route, variant: int, now: float) -> Known:
        """The policy of mail to a domain, and until when it holds."""
        known = self.known(domain, route, variant, now)
        if known is not None:
            return known
        site = route.site
        assert site is not None
        level = self.level_of(domain, route)
        wants_sts = self._asks_sts(level, variant) and not site.explicit and not domain.startswith("[")
        if wants_sts:
            # Most domains have no record: then that is all there is to know, without a task.
            await self.sts.asked(domain, now)
            known = self.known(domain, route, variant, self._app.clock.monotonic())
            if known is not None:
                return known
        key = f"{domain} {variant}" if variant else domain
        if self._flights.full(key):
            # Nothing is known, and nothing can be asked: no host will do, and soon again.
            return Known(intern("mta-sts"), site, route.secure, now + 1.0)
        return await self._flights.join(key, lambda: self._find(domain, route, variant, wants_sts, now))

    async def _find(self, domain: str, route: Route, variant: int, wants_sts: bool, now: float) -> Known:
        site = route.site
        assert site is not None
        generation = self._generation
        level = self.level_of(domain, route)
        asking: list[Coroutine[Any, Any, Any]] = []
        sts: Announced | None = None
        dane, until = False, FOREVER
        if wants_sts:
            asking.append(self.sts.find(domain, now))
        wants_dane = self._wants_dane(level, variant, route)
        if wants_dane:
            asking.append(self._publishes_tlsa(site, now))
        answers = await asyncio.gather(*asking)
        if wants_sts:
            sts = answers[0]
            until = min(until, sts.expires_at)
        if wants_dane:
            dane, dane_until = answers[-1]
            until = min(until, dane_until)
        if generation != self._generation:
            return await self.find(domain, route, variant, self._app.clock.monotonic())
        return self._kept(
            domain, variant, Known(self._made(level, variant, route, site, sts, dane), site, route.secure, until)
        )

    @staticmethod
    def _made(
        level: Level, variant: int, route: Route, site: Site, sts: Announced | None = None, dane: bool = False
    ) -> TlsPolicy:
        """The policy of what was found."""
        if variant == NORMAL and not dane and level == "opportunistic" and (sts is None or sts.policy is None):
            return OPPORTUNISTIC
        mode: str = ""
        mx: tuple[str, ...] = ()
        if sts is not None and sts.policy is not None:
            mode = "enforce" if level == "mta-sts" else sts.policy.mode
            mx = allowed(sts.policy.mx, hosts_of(site))
        believed = route.secure or site.explicit
        return intern(
            level,
            dane=dane or (level == "dane" and believed),
            mx=mx,
            sts_mode=mode,  # type: ignore[arg-type]
            requiretls=variant == REQUIRETLS,
            optional=variant == OPTIONAL and level in LOOKED_UP,
            secure_mx=believed,
        )

    def _asks_sts(self, level: Level, variant: int) -> bool:
        if variant == REQUIRETLS or level == "mta-sts":
            return True
        return self.config.mta_sts and level in LOOKED_UP and variant == NORMAL

    def _asks_dane(self, level: Level, variant: int) -> bool:
        if level == "dane" or variant == REQUIRETLS:
            return True
        return self.config.dane and (level == "mta-sts" or (level in LOOKED_UP and variant == NORMAL))

    def _wants_dane(self, level: Level, variant: int, route: Route) -> bool:
        """Whether the hosts are asked for TLSA records: they count only where the hosts' names can be believed."""
        assert route.site is not None
        return (route.secure or route.site.explicit) and self._asks_dane(level, variant)

    def _looks_nowhere(self, site: Site, level: Level, variant: int) -> bool:
        """Whether the policy needs no look-up at all."""
        if site.explicit and all(address_of(split_host(host)[0]) is not None for host in hosts_of(site)):
            return True  # addresses have neither MTA-STS nor TLSA records
        return not (self._asks_sts(level, variant) and not site.explicit) and not self._asks_dane(level, variant)

    async def _publishes_tlsa(self, site: Site, now: float) -> tuple[bool, float]:
        """Whether any host of a site has TLSA records, or may have; and until when that holds.

        Known beforehand, so that domains which are secured by DNSSEC share a queue with others at the same hosts, where
        the hosts have no TLSA records.
        """
        found = await asyncio.gather(*(self.tlsa_of(host, site.port, now) for host in hosts_of(site)))
        there = any(one.state not in ("none", "insecure") for one in found)
        return there, min((one.expires_at for one in found), default=FOREVER)

    async def tlsa_of(self, host: str, port: int, now: float) -> HostTlsa:
        """The TLSA records of a host as a site names it."""
        name, own_port = split_host(host)
        if address_of(name) is not None:
            return HostTlsa("none", name, expires_at=FOREVER)
        addresses = await self._app.router.addresses(host, now)
        if not addresses.addresses and not addresses.permanent:
            why = addresses.error or f"host {name} can't be looked up"
            return HostTlsa("failed", name, why=why, expires_at=addresses.expires_at)
        return await self.tlsa.of_host(name, own_port or port, addresses, now)

    # -- what it means for a host -------------------------------------------------------------------------------------

    async def host_plan(self, policy: TlsPolicy, target: Target, now: float) -> HostPlan:
        """What to do with one MX host. Never raises for what the DNS says."""
        if policy.level == "none" and not policy.requiretls:
            return PLAIN
        if policy.level == "implicit":
            return self._by_certificate(target, "pkix", "the route says implicit", mode="implicit")
        if policy.level == "verify" and not policy.requiretls:
            return self._by_certificate(target, "pkix", "the level is verify")
        if policy.level == "mta-sts" and target.host not in policy.mx:
            return self._by_sts(policy, target)
        plan = await self._by_tlsa(policy, target, now) if policy.dane else None
        if plan is not None and (plan.verified or plan.mode == "skip"):
            return plan
        if policy.level == "dane":
            return plan_skip("dane-required", self._no_dane(policy, target), "tlsa")
        if policy.sts_mode == "enforce":
            return self._by_sts(policy, target)
        if policy.requiretls:
            return self._by_requiretls(policy, target)
        return plan or self._by_level(policy, target)

    async def _by_tlsa(self, policy: TlsPolicy, target: Target, now: float) -> HostPlan | None:
        """By the host's TLSA records; None: it has none."""
        if address_of(target.host) is not None:
            return None
        found = await self.tlsa_of(target.host, target.port, now)
        text = tuple(record.text for record in found.records)
        if found.state == "failed":
            return plan_skip("dnssec-invalid", found.why, "tlsa", text)
        if found.state == "usable":
            names = tuple(dict.fromkeys((found.base, target.host)))
            return HostPlan(
                "starttls", True, self.contexts.dane(), found.base,
                check=Check(strongest(found.records), names, self._app.clock.wall),
                failure="validation-failure", why=f"{found.base} has TLSA records", verified="dane",
                policy_type="tlsa", policy_text=text,
            )  # fmt: skip
        if found.state == "unusable":
            if policy.level == "dane":
                why = f"no TLSA record of {found.base} can be used: {found.why}"
                return plan_skip("tlsa-invalid", why, "tlsa", text)
            why = f"{found.base} has TLSA records, none of which can be used ({found.why}): TLS with any certificate"
            return HostPlan(
                "starttls", True, self.contexts.unverified(), found.base, why=why, policy_type="tlsa", policy_text=text
            )
        return None

    @staticmethod
    def _no_dane(policy: TlsPolicy, target: Target) -> str:
        if not policy.dane:
            return "the level is dane, and the domain's MX records are not secured by DNSSEC"
        return f"the level is dane, and {target.host} has no TLSA records that are secured by DNSSEC"

    def _by_sts(self, policy: TlsPolicy, target: Target) -> HostPlan:
        if not policy.sts_mode:
            return plan_skip("sts-policy-fetch-error", "the level is mta-sts, and no MTA-STS policy is known", "sts")
        if target.host not in policy.mx:
            return plan_skip("validation-failure", f"the MTA-STS policy does not name {target.host}", "sts")
        return self._by_certificate(target, "mta-sts", "an MTA-STS policy names the host", policy_type="sts")

    def _by_requiretls(self, policy: TlsPolicy, target: Target) -> HostPlan:
        if target.host in policy.mx:
            why = "REQUIRETLS, and an MTA-STS policy names the host"
            return self._by_certificate(target, "mta-sts", why, policy_type="sts")
        if policy.secure_mx:
            return self._by_certificate(target, "pkix", "REQUIRETLS, and the host's name can be believed")
        why = f"the message has REQUIRETLS, and neither DNSSEC nor MTA-STS proves that {target.host} is the right host"
        return plan_skip("validation-failure", why)

    def _by_certificate(
        self, target: Target, verified: str, why: str, mode: Any = "starttls",
        policy_type: str = "no-policy-found",
    ) -> HostPlan:  # fmt: skip
        """With a certificate that a CA of ours vouches for."""
        try:
            context = self.contexts.verified()
        except OSError as error:
            self._app.count_error("tls")
            log.error("tls.outbound.ca_file %s can't be read (%s): some mail waits", self.config.ca_file, error)
            return plan_skip("validation-failure", f"the CAs of ca_file can't be read ({error})", policy_type)
        return HostPlan(
            mode, True, context, target.host, failure="validation-failure", why=why, verified=verified,
            policy_type=policy_type,
        )  # fmt: skip

    def _by_level(self, policy: TlsPolicy, target: Target) -> HostPlan:
        name = "" if address_of(target.host) is not None else target.host
        mandatory = policy.level != "opportunistic"
        kind = "sts" if policy.sts_mode else "no-policy-found"
        why = policy.words if mandatory else "TLS where it is offered"
        check = self._testing(policy, target) if policy.sts_mode == "testing" and not mandatory else None
        return HostPlan(
            "starttls", mandatory, self.contexts.unverified(), name, check=check,
            failure="validation-failure" if check else "", why=why, policy_type=kind,
        )  # fmt: skip

    def _testing(self, policy: TlsPolicy, target: Target) -> TestingCheck | None:
        """What a policy in testing mode would say of the host, for reports."""
        if self._pkix is None:
            try:
                self._pkix = Pkix(self.contexts.verified())
            except OSError:
                return None  # said where a certificate is needed
        return TestingCheck(self._pkix, target.host, target.host in policy.mx, self._app.clock.wall)

    # -- for reports and people ---------------------------------------------------------------------------------------

    def published(self, domain: str) -> tuple[str, ...]:
        """The lines of the domain's MTA-STS policy (RFC 8460 policy-string); none where none is known."""
        return self.sts.lines_of(domain)

    async def close(self) -> None:
        """Stop what is being looked up."""
        await self._flights.close()
        if self._records is not None:
            await self._records.flights.close()
        await self.sts.close()


def hosts_of(site: Site) -> list[str]:
    """The hosts of a site, best first."""
    return [host for group in site.groups for host in group]


def plan_skip(
    failure: str, why: str, policy_type: str = "no-policy-found", policy_text: tuple[str, ...] = ()
) -> HostPlan:
    """A host that is passed over."""
    return HostPlan("skip", True, failure=failure, why=why, policy_type=policy_type, policy_text=policy_text)
