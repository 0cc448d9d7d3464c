"""Every rule of routing, over a DNS made of a dict."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay.route.cache import Lifetimes
from fastrelay.route.providers import built_in
from fastrelay.route.resolver import Answer
from fastrelay.route.router import Failure, Route, Router
from fastrelay.route.rules import Rule
from fastrelay.route.site import Site, Sites

V4, V6 = socket.AF_INET, socket.AF_INET6


def resolve(router: Router, domain: str, now: float = 0.0) -> Route:
    return asyncio.run(router.resolve(domain, now))


def site_of(route: Route) -> Site:
    assert route.action == "site", route
    assert route.site is not None
    return route.site


def reply(route: Route) -> str:
    assert route.site is None
    return f"{route.action} {route.code} {route.enhanced}"


# -- MX ---------------------------------------------------------------------------------------------------------------


def test_mx_by_preference(dns: Any, make: Any) -> None:
    dns.mx("example.com", (20, "backup.test"), (10, "b.test"), (10, "a.test"))
    router = make()
    route = resolve(router, "example.com", 50.0)
    site = site_of(route)
    assert site.groups == (("a.test", "b.test"), ("backup.test",))
    assert site.key == "a.test,b.test;backup.test:25"
    assert (site.port, site.provider, site.explicit) == (25, "other", False)
    assert route.expires_at == 650.0
    assert dict(dns.asked) == {("example.com", "MX"): 1}  # addresses are for those who connect


def test_port(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"))
    assert site_of(resolve(make(port=2526), "example.com")).key == "a.test:2526"


@pytest.mark.parametrize("records", [[(0, ".")], [(10, ".")], [(0, "."), (10, ".")]])
def test_null_mx(dns: Any, make: Any, records: list[tuple[int, str]]) -> None:
    dns.mx("example.com", *records)
    dns.host("example.com", "8.8.8.8")  # no fall back on the address
    router = make()
    assert reply(resolve(router, "example.com")) == "fail 556 5.1.10"
    assert router.stats.null_mx == 1


def test_null_mx_beside_others_is_ignored(dns: Any, make: Any) -> None:
    dns.mx("example.com", (0, "."), (10, "a.test"))
    assert site_of(resolve(make(), "example.com")).groups == (("a.test",),)


def test_implicit_mx(dns: Any, make: Any) -> None:
    dns.host("example.com", "8.8.8.8")
    route = resolve(make(), "example.com")
    assert site_of(route).key == "example.com:25"
    assert route.implicit
    assert route.expires_at == 120  # that of "no MX", less than the address's
    dns.host("six.example", "2a00::1")
    assert site_of(resolve(make(), "six.example")).key == "six.example:25"


def test_implicit_mx_at_a_private_address(dns: Any, make: Any) -> None:
    dns.host("example.com", "10.0.0.1")
    route = resolve(make(), "example.com")
    assert reply(route) == "fail 550 5.4.4"
    assert "allow_private_hosts" in route.text
    assert resolve(make(allow_private_hosts=True), "example.com").action == "site"


def test_no_address_instead_of_unusable_mx(dns: Any, make: Any) -> None:
    dns.mx(
        "example.com", (10, "not a host"), (20, "a\\032b.test"), (30, "x" * 64 + ".test"), (40, "192.0.2.1"), (0, ".")
    )
    dns.host("example.com", "8.8.8.8")
    router = make()
    route = resolve(router, "example.com")
    assert reply(route) == "fail 550 5.4.4"
    assert "not a host" in route.text
    assert router.stats.ignored_mx == 5


def test_junk_beside_a_host_is_ignored(dns: Any, make: Any) -> None:
    dns.mx("example.com", (1, "evil;mx.test"), (2, "a" * 300), (3, "m\\195.test"), (10, "a.test"))
    assert site_of(resolve(make(), "example.com")).groups == (("a.test",),)


def test_many_records_are_bounded(dns: Any, make: Any) -> None:
    dns.mx("example.com", *((number % 7, f"mx{number}.test") for number in range(1000)))
    site = site_of(resolve(make(), "example.com"))
    assert sum(map(len, site.groups)) == 50
    assert len(site.key) <= 160


def test_nxdomain(dns: Any, make: Any) -> None:
    router = make()
    route = resolve(router, "gone.example", 0.0)
    assert reply(route) == "fail 550 5.1.2"
    assert "does not exist" in route.text
    assert router.cached("gone.example", 119.0) is route
    assert router.cached("gone.example", 120.0) is None
    assert dict(dns.asked) == {("gone.example", "MX"): 1}


def test_nodata_for_everything(dns: Any, make: Any) -> None:
    dns.exists("empty.example")
    route = resolve(make(), "empty.example")
    assert reply(route) == "fail 550 5.4.4"
    assert "neither MX nor address" in route.text
    assert dns.asked["empty.example", "A"] == dns.asked["empty.example", "AAAA"] == 1


@pytest.mark.parametrize("failing", [("example.com", "MX"), ("example.com", "A")])
def test_the_dns_cannot_say(dns: Any, make: Any, failing: tuple[str, str]) -> None:
    dns.exists("example.com")
    dns.failing.add(failing)
    router = make()
    route = resolve(router, "example.com", 100.0)
    assert reply(route) == "defer 451 4.4.3"
    assert "SERVFAIL" in route.text
    assert route.expires_at == 130.0
    assert router.cached("example.com", 129.0) is route  # no query for each message meanwhile
    assert router.cached("example.com", 130.0) is None


def test_implicit_mx_with_one_family_failing(dns: Any, make: Any) -> None:
    dns.host("example.com", "8.8.8.8")
    dns.failing.add(("example.com", "AAAA"))
    route = resolve(make(), "example.com")
    assert site_of(route).key == "example.com:25"
    assert route.expires_at == 60


def test_deferrals_wait_longer_each_time_and_start_over(dns: Any, make: Any) -> None:
    dns.failing.add("example.com")
    router, now, waits = make(), 0.0, []
    for _ in range(4):
        route = resolve(router, "example.com", now)
        waits.append(route.expires_at - now)
        now = route.expires_at
    assert waits == [30, 45, 60, 60]
    dns.failing.clear()
    dns.mx("example.com", (10, "a.test"), ttl=60)
    now = resolve(router, "example.com", now).expires_at + 10_000
    dns.failing.add("example.com")
    assert resolve(router, "example.com", now).expires_at == now + 30


def test_not_a_domain(dns: Any, make: Any) -> None:
    router = make()
    route = resolve(router, "exa mple.com")
    assert reply(route) == "fail 550 5.1.2"
    assert router.cached("exa mple.com", 1.0) is route
    long = "x" * 100_000
    assert len(resolve(router, long).text) < 1000
    assert router.cached(long, 1.0) is None  # names of any length are not kept
    assert not dns.asked


def test_idna_is_asked_for_as_a_labels(dns: Any, make: Any) -> None:
    dns.mx("xn--bcher-kva.example", (10, "a.test"))
    router = make()
    route = resolve(router, "Bücher.example")
    assert site_of(route).groups == (("a.test",),)
    assert route.domain == "xn--bcher-kva.example"
    assert router.cached("Bücher.example", 1.0) is route
    assert router.cached("xn--bcher-kva.example", 1.0) is route
    assert resolve(router, "BÜCHER.example.") is route
    assert sum(dns.asked.values()) == 1


def test_another_spelling_follows_the_refresh(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"))
    router = make()
    resolve(router, "EXAMPLE.com")
    dns.mx("example.com", (10, "b.test"))
    fresh = resolve(router, "example.com", 600.0)
    assert site_of(fresh).groups == (("b.test",),)
    assert router.cached("EXAMPLE.com", 600.0) is fresh


# -- address literals -------------------------------------------------------------------------------------------------


def test_address_literals(dns: Any, make: Any) -> None:
    router = make()
    route = resolve(router, "[8.8.8.8]")
    assert site_of(route).groups == (("8.8.8.8",),)
    assert not route.implicit
    assert site_of(resolve(router, "[IPv6:2A00::1]")).key == "[2a00::1]:25"
    targets, failure = asyncio.run(router.targets(site_of(resolve(router, "[IPv6:2a00::1]")), 0.0))
    assert [(target.family, target.address, target.port) for target in targets] == [(V6, "2a00::1", 25)]
    assert failure is None
    assert not dns.asked


@pytest.mark.parametrize("domain", ["[127.0.0.1]", "[IPv6:::1]", "[10.0.0.1]", "[IPv6:::ffff:10.0.0.1]", "[224.0.0.1]"])
def test_private_address_literals(make: Any, domain: str) -> None:
    route = resolve(make(), domain)
    assert reply(route) == "fail 550 5.4.4"
    assert "allow_private_hosts" in route.text
    assert resolve(make(allow_private_hosts=True), domain).action == "site"


def test_broken_address_literal(make: Any) -> None:
    assert reply(resolve(make(), "[1.2.3]")) == "fail 550 5.1.2"


# -- explicit routes --------------------------------------------------------------------------------------------------


def test_explicit_routes(dns: Any, make: Any) -> None:
    dns.mx("other.example", (10, "a.test"))
    rules = [
        Rule(("example.com", "*.example.com"), ("127.0.0.1:2526", "relay.test", "[::1]:2527")),
        Rule(("dropped.example",), action="discard"),
        Rule(("refused.example",), action="reject"),
        Rule(("*.example.com",), ("never.test",)),
    ]
    router = make(rules=rules)
    site = site_of(resolve(router, "a.example.com"))
    assert site.explicit
    assert site.groups == (("127.0.0.1:2526",), ("relay.test:25",), ("[::1]:2527",))
    assert site_of(resolve(router, "example.com")) is site
    assert reply(resolve(router, "dropped.example")) == "discard 0 "
    assert reply(resolve(router, "refused.example")) == "reject 550 5.7.1"
    assert not dns.asked
    assert site_of(resolve(router, "other.example")).key == "a.test:25"
    assert router.cached("example.com", 1e12) is not None  # no TTL


def test_everything_to_a_smart_host(dns: Any, make: Any) -> None:
    dns.host("inside.test", "10.0.0.9")
    router = make(rules=[Rule(("*",), ("inside.test:2526",))])
    domains = ["a.example", "[127.0.0.1]", "xn--bcher-kva.example", "gone.example"]
    sites = {site_of(resolve(router, domain)) for domain in domains}
    assert len(sites) == 1
    targets, _ = asyncio.run(router.targets(sites.pop(), 0.0))
    assert [(target.address, target.port) for target in targets] == [("10.0.0.9", 2526)]


def test_a_route_to_our_own_listener_is_a_loop(make: Any) -> None:
    rules = [Rule(("a.test",), ("127.0.0.1:2525",)), Rule(("b.test",), ("127.0.0.1:2525", "127.0.0.1:2526"))]
    router = make(rules=rules, own_addresses=["127.0.0.1:2525"])
    assert reply(resolve(router, "a.test")) == "fail 554 5.4.6"
    assert site_of(resolve(router, "b.test")).groups == (("127.0.0.1:2526",),)


# -- loops to ourselves -----------------------------------------------------------------------------------------------

OWN = {"own_names": ["MTA1.news.example."], "own_addresses": ["8.8.8.8", "2a00::8"]}


def loop_dns(dns: Any) -> None:
    dns.host("self.test", "8.8.8.8")
    dns.host("better.test", "9.9.9.1")
    dns.host("equal.test", "9.9.9.2")
    dns.host("worse.test", "9.9.9.3")
    dns.host("six.test", "2a00::8")


@pytest.mark.parametrize("own", ["mta1.news.example", "self.test", "six.test"])
def test_equal_and_worse_than_ourselves_are_dropped(dns: Any, make: Any, own: str) -> None:
    loop_dns(dns)
    dns.mx("example.com", (5, "better.test"), (10, own), (10, "equal.test"), (20, "worse.test"))
    assert site_of(resolve(make(**OWN), "example.com")).groups == (("better.test",),)


@pytest.mark.parametrize("own", ["mta1.news.example", "self.test", "six.test"])
def test_being_the_best_is_a_loop(dns: Any, make: Any, own: str) -> None:
    loop_dns(dns)
    dns.mx("example.com", (10, "equal.test"), (10, own), (20, "worse.test"))
    router = make(**OWN)
    route = resolve(router, "example.com")
    assert reply(route) == "fail 554 5.4.6"
    assert own in route.text
    assert router.stats.loops == 1


def test_the_best_of_our_places_counts(dns: Any, make: Any) -> None:
    loop_dns(dns)
    dns.mx("example.com", (5, "better.test"), (10, "self.test"), (20, "mta1.news.example"))
    assert site_of(resolve(make(**OWN), "example.com")).groups == (("better.test",),)
    dns.mx("example.org", (5, "better.test"), (10, "mta1.news.example"), (20, "self.test"))
    assert site_of(resolve(make(**OWN), "example.org")).groups == (("better.test",),)


def test_a_better_host_that_does_not_resolve_is_no_loop(dns: Any, make: Any) -> None:
    loop_dns(dns)
    dns.mx("example.com", (5, "gone.test"), (10, "self.test"))
    router = make(**OWN)
    site = site_of(resolve(router, "example.com"))
    assert site.groups == (("gone.test",),)
    _, failure = asyncio.run(router.targets(site, 0.0))
    assert failure is not None
    assert failure.enhanced == "5.4.4"


def test_implicit_mx_and_literals_to_ourselves(dns: Any, make: Any) -> None:
    dns.host("example.com", "8.8.8.8")
    dns.host("mta1.news.example", "9.9.9.9")
    for domain in ("example.com", "mta1.news.example", "[8.8.8.8]", "[IPv6:2a00:0::8]"):
        assert reply(resolve(make(**OWN), domain)) == "fail 554 5.4.6"


def test_an_own_address_with_a_port_counts_at_that_port(dns: Any, make: Any) -> None:
    loop_dns(dns)
    dns.mx("example.com", (10, "self.test"))
    own = ["8.8.8.8:25", "[2a00::8]:25"]
    assert resolve(make(own_addresses=own), "example.com").action == "fail"
    assert resolve(make(own_addresses=own, port=2526), "example.com").action == "site"
    with pytest.raises(ValueError):
        make(own_addresses=["mta1.news.example"])


def test_listening_everywhere_is_every_local_address(dns: Any, make: Any) -> None:
    loop_dns(dns)
    dns.mx("example.com", (10, "self.test"))
    dns.mx("example.org", (10, "better.test"))
    dns.mx("six.example", (10, "six.test"))
    rules = [Rule(("routed.test",), ("127.0.0.1:25",))]
    local = {"8.8.8.8", "2a00::8", "127.0.0.1"}
    router = make(own_addresses=["0.0.0.0:25"], is_local=local.__contains__, rules=rules)
    assert resolve(router, "example.com").action == "fail"
    assert resolve(router, "example.org").action == "site"
    assert resolve(router, "six.example").action == "site"  # no listener of that family
    assert resolve(router, "routed.test").action == "fail"
    assert resolve(make(own_addresses=["[::]:25"], is_local=local.__contains__), "six.example").action == "fail"
    assert resolve(make(own_addresses=["0.0.0.0:2525"], is_local=local.__contains__), "example.com").action == "site"


# -- where to connect -------------------------------------------------------------------------------------------------


def test_targets_by_preference_with_equals_shuffled(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"), (10, "b.test"), (20, "c.test"), (20, "gone.test"))
    for number, name in enumerate(("a.test", "b.test", "c.test")):
        dns.host(name, f"8.8.8.{number}", f"2a00::{number}")
    router = make(rng=random.Random(3))
    site = site_of(resolve(router, "example.com"))
    seen = set()
    for _ in range(50):
        targets, failure = asyncio.run(router.targets(site, 0.0))
        assert failure is None
        assert len(targets) == 6
        assert {target.host for target in targets[4:]} == {"c.test"}
        assert [target.family for target in targets] == [V4, V6] * 3
        seen.add(targets[0].host)
    assert seen == {"a.test", "b.test"}
    assert dns.asked["a.test", "A"] == 1
    assert resolve(router, "example.com").site is site


def failure_of(router: Router, site: Site, now: float = 0.0) -> Failure:
    targets, failure = asyncio.run(router.targets(site, now))
    assert targets == []
    assert failure is not None
    return failure


def test_no_host_has_an_address(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "gone.test"), (20, "empty.test"), (30, "inside.test"), (40, "gone2.test"))
    dns.host("example.com", "8.8.8.8")  # no fall back
    dns.exists("empty.test")
    dns.host("inside.test", "10.0.0.1")
    router = make()
    failure = failure_of(router, site_of(resolve(router, "example.com")))
    assert (failure.action, failure.code, failure.enhanced) == ("fail", 550, "5.4.4")
    for word in ("gone.test does not exist", "empty.test has no address", "allow_private_hosts", "1 more"):
        assert word in failure.text


def test_one_host_might_have_an_address(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "gone.test"), (20, "away.test"))
    dns.failing.add("away.test")
    router = make()
    failure = failure_of(router, site_of(resolve(router, "example.com")), 7.0)
    assert (failure.action, failure.code, failure.enhanced) == ("defer", 451, "4.4.3")
    assert failure.retry_at == 37.0
    assert "away.test" in failure.text


def test_addresses_of_a_host(dns: Any, make: Any) -> None:
    dns.host("a.test", "8.8.8.8")
    router = make()
    assert router.cached_addresses("a.test", 0.0) is None
    found = asyncio.run(router.addresses("a.test", 0.0))
    assert router.cached_addresses("a.test", 599.0) is found
    assert router.cached_addresses("a.test", 600.0) is None


# -- caching ----------------------------------------------------------------------------------------------------------


def test_concurrent_look_ups_share_the_question(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"))
    router = make()

    async def scenario() -> None:
        dns.gate = asyncio.Event()
        spellings = ["example.com", "EXAMPLE.com", "example.com."]
        waiting = [asyncio.ensure_future(router.resolve(spellings[n % 3], 0.0)) for n in range(300)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        dns.gate.set()
        routes = await asyncio.gather(*waiting, return_exceptions=True)
        assert len({id(route) for route in routes[1:]}) == 1

    asyncio.run(scenario())
    assert dict(dns.asked) == {("example.com", "MX"): 1}


def test_ten_thousand_domains_are_one_site(dns: Any, make: Any) -> None:
    records = [(10, "mx1.provider.test"), (10, "mx2.provider.test"), (20, "mx3.provider.test")]
    for number in range(10_000):
        random.Random(number).shuffle(records)
        dns.mx(f"d{number}.example", *records)
    dns.host("mx1.provider.test", "8.8.8.8")
    router = make(own_addresses=["9.9.9.9"])

    async def scenario() -> set[Site]:
        routes = await asyncio.gather(*(router.resolve(f"d{number}.example", 0.0) for number in range(10_000)))
        return {site_of(route) for route in routes}

    assert len(asyncio.run(scenario())) == 1
    assert dns.asked["mx1.provider.test", "A"] == 1  # asked for once, by the check for loops
    assert router.book.flights.max_flights > 0


def test_look_ups_are_bounded(dns: Any, make: Any) -> None:
    dns.mx("a.example", (10, "a.test"))
    router = make(max_lookups=1)

    async def scenario() -> None:
        dns.gate = asyncio.Event()
        first = asyncio.ensure_future(router.resolve("a.example", 0.0))
        await asyncio.sleep(0)
        second = await router.resolve("b.example", 0.0)
        assert reply(second) == "defer 451 4.4.3"
        assert second.expires_at == 1.0
        assert router.cached("b.example", 0.0) is None
        dns.gate.set()
        assert (await first).action == "site"

    asyncio.run(scenario())


def test_the_cache_is_bounded(dns: Any, make: Any) -> None:
    router = make(cache_size=10)
    for number in range(50):
        resolve(router, f"d{number}.example")
    assert router.cached("d49.example", 0.0) is not None
    assert router.cached("d0.example", 0.0) is None
    assert len(router._cache) == 10


def test_prefetch_once_near_the_end(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"))
    router = make()

    async def scenario() -> None:
        first = await router.resolve("example.com", 0.0)
        dns.mx("example.com", (10, "b.test"))
        assert router.cached("example.com", 539.0) is first
        assert len(router._flights) == 0
        for _ in range(5):
            assert router.cached("example.com", 541.0) is first  # served meanwhile
        while len(router._flights):
            await asyncio.sleep(0)
        second = router.cached("example.com", 542.0)
        assert second is not None
        assert site_of(second).groups == (("b.test",),)
        assert second.expires_at == 541.0 + 600

    asyncio.run(scenario())
    assert dns.asked["example.com", "MX"] == 2
    assert router.stats.prefetches == 1


def test_outside_a_loop_nothing_is_prefetched(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"))
    router = make()
    route = resolve(router, "example.com")
    assert router.cached("example.com", 599.0) is route
    assert router.stats.prefetches == 0


def test_a_failed_prefetch_keeps_what_is_valid(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"))
    router = make()

    async def scenario() -> None:
        first = await router.resolve("example.com", 0.0)
        dns.failing.add("example.com")
        for _ in range(3):
            assert router.cached("example.com", 590.0) is first
            while len(router._flights):
                await asyncio.sleep(0)
        assert router.cached("example.com", 599.0) is first

    asyncio.run(scenario())
    assert dns.asked["example.com", "MX"] == 2


def test_stale_routes_serve_while_the_dns_is_away(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"), ttl=100)
    router = make(lifetimes=Lifetimes(stale=200))
    first = resolve(router, "example.com", 0.0)
    dns.failing.add("example.com")
    now = 100.0
    while now < 300:
        route = resolve(router, "example.com", now)
        assert route.site is first.site
        assert route.stale
        assert now < route.expires_at <= now + 60
        assert router.cached("example.com", now + 1) is route
        now = route.expires_at
    assert reply(resolve(router, "example.com", now)) == "defer 451 4.4.3"
    dns.failing.clear()
    recovered = resolve(router, "example.com", now + 60)
    assert not recovered.stale
    assert site_of(recovered) is first.site


def test_stale_can_be_switched_off_and_never_fails_mail(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"), ttl=100)
    router = make(lifetimes=Lifetimes(stale=0))
    resolve(router, "example.com", 0.0)
    resolve(router, "gone.example", 0.0)
    dns.failing |= {"example.com", "gone.example"}
    assert resolve(router, "example.com", 100.0).action == "defer"
    assert resolve(router, "gone.example", 120.0).action == "defer"  # an old NXDOMAIN fails nobody


def test_the_clock_is_read_again_after_a_look_up(dns: Any, make: Any) -> None:
    dns.failing.add("example.com")
    assert resolve(make(clock=lambda: 15.0), "example.com", 0.0).expires_at == 45.0


def test_a_bug_of_ours_defers_and_is_logged(dns: Any, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    dns.broken = RuntimeError("boom")
    router = make()
    assert reply(resolve(router, "example.com")) == "defer 451 4.4.3"
    assert router.stats.errors == 1
    assert "boom" in caplog.text


def test_close_ends_look_ups(dns: Any, make: Any) -> None:
    async def scenario() -> None:
        dns.gate = asyncio.Event()
        router = make()
        waiting = asyncio.ensure_future(router.resolve("example.com", 0.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await router.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())


def test_sites_outlive_a_reload(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.test"))
    sites = Sites(built_in())
    before, after = make(sites=sites), make(sites=sites)
    kept = resolve(before, "example.com")
    assert resolve(after, "example.com").site is site_of(kept)


# -- for people -------------------------------------------------------------------------------------------------------


def test_explain(dns: Any, make: Any) -> None:
    dns.mx("example.com", (10, "a.google.com"), (20, "gone.test"), ttl=300)
    dns.host("a.google.com", "8.8.8.8", "2a00::1")
    router = make()
    asyncio.run(router.resolve("example.com", 0.0))
    told = asyncio.run(router.explain("Example.COM", 100.0))
    assert told["site"] == "a.google.com;gone.test:25"
    assert told["provider"] == "google"
    assert told["ttl_seconds"] == 200.0
    assert [host["addresses"] for host in told["hosts"]] == [["8.8.8.8", "2a00::1"], []]
    assert "does not exist" in told["hosts"][1]["error"]
    assert asyncio.run(router.explain("gone.example", 0.0))["reply"] == "550 5.1.2"
    routed = asyncio.run(make(rules=[Rule(("*",), action="discard")]).explain("a.test", 0.0))
    assert (routed["action"], routed["ttl_seconds"]) == ("discard", None)


# -- whatever the DNS says --------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [".", "a.test", "b.test", "mta1.news.example", "self.test", "x y", "", "\\000", "1.2.3.4", "é.test"]
)
ANSWERS = st.one_of(
    st.builds(
        Answer, st.just("ok"), st.lists(st.tuples(st.integers(0, 65535), NAMES), min_size=1, max_size=8).map(tuple)
    ),
    st.builds(Answer, st.sampled_from(["nodata", "nxdomain", "temporary"]), ttl=st.integers(0, 1 << 31)),
)
HOSTS = st.builds(
    Answer,
    st.sampled_from(["ok", "nodata", "nxdomain", "temporary"]),
    st.lists(st.sampled_from(["8.8.8.8", "10.0.0.1", "9.9.9.9"]), min_size=1, max_size=3).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(mx=ANSWERS, hosts=st.dictionaries(NAMES, HOSTS), own=st.booleans())
def test_any_answer_has_a_route(mx: Answer, hosts: dict[str, Answer], own: bool) -> None:
    class Scripted:
        async def query(self, name: str, rdtype: str) -> Answer:
            if rdtype == "MX":
                return mx
            answer = hosts.get(name, Answer("nxdomain"))
            if answer.status != "ok":
                return Answer(answer.status)
            return answer if rdtype == "A" else Answer("nodata")

    router = Router(Scripted(), sites=Sites(built_in()), **(OWN if own else {}))
    route = resolve(router, "example.com", 5.0)
    assert router.stats.errors == 0
    assert route.expires_at > 5.0
    assert (route.action == "site") == (route.site is not None)
    if route.site is None:
        assert route.action in ("fail", "defer")
        assert route.enhanced[0] == str(route.code)[0] == ("5" if route.action == "fail" else "4")
        assert route.text
    else:
        assert mx.status in ("ok", "nodata")
        assert own is False or "mta1.news.example" not in str(route.site.groups)
        targets, failure = asyncio.run(router.targets(route.site, 5.0))
        assert bool(targets) == (failure is None)
        assert all(target.address != "10.0.0.1" for target in targets)
    if mx.status == "temporary":
        assert route.action == "defer"
