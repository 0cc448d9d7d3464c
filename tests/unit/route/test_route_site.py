"""Site identity is canonical, interned and bounded; providers roll up by the longest suffix; rules match first."""

from __future__ import annotations

import gc
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.limits.rate import parse_rate
from fastrelay.route.names import InvalidDomain
from fastrelay.route.providers import OTHER, Provider, Providers, built_in, built_in_table, parse_table
from fastrelay.route.rules import Rule, Rules
from fastrelay.route.site import MAX_HOSTS, MAX_KEY, Sites, group_by_preference, site_key

RECORDS = st.lists(
    st.tuples(st.integers(0, 65535), st.sampled_from([f"mx{n}.example" for n in range(12)])), min_size=1, max_size=30
)


@given(RECORDS, st.randoms(use_true_random=False), st.integers(0, 1000))
def test_the_key_is_canonical(records: list[tuple[int, str]], rng: random.Random, shift: int) -> None:
    sites = Sites(built_in())
    site = sites.of_mx(records, 25)
    shuffled = list(records) + rng.sample(records, rng.randrange(len(records) + 1))
    rng.shuffle(shuffled)
    ranks = sorted({preference for preference, _ in records})
    stretched = [(ranks.index(preference) * 3 + shift, host) for preference, host in shuffled]
    assert sites.of_mx(shuffled, 25) is site
    assert sites.of_mx(stretched, 25) is site  # preferences count as an order only
    assert sites.of_mx(records, 26) is not site
    assert [list(group) for group in site.groups] == [sorted(group) for group in site.groups]
    assert sorted(host for group in site.groups for host in group) == sorted({host for _, host in records})


@given(RECORDS, RECORDS)
def test_equal_keys_are_equal_sites(one: list[tuple[int, str]], other: list[tuple[int, str]]) -> None:
    sites = Sites(built_in())
    first, second = sites.of_mx(one, 25), sites.of_mx(other, 25)
    assert (first.key == second.key) == (first is second) == (first.groups == second.groups)


def test_a_host_counts_where_it_is_preferred_most() -> None:
    assert group_by_preference([(20, "a.test"), (10, "b.test"), (10, "a.test")]) == (("a.test", "b.test"),)


def test_ten_thousand_domains_are_one_site() -> None:
    sites = Sites(built_in())
    records = [(5, "gmail-smtp-in.l.google.com"), (10, "alt1.gmail-smtp-in.l.google.com")]
    found = {id(sites.of_mx(records if number % 2 else records[::-1], 25)) for number in range(10_000)}
    kept = sites.of_mx(records, 25)
    assert found <= {id(kept)} or len(sites) == 1
    assert len(sites) == 1
    assert kept.key == "gmail-smtp-in.l.google.com;alt1.gmail-smtp-in.l.google.com:25"
    assert kept.provider == "google"


def test_sites_go_when_nothing_refers_to_them() -> None:
    sites = Sites(built_in())
    kept = sites.of_mx([(1, "a.test")], 25)
    sites.of_mx([(1, "b.test")], 25)
    gc.collect()
    assert len(sites) == 1
    assert sites.of_mx([(1, "a.test")], 25) is kept


def test_the_set_is_bounded_and_keeps_the_best() -> None:
    records = [(number, f"mx{number:03}.test") for number in reversed(range(100))]
    groups = group_by_preference(records)
    assert sum(map(len, groups)) == MAX_HOSTS
    assert groups[0] == ("mx000.test",)
    assert groups[-1] == (f"mx{MAX_HOSTS - 1:03}.test",)


def test_a_long_key_is_cut_and_still_unique() -> None:
    def groups(last: str) -> tuple[tuple[str, ...], ...]:
        return (tuple(f"{'m' * 200}{number}.test" for number in range(49)), (last,))

    one, other = site_key(groups("a.test"), 25, False), site_key(groups("b.test"), 25, False)
    assert one != other
    assert max(len(one), len(other)) <= MAX_KEY
    assert one.startswith("mmm")
    assert "+49~" in one
    assert one.endswith(":25")


