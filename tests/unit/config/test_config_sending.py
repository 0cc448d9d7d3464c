"""The part of the configuration on how fast mail leaves: what is read, and each mistake with its line and mend."""

import random
import zoneinfo

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay.config import forms, schema
from fastrelay.config.base import Origins
from fastrelay.config.forms import TEXTS
from fastrelay.config.load import load, load_text, parse
from fastrelay.config.render import render
from fastrelay.config.sending import (
    Assignment,
    Class,
    Growth,
    HoldThresholds,
    Provider,
    Schedule,
    ShapingRule,
    Tenant,
    WarmupPlan,
)
from fastrelay.config.tree import fields_of
from fastrelay.errors import ConfigError
from fastrelay.limits.rules_file import built_in_rules
from fastrelay.limits.shape import Shaper
from fastrelay.limits.warmup import ramps
from fastrelay.route.providers import make_providers

H = "hostname: a.example\n"
S = H + "sources: [{name: a, address: 10.0.0.1}, {name: b, address: 10.0.0.2}]\n"  # two lines

GOOD = """\
hostname: mta1.news.example
listeners:
  smtp: [{bind: "127.0.0.1:2525", mail: {tenant: acme, priority: normal}}]
sources:
  - {name: a, address: 10.0.0.1, public_address: 192.0.2.1}
  - {name: b, address: 10.0.0.2, warmup: slow}
pools: {default: [a, b], vip: [a]}
providers:
  google: {rate: 20000 / h burst 100, connections: 4 connections}
  house: {suffixes: [MX.House.Example.], messages_per_connection: 7}
shaping:
  - {source: "*", connection_rate: 10/s}
  - {campaign: "Spring  sale", tenant: acme, rate: 5/s}
  - {rate: 100/s, connections: 1 connection}
warmup:
  slow:
    growth: {start: 200}
    per: hour
    providers: {google: {stages: [10, 20, 40]}}
    time_zone: Europe/Berlin
    overflow: false
    hold: {blocks: 2%, deferrals: }
fairness: {campaigns: {Spring sale: 5}, tenants: {acme: 3}, transactional: {expire: 10m}}
tenants: {acme: {pools: [vip]}}
senders: {"*.Shop.example": {pool: vip, campaign: "2026"}}
backoff: {slowest_rate: 2 / min, recover: 2h}
"""


def problems_of(text):
    with pytest.raises(ConfigError) as caught:
        load_text(text, "test.yaml")
    return caught.value.problems


def test_every_part():
    config = load_text(GOOD)
    assert config.listeners.smtp[0].mail == Assignment(tenant="acme", priority="normal")
    assert config.source("a").seen_address == "192.0.2.1"
    assert config.source("b").seen_address == "10.0.0.2"
    assert config.providers == {
        "google": Provider(rate="20000/h burst 100", connections=4),
        "house": Provider(suffixes=["mx.house.example"], messages_per_connection=7),
    }
    assert config.shaping == [
        ShapingRule(source="*", connection_rate="10/s"),
        ShapingRule(campaign="Spring sale", tenant="acme", rate="5/s"),
        ShapingRule(rate="100/s", connections=1),
    ]
    plan = config.warmup["slow"]
    assert (plan.growth, plan.per, plan.overflow) == (Growth(start=200), "hour", False)
    assert plan.providers == {"google": Schedule(stages=[10, 20, 40])}
    assert plan.hold == HoldThresholds(blocks_share=0.02, deferrals_share=None)
    assert plan.hold.bounces_share == 0.03  # a key that is left out keeps its default
    assert config.fairness.transactional == Class(expire_seconds=600.0)
    assert config.fairness.campaigns == {"Spring sale": 5}
    assert config.senders == {"*.shop.example": Assignment(pool="vip", campaign="2026")}
    assert config.backoff.slowest_rate == "2/min"


def test_it_loads_again_as_it_is_shown_and_as_workers_get_it():
    config = load_text(GOOD, folder="/srv")
    assert load_text(render(config), folder="/srv") == config
    assert schema.from_builtins(msgspec.json.decode(msgspec.json.encode(schema.to_builtins(config)))) == config
    assert "origins" not in render(config)


