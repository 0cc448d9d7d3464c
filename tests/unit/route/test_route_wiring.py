"""A configuration becomes a router and a resolver that obey it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgspec
import pytest

from fastrelay.config.schema import Config, Delivery, Dns, Route, from_builtins, to_builtins
from fastrelay.route import make_resolver, make_router


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
