"""Shapes: which limits hold, of what scope, and who set them; against an oracle that looks at every rule each time."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay.config.load import load_text
from fastrelay.config.schema import Config, Delivery, from_builtins, to_builtins
from fastrelay.config.sending import LimitSet, Provider, ShapingRule
from fastrelay.limits.rate import Rate, parse_rate
from fastrelay.limits.shape import Limit, Shape, Shaper, place_of, scope_at_place, scope_in_words
from fastrelay.route.providers import make_providers

H = "hostname: a.example\nsources: [{name: a, address: 10.0.0.1}, {name: b, address: 10.0.0.2}]\n"
SITE = "mx.unknown.example:25"


def shaper_of(text, folder="/srv"):
    config = load_text(H + text, "relay.yaml", folder)
    config = from_builtins(msgspec.json.decode(msgspec.json.encode(to_builtins(config))))  # as a worker gets it
    return Shaper(config, make_providers(config.providers))


def said(shape, kind="rate"):
    return {limit.scope_name: str(limit.value) for limit in shape.of(kind)}


def origins(shape, kind="rate"):
    return {limit.scope_name: limit.origin for limit in shape.of(kind)}


# -- what is built in, and what delivery says --------------------------------------------------------------------------


def test_a_known_provider_has_its_built_in_limits():
    shape = shaper_of("").shape("a", "google", "aspmx.l.google.com:25", "", False)
    assert said(shape) == {"source:a provider:google": "100/s"}
    assert said(shape, "connection_rate") == {"source:a provider:google": "100/min burst 10"}
    assert said(shape, "connections") == {
        "source:a provider:google": "5",
        "source:a site:aspmx.l.google.com:25": "10",
        "relay": "10000",
    }
    assert origins(shape, "connections")["source:a provider:google"] == "built-in: google"
    assert origins(shape)["source:a provider:google"] == "built-in: any provider"
    assert (shape.messages_per_connection, shape.messages_origin) == (50, "built-in: google")
    assert shape.recipients_per_transaction == 100
    assert shape.recipients_origin == "default: delivery.recipients_per_transaction"


def test_unknown_hosts_are_not_one_provider():
    shape = shaper_of("").shape("a", "other", SITE, "", False)
    assert said(shape) == {f"source:a site:{SITE}": "100/s"}
    assert said(shape, "connections") == {f"source:a site:{SITE}": "10", "relay": "10000"}
    assert origins(shape, "connections")[f"source:a site:{SITE}"] == "default: delivery.connections_per_site"
    assert shape.messages_per_connection == 100


@pytest.mark.parametrize(("text", "smart_host"), [("provider_limits: false", False), ("", True)])
def test_without_the_built_in_limits(text, smart_host):
    shape = shaper_of(text).shape("a", "google", "hosts=x:25", "", smart_host)
    assert {limit.origin.partition(":")[0] for limit in shape.limits} == {"default"}
    assert said(shape) == {}
    assert shape.messages_per_connection == 100


def test_delivery_holds_beside_the_built_in_limits():
    text = "delivery:\n  connections_per_site: 3\n  messages_per_connection: 20\n  recipients_per_transaction: 7"
    shape = shaper_of(text).shape("a", "comcast", "mx1.comcast.net:25", "", False)
    assert said(shape, "connections")["source:a site:mx1.comcast.net:25"] == "3"
    assert said(shape, "connections")["source:a provider:comcast"] == "25"
    assert (shape.messages_per_connection, shape.messages_origin) == (
        20,
        "relay.yaml line 5, delivery.messages_per_connection",
    )
    assert shape.recipients_per_transaction == 7


# -- what the operator says --------------------------------------------------------------------------------------------


def test_an_entry_of_providers_replaces_key_by_key():
    shape = shaper_of("providers:\n  google: {rate: 20000/h, connections: 4}").shape("b", "google", "g:25", "", False)
    assert said(shape) == {"source:b provider:google": "20000/h"}
    assert said(shape, "connections")["source:b provider:google"] == "4"
    assert origins(shape)["source:b provider:google"] == "relay.yaml line 4, providers.google"
    lines = shaper_of("providers:\n  google:\n    rate: 5/s\n    connections: 4").shape(
        "b", "google", "g:25", "", False
    )
    assert origins(lines, "connections")["source:b provider:google"] == "relay.yaml line 6, providers.google"
    assert said(shape, "connection_rate") == {"source:b provider:google": "100/min burst 10"}  # nothing was said
    assert shape.messages_per_connection == 50


def test_providers_other_is_each_site_on_its_own():
    shaper = shaper_of("providers: {other: {rate: 5/s, connections: 2}}")
    shape = shaper.shape("a", "other", SITE, "", False)
    assert said(shape) == {f"source:a site:{SITE}": "5/s"}
    assert said(shape, "connections")[f"source:a site:{SITE}"] == "2"
    assert said(shaper.shape("a", "google", "g:25", "", False)) == {"source:a provider:google": "100/s"}


def test_provider_other_in_a_rule_is_one_counter():
    shape = shaper_of("shaping: [{provider: other, rate: 5/s}]").shape("a", "other", SITE, "", False)
    assert said(shape) == {"provider:other": "5/s", f"source:a site:{SITE}": "100/s"}


SCOPES = [
    ("{rate: 9/s}", "relay"),
    ("{source: a, rate: 9/s}", "source:a"),
    ('{source: "*", rate: 9/s}', "source:a"),
    ("{provider: google, rate: 9/s}", "provider:google"),
    ('{provider: "*", rate: 9/s}', "provider:google"),
    ("{source: a, provider: google, rate: 9/s}", "source:a provider:google"),
    ('{source: "*", provider: "*", rate: 9/s}', "source:a provider:google"),
    ("{pool: default, rate: 9/s}", "pool:default"),
    ('{pool: "*", provider: google, rate: 9/s}', "provider:google pool:default"),
    ('{pool: "*", source: a, rate: 9/s}', "source:a pool:default"),
]


@pytest.mark.parametrize(("rule", "scope"), SCOPES)
def test_scopes(rule, scope):
    text = f"provider_limits: false\nshaping:\n  - {rule}\n"
    for pool in ("", "default"):
        shape = shaper_of(text).shape("a", "google", "g:25", pool, False)
        assert said(shape) == {scope: "9/s"}
        assert origins(shape) == {scope: "relay.yaml line 5, shaping[0]"}


@pytest.mark.parametrize(
    "rule",
    ["{source: b, rate: 9/s}", "{provider: yahoo, rate: 9/s}", "{pool: vip, rate: 9/s}", "{campaign: x, rate: 9/s}"],
)
def test_what_does_not_match_does_not_hold(rule):
    text = f"provider_limits: false\npools: {{default: [a, b], vip: [a]}}\nshaping: [{rule}]"
    assert said(shaper_of(text).shape("a", "google", "g:25", "", False)) == {}


def test_star_of_unknown_hosts_is_by_site():
    text = 'provider_limits: false\nshaping: [{provider: "*", rate: 9/s}, {source: "*", provider: "*", rate: 8/s}]'
    shape = shaper_of(text).shape("a", "other", SITE, "", False)
    assert said(shape) == {f"site:{SITE}": "9/s", f"source:a site:{SITE}": "8/s"}


def test_the_rule_that_names_more_wins_and_of_equals_the_stricter():
    text = """
