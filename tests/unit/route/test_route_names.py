"""Domains, hosts and address literals have one spelling each."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.errors import FastrelayError
from fastrelay.route.names import (
    InvalidDomain,
    address_of,
    is_host_name,
    is_local_address,
    is_public,
    literal_domain,
    normalize_domain,
    parse_endpoint,
    parse_literal,
    split_host,
)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),  # non-transitional: ß stays itself
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),  # UTS46 maps the ideographic full stop
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("xn--53h.example", "xn--53h.example"),  # an emoji, no IDNA 2008 name: the DNS decides
        ("a_b.example", "a_b.example"),
        ("localhost", "localhost"),
        ("1.example", "1.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"),
        ("[ipv6:::1]", "[IPv6:::1]"),
    ],
)
def test_one_spelling(written: str, normal: str) -> None:
    assert normalize_domain(written) == normal
    assert normalize_domain(normal) == normal


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "empty"),
        (".", "empty"),
        ("example..com", "empty label"),
        (".example.com", "empty label"),
        ("example.com..", "empty label"),
        ("a" * 64 + ".example", "longer than 63"),
        (".".join(["a" * 60] * 5), "longer than 253"),
        ("x" * 5000, "longer than 253"),
        ("exa mple.com", "letters, digits"),
        ("exa\nmple.com", "letters, digits"),
        ("example.com\n", "letters, digits"),
        ("-a.example", "hyphen"),
        ("a-.example", "hyphen"),
        ("192.0.2.1", "in brackets"),
        ("example.123", "number"),
        ("\u2603\u200b.example", "internationalized"),
        ("bücher_x.example", "internationalized"),
        ("ü" * 80 + ".example", "internationalized"),
        ("[192.0.2.256]", "not an address literal"),
        ("[192.0.2.1", "end with"),
        ("[2001:db8::1]", "not an address literal"),  # without its IPv6: tag
        ("[IPv6:fe80::1%eth0]", "zone"),
        ("[x-tag:1]", "not an address literal"),
        ("[" + "1" * 100 + "]", "end with"),
    ],
)
def test_no_domain(written: str, why: str) -> None:
    with pytest.raises(InvalidDomain) as caught:
        normalize_domain(written)
    assert why in caught.value.problem
    assert len(caught.value.domain) <= 253
    assert isinstance(caught.value, FastrelayError)
    assert isinstance(caught.value, ValueError)


@given(st.text(max_size=80))
def test_any_text_is_normalized_or_refused(text: str) -> None:
    try:
        normal = normalize_domain(text)
    except InvalidDomain:
        return
    assert normalize_domain(normal) == normal
    assert normal.isascii()
    assert normal.startswith("[") or is_host_name(normal)


@given(st.ip_addresses())
def test_literals_round_trip(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert parse_literal(literal_domain(address)) == address


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("mx.example.com", True),
        ("mx_1.example.com", True),
        ("mx", True),
        ("a" * 63 + ".example", True),
        ("", False),
        (".", False),
        ("mx.example.com.", False),
        ("MX.example.com", False),  # callers give lower case
        ("mx\\032a.example", False),
        ("mx.example.com\n", False),
        ("192.0.2.1", False),
        ("a" * 64 + ".example", False),
        (".".join(["abcdefghi"] * 26), False),
        ("mx,evil.example", False),
        ("mx;evil.example", False),
        ("mx:25", False),
        ("m\u00fcx.example", False),
        ("mx.example.\u0661", False),
    ],
)
def test_host_names(name: str, good: bool) -> None:
    assert is_host_name(name) is good


def test_split_host() -> None:
    assert split_host("mx.example") == ("mx.example", 0)
    assert split_host("mx.example:2526") == ("mx.example", 2526)
    assert split_host("192.0.2.1:25") == ("192.0.2.1", 25)
    assert split_host("[::1]") == ("::1", 0)
    assert split_host("[::1]:2526") == ("::1", 2526)


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("127.0.0.1:2526", "127.0.0.1:2526"),
        ("127.0.0.1", "127.0.0.1:25"),
        ("[::1]:2526", "[::1]:2526"),
        ("[0:0::1]:2526", "[::1]:2526"),
        ("[::1]", "[::1]:25"),
        ("::1", "[::1]:25"),
        ("Relay.Example", "relay.example:25"),
        ("relay.example:587", "relay.example:587"),
        ("bücher.example:26", "xn--bcher-kva.example:26"),
    ],
)
def test_endpoints(written: str, host: str) -> None:
    assert parse_endpoint(written, 25) == host


@pytest.mark.parametrize(
    "written", ["", ":25", "relay:", "relay:x", "relay:65536", "relay:-1", "[::1", "::1]:25", "[relay]:25", "a b:25"]
)
def test_no_endpoint(written: str) -> None:
    with pytest.raises(ValueError):
        parse_endpoint(written, 25)


def test_address_of() -> None:
    assert address_of("192.0.2.1") == ipaddress.ip_address("192.0.2.1")
    assert address_of("::1") == ipaddress.ip_address("::1")
    assert address_of("mx1") is None
    assert address_of("mx.example") is None


def test_local_addresses() -> None:
    assert is_local_address("127.0.0.1")
    assert not is_local_address("198.51.100.1")
    assert not is_local_address("2001:db8::2")


def test_hosts_that_can_bind_to_anything_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrelay.route.names._can_bind", lambda address: True)
    assert not is_local_address("127.0.0.1")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2a00:1450:4001::1", True),
        ("127.0.0.1", False),
        ("127.255.255.254", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("239.1.2.3", False),
        ("255.255.255.255", False),
        ("192.0.2.1", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("ff0e::1", False),
        ("2001:db8::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("2002:7f00:1::1", False),  # 6to4 of 127.0.0.1
        ("64:ff9b::7f00:1", False),  # NAT64 of 127.0.0.1
        ("64:ff9b::808:808", True),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public