def test_origins_go_along_and_are_no_part_of_what_is_equal():
    config = load_text(GOOD, "/etc/fastrelay/relay.yaml")
    origins = schema.from_builtins(schema.to_builtins(config)).origins
    assert origins.of("shaping[1]") == "relay.yaml line 13, shaping[1]"
    assert origins.of("providers.google", "rate") == "relay.yaml line 9, providers.google"
    assert origins.of("delivery.connections") == "default: delivery.connections"
    assert msgspec.structs.replace(config, origins=Origins()) == config
    assert hash(Origins(file="x")) == hash(Origins())
    assert problems_of(H + "origins: {}")[0].path == "origins"


def test_a_null_threshold_is_never():
    text = S + "warmup: {w: {template: sparkpost, stop: {blocks: ~}}}"
    plan = load_text(text).warmup["w"]
    assert plan.stop.blocks_share is None
    assert load_text(render(load_text(text))).warmup["w"] == plan


WARM = S.replace("b, address: 10.0.0.2", "b, address: 10.0.0.2, warmup: w") + "warmup:\n  w:\n    "
TWICE = 'shaping:\n  - {source: "*", provider: google, rate: 5/s}\n  - {provider: google, source: "*", rate: 6/s}'

# (text, path, line, word of the mend)
BAD = {
    "rate of zero": (S + "shaping: [{rate: 0/h}]", "shaping[0].rate", 3, "1/d or more"),
    "rate without a period": (S + "shaping: [{rate: '5'}]", "shaping[0].rate", 3, "5/min"),
    "rate a number": (S + "shaping: [{rate: 5}]", "shaping[0].rate", 3, "quotes"),
    "rate of an unknown period": (S + "shaping:\n  - rate: 5/month", "shaping[0].rate", 4, "periods are"),
    "rate of minutes": (S + "shaping: [{rate: 5/m}]", "shaping[0].rate", 3, "5/min"),
    "burst zero": (S + "shaping: [{rate: 5/s burst 0}]", "shaping[0].rate", 3, "burst 1"),
    "connection rate a fraction": (
        S + "shaping: [{connection_rate: 0.5/s}]", "shaping[0].connection_rate", 3, "30/min",
    ),
    "slowest rate": (S + "backoff: {slowest_rate: 0/min}", "backoff.slowest_rate", 3, "1/d"),
    "connections zero": (S + "shaping: [{connections: 0}]", "shaping[0].connections", 3, "such as 20"),
    "connections of messages": (S + "shaping: [{connections: 5 messages}]", "shaping[0].connections", 3, "such as 20"),
    "connections many": (S + "shaping: [{connections: 1000000}]", "shaping[0].connections", 3, "such as 20"),
    "messages zero": (S + "providers: {google: {messages_per_connection: 0}}",
                      "providers.google.messages_per_connection", 3, "whole number"),
    "a key of another MTA": (S + "shaping: [{max_msg_rate: 5/s}]", "shaping[0].max_msg_rate", 3, "`rate`"),
    "a rule that limits nothing": (S + "shaping:\n  - {source: a}", "shaping[0]", 4, "add rate"),
    "two rates for one scope": (S + TWICE, "shaping[1].rate", 5, "keep one"),
    "two rates for the relay": (S + "shaping: [{rate: 5/s}, {rate: 6/s}]", "shaping[1].rate", 3, "keep one"),
    "a rule and a provider of one scope": (
        S + "providers: {google: {connections: 3}}\nshaping: [{source: '*', provider: google, connections: 2}]",
        "shaping[0].connections", 4, "keep one",
    ),
    "unknown source": (S + "shaping: [{source: c, rate: 5/s}]", "shaping[0].source", 3, "a, b"),
    "unknown provider": (S + "shaping: [{provider: gogle, rate: 5/s}]", "shaping[0].provider", 3, "`google`"),
    "unknown pool": (S + "shaping: [{pool: vip, rate: 5/s}]", "shaping[0].pool", 3, "default"),
    "connections by campaign": (
        S + "shaping: [{campaign: x, connections: 5}]", "shaping[0].connections", 3, "campaign by rate",
    ),
    "messages per connection by tenant": (
        S + "shaping: [{tenant: x, messages_per_connection: 5}]", "shaping[0].messages_per_connection", 3,
        "tenant by rate",
    ),
    "campaign at a provider": (
        S + "shaping: [{campaign: x, provider: google, rate: 5/s}]", "shaping[0].provider", 3, "leave provider out",
    ),
    "campaign with a control character": (
        S + 'shaping: [{campaign: "a\\x07", rate: 5/s}]', "shaping[0].campaign", 3, "printable",
    ),
    "suffix twice": (
        S + "providers:\n  x: {suffixes: [mx.x.example]}\n  y: {suffixes: [MX.x.example]}",
        "providers.y.suffixes[0]", 5, "keep it once",
    ),
    "suffix twice in one": (
        S + "providers: {x: {suffixes: [mx.x.example, mx.x.example]}}", "providers.x.suffixes[1]", 3, "keep it once",
    ),
    "suffix with a star": (
        S + "providers: {x: {suffixes: ['*.x.example']}}", "providers.x.suffixes[0]", 3, "write x.example",
    ),
    "suffix a top-level domain": (
        S + "providers: {x: {suffixes: [example]}}", "providers.x.suffixes[0]", 3, "mx.example",
    ),
    "suffix an address": (S + "providers: {x: {suffixes: [10.0.0.1]}}", "providers.x.suffixes[0]", 3, "name"),
    "provider misspelt": (S + "providers: {yaho: {rate: 5/s}}", "providers.yaho", 3, "`yahoo`"),
    "suffixes of other": (
        S + "providers: {other: {suffixes: [x.example]}}", "providers.other.suffixes", 3, "name of its own",
    ),
    "provider of an odd name": (S + "providers: {'a b': {suffixes: [x.example]}}", "providers.a b", 3, "letters"),
    "warm-up without a schedule": (WARM + "overflow: true", "warmup.w", 4, "exactly one"),
    "warm-up with two": (WARM + "{template: sparkpost, stages: [1, 2]}", "warmup.w", 4, "exactly one"),
    "warm-up of an unknown template": (WARM + "template: sparkpots", "warmup.w.template", 5, "sparkpost"),
    "warm-up with a gap": (WARM + "stages: [10, 100, 5000]", "warmup.w.stages[2]", 5, "between"),
    "warm-up with a zero": (WARM + "stages:\n      - 10\n      - 0", "warmup.w.stages[1]", 7, "whole number"),
    "warm-up that falls": (WARM + "stages: [10, 100, 50]", "warmup.w.stages[2]", 5, "do not fall"),
    "warm-up without stages": (WARM + "stages: []", "warmup.w.stages", 5, "list a cap"),
    "warm-up growth without a start": (WARM + "growth: {factor: 2}", "warmup.w.growth.start", 5, "start:"),
    "warm-up growth by less than one": (WARM + "growth: {start: 5, factor: 1}", "warmup.w.growth.factor", 5, "number"),
    "warm-up growth that falls": (WARM + "growth: {start: 50, until: 10}", "warmup.w.growth.until", 5, "larger"),
    "warm-up in no time zone": (
        WARM + "template: sparkpost\n    time_zone: Europe/Berln", "warmup.w.time_zone", 6, "Europe/Berlin",
    ),
    "warm-up in a time zone by its offset": (
        WARM + "template: sparkpost\n    time_zone: '+02:00'", "warmup.w.time_zone", 6, "Europe/Berlin",
    ),
    "warm-up of an unknown provider": (
        WARM + "template: sparkpost\n    providers: {gogle: {stages: [1, 2]}}",
        "warmup.w.providers.gogle", 6, "`google`",
    ),
    "warm-up of a provider without a schedule": (
        WARM + "template: sparkpost\n    providers: {google: {per: day}}",
        "warmup.w.providers.google", 6, "exactly one",
    ),
    "warm-up that holds behind the stop": (
        WARM + "template: sparkpost\n    hold: {blocks: 40%}\n    step_back: {blocks: }", "warmup.w.stop.blocks", 4,
        "more than 40%",
    ),
    "warm-up share above all": (
        WARM + "template: sparkpost\n    stop: {blocks: 130%}", "warmup.w.stop.blocks", 6, "percentage",
    ),
    "warm-up counted by weeks": (WARM + "template: sparkpost\n    count: weeks", "warmup.w.count", 6, "sending_days"),
    "warm-up spread over a week": (WARM + "template: sparkpost\n    spread: 7d", "warmup.w.spread", 6, "24h or less"),
    "source of an unknown plan": (
        H + "sources:\n  - {name: a, address: 10.0.0.1, warmup: slwo}\n  - {name: b, address: 10.0.0.2, warmup: slow}\n"
        "warmup: {slow: {template: sparkpost}}",
        "sources[0].warmup", 3, "`slow`",
    ),
    "source of a plan where there is none": (
        H + "sources: [{name: a, address: 10.0.0.1, warmup: slow}]", "sources[0].warmup", 2, "template: sparkpost",
    ),
    "public address a name": (
        H + "sources: [{name: a, address: 10.0.0.1, public_address: a.example}]", "sources[0].public_address", 2,
        "192.0.2.11",
    ),
    "public address of another version": (
        H + "sources: [{name: a, address: 10.0.0.1, public_address: '2001:db8::1'}]", "sources[0].public_address", 2,
        "leave it out",
    ),
    "public address of nobody": (
        H + "sources: [{name: a, address: 10.0.0.1, public_address: 127.0.0.1}]", "sources[0].public_address", 2,
        "public address",
    ),
    "public address twice": (
        H + "sources:\n  - {name: a, address: 10.0.0.1, public_address: 192.0.2.1}\n"
        "  - {name: b, address: 10.0.0.2, public_address: 192.0.2.1}",
        "sources[1].public_address", 4, "one source for each",
    ),
    "public address of another source": (
        H + "sources:\n  - {name: a, address: 192.0.2.1}\n  - {name: b, address: 10.0.0.2, public_address: 192.0.2.1}",
        "sources[1].public_address", 4, "one source for each",
    ),
    "tenant of an unknown pool": (S + "tenants: {acme: {pools: [vip]}}", "tenants.acme.pools[0]", 3, "default"),
    "tenant of a pool twice": (
        S + "tenants: {acme: {pools: [default, default]}}", "tenants.acme.pools[1]", 3, "keep one",
    ),
    "sender of an unknown pool": (S + "senders: {x.example: {pool: vip}}", "senders.x.example.pool", 3, "default"),
    "sender with @": (S + "senders: {'@x.example': {pool: default}}", "senders.@x.example", 3, "x.example"),
    "sender of an unknown priority": (
        S + "senders: {x.example: {priority: urgent}}", "senders.x.example.priority", 3, "transactional",
    ),
    "sender in two spellings": (
        S + "senders:\n  x.example: {pool: default}\n  X.example: {campaign: y}", "senders.X.example", 5, "keep one",
    ),
    "tenant that may not use the pool": (
        S + "pools: {default: [a], vip: [b]}\ntenants: {acme: {pools: [vip]}}\n"
        "senders: {x.example: {tenant: acme, pool: default}}",
        "senders.x.example.pool", 5, "write one of vip",
    ),
    "listener of an unknown pool": (
        S + "listeners: {smtp: [{bind: '127.0.0.1:25', mail: {pool: vip}}]}",
        "listeners.smtp[0].mail.pool", 3, "default",
    ),
    "mail at the metrics": (
        S + "listeners: {metrics: {bind: '127.0.0.1:9', mail: {campaign: x}}}",
        "listeners.metrics.mail", 3, "keys here are bind",
    ),
    "weight zero": (S + "fairness: {campaigns: {x: 0}}", "fairness.campaigns.x", 3, "whole number"),
    "weight huge": (S + "fairness: {bulk: {weight: 5000}}", "fairness.bulk.weight", 3, "whole number"),
    "expire of a class without unit": (S + "fairness: {bulk: {expire: 5}}", "fairness.bulk.expire", 3, "5m"),
    "campaign a number": (S + "fairness: {campaigns: {2026: 5}}", "fairness.campaigns.2026", 3, "quotes"),
    "header of two meanings": (S + "headers: {expire: [X-Job]}", "headers.expire[0]", 3, "one of the lists"),
    "back-off rules that are not there": (S + "backoff: {rules: none.yaml}", "backoff.rules", 3, "leave it out"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name):
    text, path, line, word = BAD[name]
    found = problems_of(text)
    assert [(problem.path, problem.line) for problem in found] == [(path, line)], [str(problem) for problem in found]
    assert found[0].problem
    assert word in found[0].mend


def test_the_other_place_is_named():
    (problem,) = problems_of(S + TWICE)
    assert "shaping[0]" in problem.problem
    assert "line 4" in problem.problem
    assert "source * at provider google" in problem.problem


def test_cold_pool_without_overflow_is_fine():
    text = WARM.replace("10.0.0.1", "10.0.0.1, warmup: w") + "{template: sparkpost, overflow: false}"
    assert parse(text, "test.yaml").warnings == []


COLD = H + "sources: [{name: a, address: 10.0.0.1, warmup: w}]\nwarmup: {w: {template: sparkpost}}\n"

# (text, path, a word)
WARNINGS = {
    "provider above delivery": (
        S + "providers: {comcast: {connections: 25}}", "providers.comcast.connections", "delivery.connections_per_site",
    ),
    "messages above delivery": (
        S + "shaping: [{source: a, provider: google, messages_per_connection: 500}]",
        "shaping[0].messages_per_connection", "delivery.messages_per_connection (100)",
    ),
    "connections above all": (
        S + "shaping: [{source: a, connections: 20000}]", "shaping[0].connections", "all connections",
    ),
    "provider that says nothing": (S + "providers: {google: {}}", "providers.google", "nothing"),
    "suffix that is built in": (
        S + "providers: {google: {suffixes: [google.com]}}", "providers.google.suffixes[0]", "already",
    ),
    "rule of a source that is not in the pool": (
        S + "pools: {default: [a, b], vip: [b]}\nshaping: [{source: a, pool: vip, rate: 5/s}]",
        "shaping[0]", "matches nothing",
    ),
    "plan that nobody uses": (S + "warmup: {w: {template: sparkpost}}", "warmup.w", "no source"),
    "pool that is all cold": (COLD, "sources", "none to overflow to"),
    "named pool that is all cold": (
        COLD.replace("\nwarm", ", {name: b, address: 10.0.0.2}]\nwarm", 1).replace("}], {", "}, {")
        + "pools: {default: [a, b], new: [a]}",
        "pools.new", "none to overflow to",
    ),
    "tenant that is not listed": (
        S + "tenants: {acme: {}}\nsenders: {x.example: {tenant: acne}}", "senders.x.example.tenant", "not listed",
    ),
    "shaping of a tenant that is not listed": (
        S + "tenants: {acme: {}}\nshaping: [{tenant: acne, rate: 5/s}]", "shaping[0].tenant", "not listed",
    ),
    "weight of a tenant that is not listed": (
        S + "tenants: {acme: {}}\nfairness: {tenants: {acne: 3}}", "fairness.tenants.acne", "not listed",
    ),
    "sender without an assignment": (S + "senders: {x.example: {}}", "senders.x.example", "nothing"),
    "sender behind everybody": (
        S + "senders: {'*': {pool: default}, x.example: {campaign: y}}", "senders.x.example", "first match",
    ),
    "sender behind its parent": (
        S + "senders: {'*.x.example': {pool: default}, '*.y.x.example': {campaign: y}}", "senders.*.y.x.example",
        "matched by *.x.example",
    ),
    "weight of transactional mail": (
        S + "fairness: {transactional: {weight: 5}}", "fairness.transactional.weight", "always goes first",
    ),
    "private public address": (
        H + "sources: [{name: a, address: 10.0.0.1, public_address: 192.168.0.1}]",
        "sources[0].public_address", "private",
    ),
    "back-off without rules": (S + "backoff: {built_in: false}", "backoff.built_in", "without rules"),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name):
    text, path, word = WARNINGS[name]
    warnings = parse(text, "test.yaml").warnings
    assert [warning.path for warning in warnings] == [path], [str(warning) for warning in warnings]
    assert word in warnings[0].problem
    assert warnings[0].mend


@pytest.mark.parametrize(
    "text",
    [
        S + "shaping: [{source: '*', rate: 5/s}, {source: a, rate: 6/s}]",  # a rule of one takes the place of the other
        S + "shaping: [{provider: google, rate: 5/s}, {source: '*', provider: google, rate: 6/s}]",
        S + "shaping: [{provider: other, rate: 5/s}, {source: '*', provider: other, rate: 5/s}]\n"
        "providers: {other: {rate: 3/s}}",
        S + "shaping: [{rate: 5/s}, {connections: 5}]",
        S + "providers: {mine: {suffixes: [google.com]}, google: {rate: 5/s}}",
        S + "senders: {x.example: {pool: default}, y.example: {pool: default}, '*.x.example': {pool: default},"
        " '*': {campaign: y}}",
        H + "shaping: [{source: default, rate: 5/s}]",  # the name of the system's choice
        S + "shaping: [{campaign: 'a b, c', tenant: '*', rate: 5/s}]",
        WARM + "template: responsys\n    time_zone: utc\n    per: day",
        WARM + "growth: {start: 50, until: 50}",
    ],
)
def test_what_is_fine(text):
    assert parse(text, "test.yaml").warnings == []


# -- time zones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "zone"), [("utc", "UTC"), ("UTC", "UTC"), ("Europe/Berlin", "Europe/Berlin")])
def test_time_zones(text, zone):
    assert TEXTS["time_zone"](text) == zone


@pytest.mark.parametrize("text", ["", "../etc/passwd", "/etc/passwd", "Europe", "a\0b", "x" * 5000, "Europe/Berlin "])
def test_no_time_zones(text):
    with pytest.raises(ValueError, match="is not a time zone; "):
        TEXTS["time_zone"](text)


def test_a_host_without_time_zones_is_told_so(monkeypatch):
    def none(name):
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(forms.zoneinfo, "ZoneInfo", none)
    monkeypatch.setattr(forms.zoneinfo, "available_timezones", set)
    assert TEXTS["time_zone"]("UTC") == "UTC"  # needs no database
    with pytest.raises(ValueError, match="no time zones; install tzdata"):
        TEXTS["time_zone"]("Europe/Berlin")


# -- files of back-off rules -------------------------------------------------------------------------------------------


def test_problems_of_a_file_of_rules_have_its_name(tmp_path):
    (tmp_path / "rules.yaml").write_text("rules:\n  - name: x\n    match: '('\n    actions: {suspend: 1h}\n")
    file = tmp_path / "relay.yaml"
    file.write_text(H + "backoff: {rules: rules.yaml}\nworkers: none\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    first, second = caught.value.problems
    assert (first.file, first.path) == (str(file), "workers")
    assert (second.file, second.line) == (str(tmp_path / "rules.yaml"), 3)
    assert second.mend


def test_a_sound_file_of_rules(tmp_path):
    assert built_in_rules()
    (tmp_path / "rules.yaml").write_text("rules:\n  - {name: x, match: go away, actions: {suspend: 1h}}\n")
    file = tmp_path / "relay.yaml"
    file.write_text(H + "backoff: {rules: rules.yaml}\n")
    assert load(file).backoff.rules == str(tmp_path / "rules.yaml")
    assert load_text(H).backoff.rules is None


# -- anything at all ---------------------------------------------------------------------------------------------------

# For each key, what belongs there, and what does not.
KEYS = {
    "source": (["a", "b", "*"], ["c", 5]),
    "provider": (["google", "other", "*", "yahoo"], ["gogle", None]),
    "pool": (["default", "*"], ["vip", []]),
    "campaign": (["x y", "*"], [5, ""]),
    "tenant": (["acme", "*"], [{}]),
    "rate": (["5/s", "3000/h burst 50", "1/d"], ["0/h", 5, "5/m"]),
    "connection_rate": (["1/s", "60/min"], ["1"]),
    "connections": ([1, "20 connections"], [0, "5 messages"]),
    "messages_per_connection": ([1, 5000], ["x", 0]),
    "recipients_per_transaction": ([1, 7], [-1]),
    "suffixes": ([["mx.house.example"], ["google.com", "x.example"]], ["x.example", ["example"]]),
    "template": (["sparkpost", "responsys"], ["spark"]),
    "stages": ([[1, 5, 20]], [[5, 1], [1, 100], []]),
    "growth": ([{"start": 5}, {"start": 1, "factor": 1.1}], [{"start": 5, "until": 1}, {}, 5]),
    "per": (["day", "hour"], ["week"]),
    "providers": ([{"google": {"stages": [1, 2]}}], [{"gogle": {"growth": {"start": 1}}}, {"google": {}}]),
    "time_zone": (["UTC", "Europe/Berlin"], ["Berlin", 5]),
    "hold": ([{"blocks": "2%"}, {"blocks": None}], [{"blocks": "50%"}, {"blocks": 5}]),
    "pools": ([["default"], []], [["vip"], "default"]),
    "priority": (["bulk", "normal"], ["urgent"]),
    "spread": ([0, "8h"], ["3d", 8]),
    "overflow": ([True, False], ["no way"]),
}


def scribble(rng, kind, share, *must):
    """A section with some keys of the struct `kind`; a share of the values does not belong there."""
    keys = [field.encode_name for field in fields_of(kind) if field.encode_name in KEYS]
    chosen = {*must, *rng.sample(keys, min(len(keys), rng.randint(0, 2)))}
    return {key: rng.choice(KEYS[key][rng.random() < share]) for key in keys if key in chosen}


def scribbled(seed):
    """A configuration of one kind of rubbish or another, or a sound one."""
    rng = random.Random(seed)
    share = rng.choice([0.0, 0.0, 0.1, 0.5])
    schedule = rng.choice(["template", "stages", "growth"])
    sections = {
        "providers": {name: scribble(rng, Provider, share) for name in rng.sample(["google", "yahoo", "other"], 2)},
        "shaping": [scribble(rng, ShapingRule, share, "rate") for _ in range(rng.randint(0, 3))],
        "warmup": {"w": scribble(rng, WarmupPlan, share) | scribble(rng, WarmupPlan, share, schedule)},
        "tenants": {"acme": scribble(rng, Tenant, share)},
        "senders": {name: scribble(rng, Assignment, share) for name in rng.sample(["*", "x.example", "y.example"], 2)},
        "provider_limits": rng.random() < 0.5,
    }
    sources = [{"name": "a", "address": "10.0.0.1", "warmup": "w"}, {"name": "b", "address": "10.0.0.2"}]
    kept = {key: value for key, value in sections.items() if key == "warmup" or rng.random() < 0.5}
    return yaml.safe_dump({"hostname": "a.example", "sources": sources, **kept})


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_any_configuration_is_used_or_refused_in_words(seed):
    config, problems = None, ()
    try:
        config = load_text(scribbled(seed), "test.yaml")
    except ConfigError as error:
        problems = error.problems
    assert all(problem.problem and problem.mend and problem.line for problem in problems), problems
    if config is not None:
        assert load_text(render(config)) == config
        shaper = Shaper(config, make_providers(config.providers))
        for provider in ("google", "other"):
            assert shaper.shape("a", provider, "mx:25", "", False).limits
        assert all(ramps(one) for one in config.warmup.values())


def test_some_of_them_are_sound():
    found = 0
    for seed in range(40):
        try:
            load_text(scribbled(seed))
            found += 1
        except ConfigError:
            continue
    assert 4 <= found <= 36
