"""One look of the doctor: which checks there are for which subject, all at once, each with a deadline.

A check never raises for what the network, the DNS or a file does; one that does raise is a bug of ours, and is shown as
a finding of its own (unknown), so that one fault does not hide all other findings.

Known faults: certificates are read from their files, not asked of the listeners; one MX host that greets is enough to
call the way out open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastrelay.clock import Clock
from fastrelay.config.schema import Config
from fastrelay.dkim.keys import Keyring
from fastrelay.doctor import (
    certificate,
    dkim_check,
    dmarc_check,
    host_check,
    mx_check,
    names_check,
    network_check,
    policy_check,
    spf_check,
)
from fastrelay.doctor.findings import CHECKS, SEVERITIES, SLOW_CHECKS, Finding, Report
from fastrelay.doctor.look import Look
from fastrelay.doctor.lookups import Lookups, Questions
from fastrelay.doctor.subjects import Sender, SenderDomain, subjects_of
from fastrelay.route.resolver import Resolver
from fastrelay.tls.fetch import Fetcher
from fastrelay.tls.mta_sts import Policy

AT_ONCE = 100  # checks under way; the resolver bounds the queries on the wire
CHECK_DEADLINE = 6  # times doctor.timeout: the longest chains of look-ups are an SPF record's includes
DISK_LAST = ("disk",)  # its figure wants a machine that does nothing else

Act = Callable[[], Awaitable[list[Finding]]]
Progress = Callable[[int, int, str], None]

SOURCE_CHECKS: dict[str, Callable[[Look, Sender], Awaitable[list[Finding]]]] = {
    "address": names_check.check_address,
    "ptr": names_check.check_ptr,
    "ehlo": names_check.check_ehlo,
    "helo_spf": spf_check.check_helo_spf,
    "block_lists": names_check.check_block_lists,
    "port_25": network_check.check_port_25,
}
DOMAIN_CHECKS: dict[str, Callable[[Look, SenderDomain], Awaitable[list[Finding]]]] = {
    "spf": spf_check.check_spf,
    "dkim": dkim_check.check_dkim,
    "dmarc": dmarc_check.check_dmarc,
    "mx": mx_check.check_mx,
    "mta_sts": mx_check.check_mta_sts,
    "tls_rpt": mx_check.check_tls_rpt,
}
HOST_CHECKS: dict[str, Callable[[Look], Awaitable[list[Finding]]]] = {
    "certificate": certificate.check_certificate,
    "outbound_tls": policy_check.check_outbound_tls,
    "unsubscribe": policy_check.check_unsubscribe,
    "resolver": network_check.check_resolver,
    "clock": host_check.check_clock,
    "open_files": host_check.check_open_files,
    "port_range": host_check.check_port_range,
    "secrets": host_check.check_secrets,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What to look at. Empty: everything.

    only   checks by name; quick: without SLOW_CHECKS (unless `only` names one)
    """

    domains: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    quick: bool = False

    def wants(self, check: str) -> bool:
        return check in self.only if self.only else not (self.quick and check in SLOW_CHECKS)

    @property
    def complete(self) -> bool:
        return not (self.domains or self.sources or self.only or self.quick)