def test_explicit_sites_keep_their_order_and_stay_apart() -> None:
    sites = Sites(built_in())
    explicit = sites.of_hosts(["b.test:26", "a.test:25", "b.test:26"], 25)
    assert explicit.groups == (("b.test:26",), ("a.test:25",))
    assert explicit.explicit
    assert explicit.key == "hosts=b.test:26;a.test:25"
    assert sites.of_hosts(["a.test:25", "b.test:26"], 25) is not explicit
    named = sites.of_hosts(["b.test:26", "a.test:25"], 25, "us")
    assert named is not explicit
    assert named.key == "hosts=us@b.test:26;a.test:25"
    assert named is sites.of_hosts(["b.test:26", "a.test:25"], 25, "us")
    assert named is not sites.of_hosts(["b.test:26", "a.test:25"], 25, "them")
    assert sites.of_hosts(["192.0.2.1:25"], 25) is not sites.of_mx([(0, "192.0.2.1")], 25)
    assert explicit.order(random.Random(1)) == ["b.test:26", "a.test:25"]


def test_equals_are_shuffled_inside_their_group_only() -> None:
    site = Sites(built_in()).of_mx([(1, f"a{n}.test") for n in range(4)] + [(2, f"b{n}.test") for n in range(4)], 25)
    rng = random.Random(7)
    orders = [site.order(rng) for _ in range(200)]
    assert {frozenset(order[:4]) for order in orders} == {frozenset(f"a{n}.test" for n in range(4))}
    assert {order[0] for order in orders} == {f"a{n}.test" for n in range(4)}
    assert len({tuple(order) for order in orders}) > 50


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("aspmx.l.google.com", "google"),
        ("google.com", "google"),
        ("notgoogle.com", OTHER),
        ("google.com.evil.test", OTHER),
        ("hotmail-com.olc.protection.outlook.com", "outlook"),
        ("example-com.mail.protection.outlook.com", "microsoft365"),
        ("example-com.a-v1.mx.microsoft", "microsoft365"),
        ("mta5.am0.yahoodns.net", "yahoo"),
        ("mx-1.yahoo.co.jp", "yahoo_jp"),
        ("mx01.mail.icloud.com", "apple"),
        ("192.0.2.1", OTHER),
        ("", OTHER),
    ],
)
def test_providers(host: str, provider: str) -> None:
    assert built_in().of_host(host) == provider


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=6))
def test_the_longest_suffix_wins(labels: list[str]) -> None:
    suffixes = {"a.b": "one", "b.a.b": "two", "c.c": "three", "a.c.c": "four"}
    host = ".".join(labels)
    providers = Providers(Provider(name=name, suffixes=[suffix], source="test") for suffix, name in suffixes.items())
    matching = [suffix for suffix in suffixes if host == suffix or host.endswith("." + suffix)]
    assert providers.of_host(host) == (suffixes[max(matching, key=len)] if matching else OTHER)


def test_a_backup_elsewhere_does_not_make_the_provider() -> None:
    sites = Sites(built_in())
    assert sites.of_mx([(1, "mx.own.test"), (2, "aspmx.l.google.com")], 25).provider == OTHER
    assert sites.of_mx([(1, "mx.own.test"), (1, "aspmx.l.google.com")], 25).provider == "google"
    assert sites.of_hosts(["aspmx.l.google.com:25"], 25).provider == "google"


def test_the_built_in_table() -> None:
    table = built_in_table()
    names = {provider.name for provider in table.providers}
    assert {"google", "yahoo", "outlook", "microsoft365", "apple", "mailru", "qq"} <= names
    assert OTHER not in names
    assert table.version >= 1
    assert table.other.connections == 10
    assert all(provider.source and provider.suffixes for provider in table.providers)


# Connections and messages per connection that providers are known to want; None: no published figure.
PUBLISHED = {
    "google": (5, 50),
    "yahoo": (None, 20),
    "outlook": (5, 50),
    "microsoft365": (5, 50),
    "apple": (10, 5),
    "comcast": (25, 1000),
    "gmx_webde": (4, 20),
    "orange": (2, 100),
    "tonline": (None, None),
    "qq": (4, 8),
    "netease": (4, 7),
    "yahoo_jp": (2, 20),
    "mailru": (1, 20),
    "yandex": (None, None),
    "seznam": (None, None),
    "mimecast": (10, 100),
    "barracuda": (10, 15),
    "kpn": (10, 10),
    "netvigator": (5, 10),
    "proofpoint": (None, None),
    "cisco": (None, None),
}


