"""From a domain to a site: DNS, explicit routes, providers. Start at router.py; `make_router` wires it up."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from fastrelay.config.schema import Config
from fastrelay.config.units import format_endpoint
from fastrelay.route.addresses import Addresses
from fastrelay.route.cache import Lifetimes
from fastrelay.route.names import InvalidDomain, normalize_domain
from fastrelay.route.providers import make_providers
from fastrelay.route.resolver import Resolver
from fastrelay.route.router import Failure, Route, Router, Target
from fastrelay.route.rules import Rule
from fastrelay.route.site import Site, Sites

__all__ = [
    "Addresses",
    "Failure",
    "InvalidDomain",
    "Resolver",
    "Route",
    "Router",
    "Site",
    "Sites",
    "Target",
    "make_resolver",
    "make_router",
    "normalize_domain",
]


def make_resolver(config: Config) -> Resolver:
    """The resolver that a configuration asks for. Raises ValueError for a nameserver that is no address."""
    dns = config.dns
    return Resolver(dns.nameservers, timeout=dns.timeout_seconds, tries=dns.tries, trust_ad=dns.trust_ad)


def public_listeners(config: Config) -> list[str]:
    """Where the outside reaches our SMTP listeners through the NAT that sources have (`public_address`)."""
    found: dict[str, None] = {}
    for listener in config.listeners.smtp:
        host, port = listener.address
        for source in config.sources:
            everywhere = "::" if ":" in source.address else "0.0.0.0"
            if source.public_address and host in (source.address, everywhere):
                found[format_endpoint(source.public_address, port)] = None
    return list(found)


def make_router(
    config: Config,
    *,
    resolver: Resolver | None = None,
    sites: Sites | None = None,
    own_names: Iterable[str] = (),
    own_addresses: Iterable[str] = (),
    clock: Callable[[], float] | None = None,
) -> Router:
    """The router that a configuration asks for.

    sites  give the old router's at a reload, so that sites stay the same objects
    """
    dns = config.dns
    if sites is not None:
        sites.use(make_providers(config.providers))
    families = (socket.AF_INET, socket.AF_INET6)
    return Router(
        resolver or make_resolver(config),
        sites=sites if sites is not None else Sites(make_providers(config.providers)),
        rules=[
            Rule(tuple(one.domains), tuple(one.hosts or ()), one.action, one.tls or "", one.username or "")
            for one in config.routes
        ],
        port=config.delivery.port,
        allow_private_hosts=config.delivery.allow_private_hosts,
        own_names=own_names,
        own_addresses=[*own_addresses, *public_listeners(config)],
        lifetimes=Lifetimes(
            min_ttl=dns.min_ttl_seconds, max_ttl=dns.max_ttl_seconds, negative_ttl=dns.negative_ttl_seconds
        ),
        families=families[::-1] if config.delivery.prefer_ipv6 else families,
        max_addresses=config.delivery.addresses_per_host,
        cache_size=dns.cache_size,
        clock=clock,
    )