@dataclass(slots=True)
class Doctor:
    """Looks once.

    resolver  None: one for the configured nameservers
    relay     the answer of the running relay's `status`; empty without one
    fetch     the MTA-STS policy of a domain; None: over HTTPS (tls/fetch.py)
    progress  called with (done, all, what is done) as checks end
    """

    config: Config
    clock: Clock
    wish: Wish = Wish()
    resolver: Questions | None = None
    relay: dict[str, Any] = field(default_factory=dict)
    fetch: Callable[[str], Awaitable[Policy]] | None = None
    progress: Progress | None = None

    async def look(self) -> Report:
        """All findings, in the order of the output."""
        dns = self._lookups()
        config = self.config
        async with Fetcher(
            dns,  # type: ignore[arg-type]  # all it wants of a resolver is `query`
            self.clock.monotonic,
            timeout=config.doctor.timeout_seconds,
            allow_private=config.delivery.allow_private_hosts,
        ) as fetcher:
            try:
                return await self._all(self._look(dns, self.fetch or fetcher.fetch))
            finally:
                await dns.close()

    async def _all(self, look: Look) -> Report:
        """Every check that is wished for."""
        began = self.clock.monotonic()
        acts = self._acts(look)
        done = 0
        found: list[list[Finding]] = [[] for _ in acts]
        places = asyncio.Semaphore(AT_ONCE)

        async def one(at: int, check: str, subject: str, act: Act) -> None:
            nonlocal done
            async with places:
                found[at] = await self._carry_out(check, subject, act)
            done += 1
            if self.progress is not None:
                self.progress(done, len(acts), f"{check} {subject}")

        await asyncio.gather(*(one(at, *act) for at, act in enumerate(acts) if act[0] not in DISK_LAST))
        for at, act in enumerate(acts):
            if act[0] in DISK_LAST:
                await one(at, *act)
        findings = _ordered([finding for group in found for finding in group] + self._left_out(look))
        took = self.clock.monotonic() - began
        return Report(findings=findings, finished=self.clock.wall(), took_seconds=took, complete=self.wish.complete)

    def _lookups(self) -> Lookups:
        config, timeout = self.config, self.config.doctor.timeout_seconds
        resolver = self.resolver or Resolver(
            config.dns.nameservers, timeout=min(config.dns.timeout_seconds, timeout), tries=config.dns.tries
        )
        return Lookups(resolver, timeout)

    def _look(self, dns: Lookups, fetch: Callable[[str], Awaitable[Policy]]) -> Look:
        config = self.config
        subjects = subjects_of(config, self.wish.domains, self.wish.sources)
        timeout = config.doctor.timeout_seconds
        return Look(config, dns, subjects, self.clock.wall(), timeout, fetch, self.relay)

    def _acts(self, look: Look) -> list[tuple[str, str, Act]]:
        """(check, subject, what to do) of everything that is wished for."""
        acts: list[tuple[str, str, Act]] = []
        for sender in look.subjects.senders:
            acts += [(check, sender.label, partial(act, look, sender)) for check, act in SOURCE_CHECKS.items()]
        for domain in look.subjects.domains:
            acts += [(check, domain.name, partial(by, look, domain)) for check, by in DOMAIN_CHECKS.items()]
        if self.wish.wants("dkim"):
            acts += self._key_acts(look)
        acts += [(check, "host", partial(of_host, look)) for check, of_host in HOST_CHECKS.items()]
        acts.append(("disk", "host", partial(host_check.check_disk, look, self.clock)))
        return [act for act in acts if self.wish.wants(act[0])]

    def _key_acts(self, look: Look) -> list[tuple[str, str, Act]]:
        """The keys that sign for the domains looked at; all of them where none is chosen."""
        keyring = Keyring(self.config.dkim)
        keyring.load()
        names = [domain.name for domain in look.subjects.domains]
        return [
            ("dkim", slot.config.domain, partial(dkim_check.check_key, look, slot))
            for slot in keyring.slots
            if not self.wish.domains
            or slot.config.domain in names
            or any(dkim_check.fits(slot.config, name) for name in names)
        ]

    async def _carry_out(self, check: str, subject: str, act: Act) -> list[Finding]:
        try:
            async with asyncio.timeout(CHECK_DEADLINE * self.config.doctor.timeout_seconds):
                return await act()
        except TimeoutError:
            found = "could not tell: it took too long (doctor.timeout sets the patience)"
        except Exception as error:
            found = f"could not tell: the check itself failed ({error!r}); please report this"
        return [Finding(check=check, subject=subject, severity="unknown", found=found)]

    def _left_out(self, look: Look) -> list[Finding]:
        """Patterns of sender domains that name no domain."""
        return [
            Finding(
                check="spf",
                subject=pattern,
                severity="note",
                found=f"{pattern} is a pattern: no domain of it is known, so none was looked at",
                mend="name the domains in doctor.domains, or with --domain",
            )
            for pattern in look.subjects.left_out
            if self.wish.wants("spf")
        ]


def _ordered(findings: Sequence[Finding]) -> list[Finding]:
    """By area, then subject (those in trouble first), then check; the same finding once."""
    unique = list(dict.fromkeys(findings))
    areas = list(dict.fromkeys(area for area, _ in CHECKS.values()))
    checks = list(CHECKS)
    first: dict[str, int] = {}
    for finding in unique:
        first.setdefault(finding.subject, len(first))
    return sorted(
        unique,
        key=lambda one: (
            areas.index(CHECKS[one.check][0]),
            first[one.subject],
            checks.index(one.check),
            -SEVERITIES.index(one.severity),
        ),
    )
