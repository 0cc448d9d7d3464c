"""Addresses of MX hosts: both families, bounds, private ones, failures and stale answers."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from fastrelay.route.addresses import AddressBook, Addresses
from fastrelay.route.cache import Lifetimes

V4, V6 = socket.AF_INET, socket.AF_INET6


def ask(book: AddressBook, host: str, now: float = 0.0) -> Addresses:
    return asyncio.run(book.addresses(host, now))


def test_both_families_in_the_configured_order(dns: Any) -> None:
    dns.host("mx.test", "2a00::1", "8.8.8.8", "2a00::2", "8.8.4.4")
    ipv4_first = [(V4, "8.8.8.8"), (V4, "8.8.4.4"), (V6, "2a00::1"), (V6, "2a00::2")]
    assert list(ask(AddressBook(dns), "mx.test").addresses) == ipv4_first
    assert list(ask(AddressBook(dns, families=(V6, V4)), "mx.test").addresses) == ipv4_first[2:] + ipv4_first[:2]
    assert list(ask(AddressBook(dns, families=(V4,)), "mx.test").addresses) == ipv4_first[:2]
    assert dns.asked["mx.test", "AAAA"] == 2


def test_the_bound_crowds_out_no_family(dns: Any) -> None:
    dns.host("mx.test", *(f"8.8.8.{n}" for n in range(1, 9)), *(f"2a00::{n}" for n in range(1, 9)), "8.8.8.1")
    found = ask(AddressBook(dns, max_addresses=5), "mx.test").addresses
    assert found == ((V4, "8.8.8.1"), (V4, "8.8.8.2"), (V4, "8.8.8.3"), (V6, "2a00::1"), (V6, "2a00::2"))
    dns.host("four.test", *(f"8.8.8.{n}" for n in range(1, 9)))
    assert len(ask(AddressBook(dns, max_addresses=5), "four.test").addresses) == 5


def test_private_addresses_are_left_out_and_said(dns: Any) -> None:
    dns.host("mixed.test", "10.0.0.1", "8.8.8.8", "::1")
    dns.host("inside.test", "10.0.0.1", "127.0.0.1")
    mixed = ask(AddressBook(dns), "mixed.test")
    assert mixed.addresses == ((V4, "8.8.8.8"),)
    assert mixed.not_public == 2
    assert mixed.error is None
    inside = ask(AddressBook(dns), "inside.test")
    assert inside.addresses == ()
    assert inside.permanent
    assert inside.error is not None
    assert "10.0.0.1, 127.0.0.1" in inside.error
    assert "delivery.allow_private_hosts" in inside.error
    allowed = ask(AddressBook(dns, allow_private=True), "inside.test")
    assert allowed.addresses == ((V4, "10.0.0.1"), (V4, "127.0.0.1"))


def test_hosts_with_a_port_are_the_operators_and_exempt(dns: Any) -> None:
    dns.host("inside.test", "10.0.0.1")
    book = AddressBook(dns)
    assert ask(book, "inside.test:2526").addresses == ((V4, "10.0.0.1"),)
    assert ask(book, "inside.test").addresses == ()
    assert ask(book, "127.0.0.1:2526").addresses == ((V4, "127.0.0.1"),)
    assert ask(book, "[::1]:2526").addresses == ((V6, "::1"),)
    assert ask(book, "127.0.0.1").addresses == ()
    assert ask(book, "[::1]").addresses == ()
    assert ask(book, "[2a00::1]").addresses == ((V6, "2a00::1"),)


def test_localhost_is_not_asked_for(dns: Any) -> None:
    book = AddressBook(dns)
    assert ask(book, "localhost:2526").addresses == ((V4, "127.0.0.1"), (V6, "::1"))
    assert ask(book, "mx.localhost").addresses == ()
    assert not dns.asked


def test_a_family_switched_off(dns: Any) -> None:
    found = ask(AddressBook(dns, families=(V4,)), "[2a00::1]:25")
    assert found.permanent
    assert found.error is not None
    assert "IPv6" in found.error


def test_names_that_are_none_are_not_asked_for(dns: Any) -> None:
    found = ask(AddressBook(dns), "a..b")
    assert (found.addresses, found.permanent) == ((), True)
    assert not dns.asked


def test_nxdomain_and_nodata_are_permanent(dns: Any) -> None:
    dns.exists("empty.test")
    book = AddressBook(dns)
    gone, empty = ask(book, "gone.test"), ask(book, "empty.test")
    assert gone.permanent
    assert empty.permanent
    assert "does not exist" in str(gone.error)
    assert "no address record" in str(empty.error)
    assert gone.expires_at == 120  # the SOA's figure
    assert book.cached("gone.test", 119.9) is gone
    assert book.cached("gone.test", 120.0) is None


@pytest.mark.parametrize("broken", ["A", "AAAA"])
def test_one_family_failing_is_not_the_end(dns: Any, broken: str) -> None:
    dns.host("mx.test", "8.8.8.8", "2a00::1")
    dns.failing.add(("mx.test", broken))
    found = ask(AddressBook(dns), "mx.test")
    assert found.addresses == (((V6, "2a00::1"),) if broken == "A" else ((V4, "8.8.8.8"),))
    assert found.expires_at == 60  # the other one is asked for again soon


def test_one_family_failing_and_the_other_empty_is_temporary(dns: Any) -> None:
    dns.exists("mx.test")
    dns.failing.add(("mx.test", "A"))
    found = ask(AddressBook(dns), "mx.test")
    assert not found.permanent
    assert "SERVFAIL" in str(found.error)


def test_failures_wait_longer_each_time(dns: Any) -> None:
    dns.failing.add("mx.test")
    book = AddressBook(dns)
    waits, now = [], 1000.0
    for _ in range(4):
        found = ask(book, "mx.test", now)
        assert not found.permanent
        waits.append(found.expires_at - now)
        assert book.cached("mx.test", now + waits[-1] - 1) is found
        now = found.expires_at
    assert waits == [30, 45, 60, 60]


def test_expired_addresses_serve_on_while_the_dns_is_away(dns: Any) -> None:
    dns.host("mx.test", "8.8.8.8", ttl=100)
    book = AddressBook(dns, lifetimes=Lifetimes(stale=200))
    first = ask(book, "mx.test", 0)
    assert first.expires_at == 100
    dns.failing.add("mx.test")
    now = 100.0
    stale_until = now + 200
    while now < stale_until:
        found = ask(book, "mx.test", now)
        assert found.addresses == first.addresses
        assert found.stale
        now = found.expires_at
    assert ask(book, "mx.test", now).addresses == ()  # and not for ever
    dns.failing.clear()
    assert not ask(book, "mx.test", now + 60).stale


def test_concurrent_look_ups_of_a_host_share_the_questions(dns: Any) -> None:
    dns.host("mx.test", "8.8.8.8")
    book = AddressBook(dns)

    async def scenario() -> None:
        dns.gate = asyncio.Event()
        waiting = [asyncio.ensure_future(book.addresses("mx.test", 0.0)) for _ in range(100)]
        await asyncio.sleep(0)
        dns.gate.set()
        found = await asyncio.gather(*waiting)
        assert all(one is found[0] for one in found)

    asyncio.run(scenario())
    assert dict(dns.asked) == {("mx.test", "A"): 1, ("mx.test", "AAAA"): 1}


def test_look_ups_are_bounded(dns: Any) -> None:
    dns.host("a.test", "8.8.8.8")
    book = AddressBook(dns, max_lookups=1, cache_size=1)

    async def scenario() -> None:
        dns.gate = asyncio.Event()
        first = asyncio.ensure_future(book.addresses("a.test", 0.0))
        await asyncio.sleep(0)
        refused = await book.addresses("b.test", 0.0)
        assert not refused.permanent
        assert "too many" in str(refused.error)
        assert book.cached("b.test", 0.0) is None
        dns.gate.set()
        assert (await first).addresses

    asyncio.run(scenario())


def test_all_addresses_in_order(dns: Any) -> None:
    dns.host("a.test", "8.8.8.1")
    dns.host("c.test", "8.8.8.3")
    book = AddressBook(dns)
    ask(book, "c.test")
    for _ in range(2):
        found = asyncio.run(book.all_addresses(["a.test", "b.test", "c.test"], 0.0))
        assert [one.host for one in found] == ["a.test", "b.test", "c.test"]
        assert [bool(one.addresses) for one in found] == [True, False, True]


def test_the_clock_is_read_again_after_a_look_up(dns: Any) -> None:
    dns.failing.add("mx.test")
    book = AddressBook(dns, clock=lambda: 15.0)  # the look-up took 15 s
    assert ask(book, "mx.test", 0.0).expires_at == 45