def test_the_figures_of_the_built_in_table() -> None:
    table = built_in_table()
    figures = {one.name: (one.limits.connections, one.limits.messages_per_connection) for one in table.providers}
    assert figures == PUBLISHED
    for provider in table.providers:
        if any(figures[provider.name]):
            assert "kumomta" in provider.source or "Momentum" in provider.source
        else:
            assert "no published figure" in provider.source
    wants_tls = {one.name for one in table.providers if one.limits.tls == "wanted"}
    assert wants_tls == {"google", "comcast", "gmx_webde", "orange"}
    rates = {
        one.name: (one.limits.rate, one.limits.connection_rate)
        for one in table.providers
        if one.limits.rate or one.limits.connection_rate
    }
    assert rates == {"yahoo_jp": ("10/s", None)}
    assert (table.other.rate, table.other.connection_rate) == ("100/s", "100/min burst 10")
    assert (table.other.connections, table.other.messages_per_connection) == (10, 100)
    for limits in (table.other, *(one.limits for one in table.providers)):
        for text in (limits.rate, limits.connection_rate):
            assert text is None or parse_rate(text).text == text


def test_a_table_is_strict() -> None:
    good = "{version: 1, other: {}, other_source: x, providers: [{name: a, suffixes: [a.test], source: x}]}"
    assert parse_table(good).providers[0].name == "a"
    with pytest.raises(msgspec.ValidationError):
        parse_table(good.replace("source: x}", "sauce: x}"))
    with pytest.raises(msgspec.ValidationError):
        parse_table(good.replace("a.test", "A_.test"))
    twice = [Provider(name="a", suffixes=["a.test"], source="x"), Provider(name="b", suffixes=["a.test"], source="x")]
    with pytest.raises(ValueError, match="both"):
        Providers(twice)
    with pytest.raises(ValueError, match="twice"):
        Providers([twice[0], twice[0]])


def matcher(*patterns: str) -> Rules:
    return Rules([Rule((pattern,), (f"host{number}:25",)) for number, pattern in enumerate(patterns)], 25)


@pytest.mark.parametrize(
    ("patterns", "domain", "number"),
    [
        (["*"], "example.com", 0),
        (["*"], "[192.0.2.1]", 0),
        (["example.com"], "example.com", 0),
        (["example.com"], "sub.example.com", None),
        (["Example.COM."], "example.com", 0),
        (["bücher.example"], "xn--bcher-kva.example", 0),
        (["*.example.com"], "example.com", None),
        (["*.example.com"], "a.example.com", 0),
        (["*.example.com"], "a.b.example.com", 0),
        (["*.example.com"], "aexample.com", None),
        (["mail-?.*.test"], "mail-1.x.test", 0),
        (["mail-?.*.test"], "mail-10.x.test", None),
        (["[192.0.2.1]"], "[192.0.2.1]", 0),
        (["*.com", "example.com", "*"], "example.com", 0),
        (["example.com", "*.com", "*"], "example.com", 0),
        (["x.test", "e*.com", "example.com", "*"], "example.com", 1),
        (["x.test", "example.com", "e*.com", "*"], "example.com", 1),
        (["x.test", "y.test", "*"], "example.com", 2),
        (["*", "example.com"], "example.com", 0),
        (["*.b.com", "*.com"], "a.b.com", 0),
        (["*.com", "*.b.com"], "a.b.com", 0),
        ([], "example.com", None),
    ],
)
def test_the_first_rule_wins(patterns: list[str], domain: str, number: int | None) -> None:
    rule = matcher(*patterns).match(domain)
    assert (rule.hosts if rule else None) == ((f"host{number}:25",) if number is not None else None)


@given(st.lists(st.sampled_from(["*", "a.b", "*.b", "b", "*.a.b", "?.b", "c.a.b", "c*b"]), max_size=6))
def test_rules_like_a_plain_oracle(patterns: list[str]) -> None:
    def plain(pattern: str, domain: str) -> bool:
        if pattern == "c*b":
            return domain.startswith("c") and domain.endswith("b") and len(domain) > 1
        if pattern == "?.b":
            return len(domain) == 3 and domain.endswith(".b")
        return pattern == "*" or domain == pattern or (pattern[:2] == "*." and domain.endswith(pattern[1:]))

    rules = matcher(*patterns)
    for domain in ("b", "a.b", "c.a.b", "d.c.a.b", "c.b", "z"):
        first = next((number for number, pattern in enumerate(patterns) if plain(pattern, domain)), None)
        rule = rules.match(domain)
        assert (rule.hosts[0] if rule else None) == (None if first is None else f"host{first}:25")


def test_rules_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="either"):
        Rule(("*",))
    with pytest.raises(ValueError, match="either"):
        Rule(("*",), ("a:25",), "discard")
    with pytest.raises(ValueError, match="at least one"):
        Rule((), ("a:25",))
    with pytest.raises(InvalidDomain):
        Rules([Rule(("a..b",), ("a:25",))], 25)
    with pytest.raises(ValueError, match="port"):
        Rules([Rule(("*",), ("a:99999",))], 25)
