"""Twelve mailbox providers, their MX hosts and any number of domains, as a DNS zone and a list of addresses.

The MX names are those real providers use, so that a relay's provider table recognises them; the domains are under
``.example``, which no resolver but ours knows, so nothing can reach a real provider by mistake. Large providers
share a few MX hosts among many domains; the one called "other" gives each domain MX names of its own.

Known faults: the shares of the providers are round figures, not measured ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fastrelay.sim.dns import Zone

MOST_DOMAINS = 100_000


@dataclass(frozen=True)
class Provider:
    """Who runs a set of MX hosts, and what share of the domains is with them."""

    name: str
    weight: int  # of 100 domains, about
    hosts: tuple[tuple[int, str], ...]  # (preference, MX host name); "{domain}" makes the names the domain's own


PROVIDERS: tuple[Provider, ...] = (
    Provider(
        "google",
        26,
        (
            (1, "aspmx.l.google.com"),
            (5, "alt1.aspmx.l.google.com"),
            (5, "alt2.aspmx.l.google.com"),
            (10, "alt3.aspmx.l.google.com"),
        ),
    ),
    Provider("microsoft365", 18, ((0, "sim-tenant.mail.protection.outlook.com"),)),
    Provider("outlook", 8, ((10, "sim.olc.protection.outlook.com"), (10, "sim2.olc.protection.outlook.com"))),
    Provider("yahoo", 8, ((1, "mta5.am0.yahoodns.net"), (1, "mta6.am0.yahoodns.net"), (1, "mta7.am0.yahoodns.net"))),
    Provider("apple", 4, ((10, "mx01.mail.icloud.com"), (10, "mx02.mail.icloud.com"))),
    Provider("comcast", 3, ((5, "mx1h1.comcast.net"), (5, "mx2h1.comcast.net"))),
    Provider("gmx_webde", 7, ((10, "mx00.gmx.net"), (10, "mx01.gmx.net"))),
    Provider("orange", 5, ((10, "smtp-in.orange.fr"),)),
    Provider("mailru", 3, ((10, "mxs.mail.ru"),)),
    Provider("qq", 4, ((10, "mx1.qq.com"), (20, "mx2.qq.com"))),
    Provider("netease", 3, ((10, "163mx01.mxmail.netease.com"), (50, "163mx00.mxmail.netease.com"))),
    Provider("other", 11, ((10, "mx1.{domain}"), (20, "mx2.{domain}"))),
)

BY_NAME: Mapping[str, Provider] = {provider.name: provider for provider in PROVIDERS}


@dataclass(frozen=True)
class Internet:
    """What stands in the box: the zone, where the MX hosts listen, and the domains by provider."""

    zone: Zone
    addresses: dict[str, str]  # loopback address → provider
    domains: tuple[tuple[str, str], ...]  # (domain, provider), in a mixed order


def domain_names(count: int) -> Iterator[tuple[str, str]]:
    """(domain, provider), ``count`` of them; providers take turns by weight, each at least once if count allows."""
    if not 1 <= count <= MOST_DOMAINS:
        raise ValueError(f"between 1 and {MOST_DOMAINS} domains, not {count}")
    credit = {provider.name: float(provider.weight) for provider in PROVIDERS}
    given: set[str] = set()
    for number in range(count):
        unseen = [provider for provider in PROVIDERS if provider.name not in given]
        chosen = (unseen or sorted(PROVIDERS, key=lambda each: -credit[each.name]))[0]
        given.add(chosen.name)
        for provider in PROVIDERS:
            credit[provider.name] += provider.weight / 100
        credit[chosen.name] -= 1.0
        yield f"{chosen.name.replace('_', '-')}{number:05d}.example", chosen.name


def build(domains: int = 500, subnet: str = "127.77", ttl: int = 300) -> Internet:
    """The whole box: every provider's MX hosts get addresses ``<subnet>.<provider>.<host>``."""
    zone = Zone(ttl=ttl)
    addresses: dict[str, str] = {}
    for number, provider in enumerate(PROVIDERS, 1):
        for host, (_, name) in enumerate(provider.hosts, 1):
            address = f"{subnet}.{number}.{host}"
            addresses[address] = provider.name
            if "{domain}" not in name:
                zone.address(name, address)
    listed = tuple(domain_names(domains))
    numbers = {provider.name: number for number, provider in enumerate(PROVIDERS, 1)}
    for domain, provider_name in listed:
        provider = BY_NAME[provider_name]
        zone.mx(domain, [(preference, name.format(domain=domain)) for preference, name in provider.hosts])
        for host, (_, name) in enumerate(provider.hosts, 1):
            if "{domain}" in name:
                zone.address(name.format(domain=domain), f"{subnet}.{numbers[provider_name]}.{host}")
    return Internet(zone, addresses, listed)