shaping:
  - {source: "*", provider: google, rate: 100/h burst 9}
  - {source: a, provider: "*", rate: 200/h burst 2}
  - {source: b, provider: google, rate: 300/h}
"""
    shaper = shaper_of(text)
    assert said(shaper.shape("b", "google", "g:25", "", False)) == {"source:b provider:google": "300/h"}
    mixed = shaper.shape("a", "google", "g:25", "", False).of("rate")[0]
    assert (mixed.value.emission_ns, mixed.value.burst) == (parse_rate("100/h").emission_ns, 2)
    assert mixed.origin == "relay.yaml line 5, shaping[0]; burst: relay.yaml line 6, shaping[1]"


def test_delivery_and_a_rule_of_the_same_scope_both_hold():
    text = (
        "delivery: {connections_per_site: 4}\nshaping: [{source: a, provider: '*', connections: 3}, {connections: 5}]"
    )
    shaper = shaper_of(text)
    assert said(shaper.shape("a", "other", SITE, "", True), "connections") == {
        f"source:a site:{SITE}": "3",
        "relay": "5",
    }
    assert said(shaper.shape("b", "other", SITE, "", True), "connections") == {
        f"source:b site:{SITE}": "4",
        "relay": "5",
    }


def test_the_least_of_plain_numbers_holds():
    text = """
