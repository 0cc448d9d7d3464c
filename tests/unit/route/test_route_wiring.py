"""A configuration becomes a router and a resolver that obey it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgspec
import pytest

from fastrelay.config.load import load_text
from fastrelay.config.schema import (
    Config,
    Delivery,
    Dns,
    Listeners,
    Route,
    SmtpListener,
    Source,
    from_builtins,
    to_builtins,
)
from fastrelay.route import make_resolver, make_router, public_listeners


def test_a_configuration_is_obeyed(dns: Any) -> None:
    config = Config(
        hostname="mta1.news.example",
        routes=[
            Route(domains=["smart.example"], hosts=["127.0.0.1:2526", "relay.test"]),
            Route(domains=["*.drop.example"], action="discard"),
        ],
        delivery=Delivery(port=2525, allow_private_hosts=True, prefer_ipv6=True, addresses_per_host=2),
        dns=Dns(min_ttl_seconds=10, max_ttl_seconds=20, negative_ttl_seconds=15, cache_size=7),
    )
    config = from_builtins(msgspec.json.decode(msgspec.json.encode(to_builtins(config))))  # as a worker gets it
    router = make_router(config, resolver=dns, own_names=["mta1.news.example"], own_addresses=["9.9.9.9"])
    dns.mx("example.com", (10, "a.test"))
    dns.host("a.test", "10.0.0.1", "10.0.0.2", "fd00::1")

    async def scenario() -> None:
        smart = (await router.resolve("smart.example", 0.0)).site
        assert smart is not None
        assert smart.groups == (("127.0.0.1:2526",), ("relay.test:2525",))
        assert (await router.resolve("x.drop.example", 0.0)).action == "discard"
        route = await router.resolve("example.com", 0.0)
        assert route.site is not None
        assert (route.site.key, route.expires_at) == ("a.test:2525", 20.0)
        assert (await router.resolve("gone.example", 0.0)).expires_at == 15.0
        targets, _ = await router.targets(route.site, 0.0)
        assert [(target.family, target.address) for target in targets] == [
            (socket.AF_INET6, "fd00::1"),
            (socket.AF_INET, "10.0.0.1"),
        ]

    asyncio.run(scenario())
    assert router.book.cache.max_entries == 7


def test_the_resolver_of_a_configuration() -> None:
    config = Config(hostname="a.test", dns=Dns(nameservers=["127.0.0.1:5353", "[::1]:53"], timeout_seconds=2, tries=4))
    resolver = make_resolver(config)
    assert [server.name for server in resolver.nameservers] == ["127.0.0.1:5353", "[::1]:53"]
    assert (resolver.timeout, resolver.tries) == (2, 4)
    assert make_resolver(Config(hostname="a.test")).nameservers  # the system's
    with pytest.raises(ValueError):
        make_resolver(Config(hostname="a.test", dns=Dns(nameservers=["ns.example"])))


def test_providers_of_the_configuration(dns: Any) -> None:
    config = load_text(
        """
hostname: mta1.news.example
providers:
  google: {suffixes: [mx.gift.example]}
  house: {suffixes: [mx.house.example, olc.google.com]}
"""
    )
    router = make_router(config, resolver=dns)

    def provider(host: str) -> str:
        return router.sites.of_mx([(1, host)], 25).provider

    assert provider("a.mx.gift.example") == "google"
    assert provider("mx.house.example") == "house"
    assert provider("x.olc.google.com") == "house"  # the longer suffix wins
    assert provider("aspmx.google.com") == "google"
    assert router.sites.providers.match("x.olc.google.com") == ("house", "olc.google.com", "providers.house")
    assert router.sites.providers.match("mx.example") == ("other", "", "")


def test_a_reload_changes_the_provider_of_a_known_site(dns: Any) -> None:
    before = make_router(Config(hostname="a.test"), resolver=dns)
    site = before.sites.of_mx([(1, "mx.house.example")], 25)
    assert site.provider == "other"
    config = load_text("hostname: a.test\nproviders: {house: {suffixes: [house.example]}}")
    after = make_router(config, resolver=dns, sites=before.sites)
    assert after.sites.of_mx([(1, "mx.house.example")], 25) is site
    assert site.provider == "house"


def test_a_suffix_may_be_taken_from_a_built_in_provider(dns: Any) -> None:
    config = load_text("hostname: a.test\nproviders: {mine: {suffixes: [gmx.net]}}")
    providers = make_router(config, resolver=dns).sites.providers
    assert providers.of_host("mx00.gmx.net") == "mine"
    assert providers.of_host("mx00.web.de") == "gmx_webde"
    assert {"mine", "other", "google"} <= providers.names()
    assert providers.suffixes("mine") == ["gmx.net"]
    assert "gmx.net" not in providers.suffixes("gmx_webde")


@pytest.mark.parametrize(
    ("bind", "address", "public", "found"),
    [
        ("0.0.0.0:25", "10.0.0.5", "192.0.2.5", ["192.0.2.5:25"]),
        ("10.0.0.5:2525", "10.0.0.5", "192.0.2.5", ["192.0.2.5:2525"]),
        ("10.0.0.6:25", "10.0.0.5", "192.0.2.5", []),
        ("[::]:25", "10.0.0.5", "192.0.2.5", []),
        ("[::]:25", "fd00::5", "2001:db8::5", ["[2001:db8::5]:25"]),
        ("0.0.0.0:25", "10.0.0.5", None, []),
    ],
)
def test_where_listeners_are_seen_outside(bind: str, address: str, public: str | None, found: list[str]) -> None:
    config = Config(
        hostname="a.test",
        listeners=Listeners(smtp=[SmtpListener(bind=bind)]),
        sources=[Source(name="a", address=address, public_address=public)],
    )
    assert public_listeners(config) == found


def test_mail_for_our_public_address_is_a_loop(dns: Any) -> None:
    config = load_text(
        'hostname: a.test\nlisteners: {smtp: [{bind: "10.0.0.5:25"}]}\n'
        "sources: [{name: a, address: 10.0.0.5, public_address: 9.9.9.9}]"
    )
    router = make_router(config, resolver=dns, own_addresses=["10.0.0.5:25"])
    dns.mx("us.example", (10, "mx.us.test"))
    dns.host("mx.us.test", "9.9.9.9")
    route = asyncio.run(router.resolve("us.example", 0.0))
    assert (route.action, route.enhanced) == ("fail", "5.4.6")