providers: {google: {messages_per_connection: 30}}
shaping:
  - {source: a, messages_per_connection: 20}
  - {pool: default, recipients_per_transaction: 3}
  - {recipients_per_transaction: 9}
"""
    shaper = shaper_of(text)
    first, second = (shaper.shape(source, "google", "g:25", "", False) for source in "ab")
    assert (first.messages_per_connection, first.messages_origin) == (20, "relay.yaml line 6, shaping[0]")
    assert (second.messages_per_connection, second.messages_origin) == (30, "relay.yaml line 4, providers.google")
    assert (first.recipients_per_transaction, first.recipients_origin) == (3, "relay.yaml line 7, shaping[1]")


def test_cells():
    shape = shaper_of("shaping: [{rate: 1/s, connection_rate: 1/s, connections: 1}]").shape(
        "a", "other", SITE, "", True
    )
    assert {limit.cell for limit in shape.limits if limit.scope_name == "relay"} == {
        b"rate:relay",
        b"connect:relay",
        b"connections:relay",
    }
    assert {limit.reason for limit in shape.limits} == {"rate_limit", "connection_limit"}


def test_places():
    assert place_of("google", "g:25") == "google"
    assert place_of("other", SITE) == SITE


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("relay", "all mail"),
        ("source:a", "source a"),
        ("provider:google", "all mail to google"),
        ("source:a provider:google", "source a at google"),
        ("source:a site:mx.one:25", "source a at mx.one:25"),
        ("source:a pool:vip", "source a in pool vip"),
        ("pool:vip", "pool vip"),
        ("campaign:a%20b%2520 tenant:t", "campaign a b%20 tenant t"),
    ],
)
def test_scopes_in_words(scope, words):
    assert scope_in_words(scope) == words


@pytest.mark.parametrize("provider", ["google", "other"])
def test_the_scope_at_a_place_is_that_of_the_limits(provider):
    shape = shaper_of("").shape("a", provider, SITE, "", False)
    assert scope_at_place("a", provider, SITE) in said(shape)


# -- campaigns and tenants ---------------------------------------------------------------------------------------------


def flows(text, campaign="", tenant=""):
    return {limit.scope_name: str(limit.value) for limit in shaper_of(text).flow_limits(campaign, tenant)}


def test_flow_limits():
    text = 'shaping: [{campaign: "*", rate: 9/s}, {campaign: spring, rate: 8/s}, {tenant: t, rate: 7/s}, {rate: 6/s}]'
    assert flows(text, "x") == {"campaign:x": "9/s"}
    assert flows(text, "spring", "t") == {"campaign:spring": "8/s", "tenant:t": "7/s"}
    assert flows(text) == {}
    both = 'shaping: [{campaign: "*", tenant: t, rate: 9/s}]'
    assert flows(both, "x", "t") == {"campaign:x tenant:t": "9/s"}
    assert flows(both, "x") == {}
    assert flows(both, "", "t") == {}


def test_no_client_makes_up_another_scope():
    text = 'shaping: [{campaign: "*", rate: 9/s}, {campaign: "*", tenant: "*", rate: 8/s}]'
    (forged,) = flows(text, "x tenant:t")
    assert forged == "campaign:x%20tenant:t"
    assert set(flows(text, "50%20", "t")) == {"campaign:50%2520", "campaign:50%2520 tenant:t"}


@pytest.mark.parametrize(
    ("text", "has"),
    [("", False), ("shaping: [{rate: 1/s}]", False), ("shaping: [{tenant: t, rate: 1/s}]", True)],
)
def test_has_flow_limits(text, has):
    assert shaper_of(text).has_flow_limits is has


# -- against an oracle -------------------------------------------------------------------------------------------------

NAMES = {"source": ["a", "b"], "provider": ["google", "other", "yahoo"], "pool": ["default", "vip"]}
RATE_TEXTS = ["1/s", "2/s burst 9", "3/min", "100/h burst 2", "100/h burst 7"]

limit_sets = st.fixed_dictionaries(
    {},
    optional={
        "rate": st.sampled_from(RATE_TEXTS),
        "connection_rate": st.sampled_from(RATE_TEXTS),
        "connections": st.integers(1, 20),
        "messages_per_connection": st.integers(1, 200),
        "recipients_per_transaction": st.integers(1, 200),
    },
)
shaping_rules = st.builds(
    lambda limits, scope: ShapingRule(**limits, **scope),
    limit_sets,
    st.fixed_dictionaries({}, optional={key: st.sampled_from([*names, "*"]) for key, names in NAMES.items()}),
)
configs = st.builds(
    lambda rules, providers, built_in, per_site: Config(
        hostname="a.example",
        shaping=rules,
        providers={name: Provider(**limits) for name, limits in providers.items()},
        provider_limits=built_in,
        delivery=Delivery(connections_per_site=per_site),
    ),
    st.lists(shaping_rules, max_size=8),
    st.dictionaries(st.sampled_from(NAMES["provider"]), limit_sets, max_size=2),
    st.booleans(),
    st.integers(1, 12),
)


def slow_shape(config, table, source, provider, site, pool, smart_host):
    """{kind: {scope: value}} and the two numbers, by going through all rules for each key."""
    where = {"source": source, "provider": provider, "pool": pool}
    unknown = f"site:{site}"
    found: dict[str, dict[str, list]] = {key: {} for key in LimitSet.__struct_fields__}

    def note(limits, scope, names):
        for key in LimitSet.__struct_fields__:
            value = getattr(limits, key)
            if value is not None:
                found[key].setdefault(scope, []).append((names, value))

    for rule in config.shaping:
        written = {key: getattr(rule, key) for key in where if getattr(rule, key) is not None}
        if any(name not in ("*", where[key]) for key, name in written.items()):
            continue
        parts = [
            unknown if key == "provider" and where[key] == "other" and name == "*" else f"{key}:{where[key]}"
            for key, name in written.items()
        ]
        note(rule, " ".join(parts) or "relay", sum(name != "*" for name in written.values()))
    place = unknown if provider == "other" else f"provider:{provider}"
    at_place = f"source:{source} {place}"
    if provider in config.providers:
        note(config.providers[provider], at_place, 1)
    if config.provider_limits and not smart_host:
        own = table.by_name[provider].limits if provider in table.by_name else None
        for key in LimitSet.__struct_fields__:
            value = getattr(own, key) if own is not None else None
            if value is None and (provider != "other" or key.endswith("rate")):
                value = getattr(table.other, key)
            if value is not None and at_place not in found[key]:
                found[key][at_place] = [(0, value)]
    shape = {}
    for key, scopes in found.items():
        shape[key] = {}
        for scope, ones in scopes.items():
            most = max(names for names, _ in ones)
            values = [value for names, value in ones if names == most]
            if key.endswith("rate"):
                rates = [parse_rate(value) for value in values]
                values = [(max(rate.emission_ns for rate in rates), min(rate.burst for rate in rates))]
            shape[key][scope] = min(values)
    delivery = config.delivery
    for scope, most in (("relay", delivery.connections), (f"source:{source} {unknown}", delivery.connections_per_site)):
        shape["connections"][scope] = min(most, shape["connections"].get(scope, most))
    numbers = tuple(
        min([getattr(delivery, key), *shape.pop(key).values()])
        for key in ("messages_per_connection", "recipients_per_transaction")
    )
    return shape, numbers


@settings(max_examples=300, deadline=None)
@given(
    configs,
    st.sampled_from(NAMES["source"]),
    st.sampled_from([*NAMES["provider"], "tonline"]),
    st.sampled_from(NAMES["pool"]),
    st.booleans(),
)
def test_against_the_oracle(config, source, provider, pool, smart_host):
    providers = make_providers(config.providers)
    shaper = Shaper(config, providers)
    expected, numbers = slow_shape(config, providers, source, provider, "one.test:25", pool, smart_host)
    shape = shaper.shape(source, provider, "one.test:25", pool, smart_host)
    got = {kind: {} for kind in expected}
    for limit in shape.limits:
        value = limit.value
        assert limit.scope_name not in got[limit.kind]  # one limit of a kind for a scope
        got[limit.kind][limit.scope_name] = (value.emission_ns, value.burst) if isinstance(value, Rate) else value
        assert limit.origin
    assert got == expected
    assert (shape.messages_per_connection, shape.recipients_per_transaction) == numbers
    # The next site of the same provider, from what is kept.
    other = shaper.shape(source, provider, "two.test:25", pool, smart_host)
    assert [limit.scope_name.replace("one.test", "two.test") for limit in shape.limits] == [
        limit.scope_name for limit in other.limits
    ]


def test_types():
    shape = shaper_of("").shape("a", "google", "g:25", "", False)
    assert isinstance(shape, Shape)
    assert all(isinstance(limit, Limit) for limit in shape.limits)
