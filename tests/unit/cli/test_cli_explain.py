"""`fastrelay explain` against a fake relay: what is asked for, what is shown, the exit code."""

import copy
import json

import pytest


def limit(kind, scope, value, origin, **use):
    return {"kind": kind, "scope": scope, "value": value, "origin": origin, "reason": "rate_limit", **use}


def rate(scope, value, origin, burst=50, left=50, wait=0.0):
    return limit("rate", scope, value, origin, burst=burst, left=left, wait_seconds=wait)


def numbers():
    return [
        {"kind": "messages_per_connection", "value": 50, "origin": "built-in: google"},
        {"kind": "recipients_per_transaction", "value": 100, "origin": "default: delivery.recipients_per_transaction"},
    ]


def source(name, used, left, wait=0.0, **more):
    return {
        "name": name,
        "address": f"127.0.0.{10 + ord(name) - ord('a')}",
        "public_address": None,
        "can_send": True,
        "obstacles": [],
        "limits": [
            rate("relay", "500/s", "relay.yaml line 50, shaping[1]", 250, 250),
            rate(f"source:{name} provider:google", "100/s", "built-in: any provider", 50, left, wait),
            limit("connections", f"source:{name} provider:google", "5", "built-in: google", used=used),
        ],
        "numbers": numbers(),
        "warmup": None,
        "adaptive": None,
        "replies": {"source": name, "place": "google", "rate_per_hour": None, "holds": []},
        **more,
    }


ANSWER = {
    "domain": "example.com",
    "pool": "default",
    "file": "/etc/relay.yaml",
    "route": {
        "domain": "example.com",
        "action": "site",
        "ttl_seconds": 290.0,
        "stale": False,
        "site": "aspmx.google.com;alt.google.com:25",
        "provider": "google",
        "port": 25,
        "implicit": False,
        "explicit": False,
        "hosts": [
            {"group": 0, "host": "aspmx.google.com", "addresses": ["192.0.2.1"], "error": None, "ttl_seconds": 1.0},
            {"group": 1, "host": "alt.google.com", "addresses": [], "error": "no address \x1b[31m", "ttl_seconds": 1.0},
        ],
    },
    "provider": {
        "name": "google",
        "suffix": "google.com",
        "origin": "built-in",
        "hosts": ["aspmx.google.com"],
    },
    "waiting": {
        "domain": 1234,
        "queues": [
            {
                "pool": "default",
                "ready": 5000,
                "sessions": 7,
                "reason": "rate_limit",
                "detail": "x",
                "until_seconds": 2.0,
            },
            {"pool": "vip", "ready": 0, "sessions": 0, "reason": "ready", "detail": "", "until_seconds": None},
        ],
    },
    "sources": [source("a", 1, 50, public_address="192.0.2.77"), source("b", 3, 7)],
}


@pytest.fixture
def answer(fake_relay):
    fake_relay.answers["explain"] = copy.deepcopy(ANSWER)
    return fake_relay.answers["explain"]


def line_of(result, *words):
    """The only line that has all the words, in single spaces."""
    found = [" ".join(line.split()) for line in result.output.splitlines() if all(word in line for word in words)]
    assert len(found) == 1, (words, result.output)
    return found[0]


def test_what_is_asked_for(ask, fake_relay, answer):
    assert ask("explain", "example.com").exit_code == 0
    assert fake_relay.arguments == {"domain": "example.com"}
    fake_relay.requests.clear()
    ask("explain", "<you@example.com>", "--pool", "vip", "--source", "b")
    assert fake_relay.arguments == {"domain": "example.com", "pool": "vip", "source": "b"}


def test_no_domain(fastrelay):
    result = fastrelay("explain", "you@")
    assert result.exit_code == 2
    assert "example.com" in result.output


def test_json(ask, answer):
    result = ask("explain", "example.com", "--json")
    assert json.loads(result.output) == answer


def test_the_route(ask, answer):
    result = ask("explain", "example.com")
    assert line_of(result, "provider", "suffix") == "provider google, by MX suffix google.com (built-in)"
    assert line_of(result, "route") == "route by MX, asked again in 4m 50s"
    assert line_of(result, "MX hosts") == "MX hosts 1. aspmx.google.com 192.0.2.1"
    assert line_of(result, "alt.google.com ", "2.") == r"2. alt.google.com no address \x1b[31m"
    assert line_of(result, "waiting") == (
        "waiting 1,234 recipients of this domain; 5,000 recipients for the site in pool default "
        "(7 connections, rate limit for 2s)"
    )
    assert line_of(result, "configuration") == "configuration /etc/relay.yaml"


def test_tls(ask, answer):
    answer["tls"] = {"level": "opportunistic", "kind": "dane", "words": "DANE at some hosts"}
    line = line_of(ask("explain", "example.com"), "TLS ")
    assert line == "TLS DANE at some hosts (`fastrelay tls example.com` says more)"


def test_limits_that_are_alike_share_a_line(ask, answer):
    result = ask("explain", "example.com")
    assert line_of(result, "all mail") == "messages all mail 500/s 250 at once line 50, shaping[1]"
    # Of several sources, the one with the least left is named.
    assert line_of(result, "100/s") == "messages each source at google 100/s 7 at once (b) built-in: any provider"
    assert (
        line_of(result, "connections", "at google") == "connections each source at google 5 3 open (b) built-in: google"
    )
    assert line_of(result, "per connection") == "per connection 50 messages built-in: google"


def test_limits_of_some_sources_name_them(ask, answer):
    answer["sources"].append(source("c", 0, 50))
    answer["sources"][2]["limits"][2] = limit(
        "connections", "source:c provider:google", "1", "relay.yaml line 9", used=1
    )
    answer["sources"][2]["numbers"][0] = {"kind": "messages_per_connection", "value": 7, "origin": "relay.yaml line 9"}
    result = ask("explain", "example.com")
    assert "each of a, b at google 5 3 open (b)" in line_of(result, "connections", "built-in")
    assert "source c at google 1 1 open" in line_of(result, "connections", "line 9")
    assert line_of(result, "per connection", "line 9") == "per connection source c 7 messages line 9"


def test_one_source_is_named(ask, answer):
    del answer["sources"][1]
    result = ask("explain", "example.com", "--source", "a")
    assert line_of(result, "connections", "at google") == "connections source a at google 5 1 open built-in: google"


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("provider:google", "all mail to google"),
        ("site:mx:25", "at this site"),
        ("pool:vip", "pool vip"),
        ("source:a pool:vip", "each source in pool vip"),
        ("source:a site:mx:25", "each source at this site"),
        ("source:z", "source z"),
    ],
)
def test_scopes_in_words(ask, answer, scope, words):
    answer["sources"][0]["limits"] = [rate(scope, "9/s", "x")]
    answer["sources"][1]["limits"] = [rate(scope.replace("source:a", "source:b"), "9/s", "x")]
    assert line_of(ask("explain", "example.com"), "9/s") == f"messages {words} 9/s 50 at once x"


def test_sources_that_can_send_come_first(ask, answer):
    first = answer["sources"][0]
    first["can_send"] = False
    first["obstacles"] = [
        {"reason": "suspended", "detail": "suspension s1: \x1b]0;x", "until_seconds": None},
        {"reason": "rate_limit", "detail": "relay: 500/s", "until_seconds": 1.5},
    ]
    result = ask("explain", "example.com")
    shown = result.output[result.output.index("SOURCE") :].splitlines()
    assert [" ".join(line.split()) for line in shown[1:4]] == [
        "b 127.0.0.11 yes",
        r"a 127.0.0.10, seen as 192.0.2.77 no suspended: suspension s1: \x1b]0;x",
        "rate limit: relay: 500/s",
    ]


def test_a_source_that_waits_says_how_long(ask, answer):
    answer["sources"][1]["can_send"] = False
    answer["sources"][1]["obstacles"] = [
        {"reason": "rate_limit", "detail": "x", "until_seconds": 1.5},
        {"reason": "provider_backoff", "detail": "y", "until_seconds": 7200.0},
    ]
    assert "in 2h rate limit: x" in line_of(ask("explain", "example.com"), "127.0.0.11")


def test_limits_by_campaign_and_tenant(ask, answer):
    origin = "relay.yaml line 9, shaping[4]"
    answer["flows"] = [
        {"campaign": "*", "tenant": "acme", "value": "5/s", "origin": origin},
        {"campaign": "spring", "tenant": "", "value": "6/s", "origin": origin},
    ]
    result = ask("explain", "example.com")
    assert line_of(result, "5/s") == "each campaign of tenant acme 5/s line 9, shaping[4]"
    assert line_of(result, "6/s") == "campaign spring 6/s line 9, shaping[4]"


def test_warm_up(ask, answer):
    plan = {
        "plan": "gently", "key": "google", "schedule": "stages", "per": "day", "others": True, "cap": 2000, "used": 150,
        "left": 1850, "origin": "relay.yaml line 7, warmup.gently", "stage": 3, "stages": 28, "state": "held",
        "why": "blocks 2%", "days_left": 25, "cold": True,
    }  # fmt: skip
    answer["sources"][1]["warmup"] = plan
    answer["sources"][0]["warmup"] = {**plan, "key": "*", "cold": False, "state": "done", "why": ""}
    answer["sources"][1] |= {"connections": 3, "most_connections": 4}
    answer["sources"][1]["adaptive"] = {"per_hour": 1200.4, "wait_seconds": 0.0}
    result = ask("explain", "example.com")
    assert line_of(result, "held") == (
        "b gently mail to google 3 of 28 150 2,000 a day held: blocks 2% line 7, warmup.gently"
    )
    assert "mail to all others 3 of 28 none a day done" in line_of(result, "done")
    assert line_of(result, "yes", "b ").endswith(
        "yes over 3 connections; over 4 connections at most, by its replies; 1,850 left of today's cap; "
        "slowed down to 1,200 an hour by its replies"
    )


def test_rules_that_fired(ask, answer):
    last = {
        "rule": "yahoo-tss04",
        "reply": "421 4.7.0 [TSS04]",
        "time": "t",
        "advice": "slow down",
        "source_of_rule": "x",
    }
    hold = {
        "order": "suspend",
        "rule": "yahoo-tss04",
        "why": "421 4.7.0 [TSS04]",
        "words": "nothing is sent for 7200 s",
    }
    answer["sources"][0]["replies"] |= {"holds": [{**hold, "ends_in_seconds": 7200.0}], "last_rule": last}
    answer["sources"][1]["replies"] |= {"last_rule": last}
    result = ask("explain", "example.com")
    assert line_of(result, "nothing is sent") == "a yahoo-tss04 nothing is sent for 7200 s 2h 421 4.7.0 [TSS04]"
    assert line_of(result, "over") == "b yahoo-tss04 over 421 4.7.0 [TSS04]"
    assert line_of(result, "advice") == "advice on yahoo-tss04: slow down"


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (
            {"action": "fail", "reply": "550 5.1.2", "text": "no such domain"},
            "is refused at once (550 5.1.2 no such domain)",
        ),
        ({"action": "defer", "reply": "451 4.4.3", "text": "timeout"}, "waits for the DNS (451 4.4.3 timeout)"),
        ({"action": "discard"}, "is discarded"),
        ({"action": "reject", "reply": "550 5.7.1", "text": "no"}, "is rejected (550 5.7.1 no)"),
    ],
)
def test_mail_that_goes_nowhere(ask, fake_relay, route, words):
    fake_relay.answers["explain"] = {
        "domain": "x.example",
        "pool": "default",
        "file": "",
        "route": {**route, "rule": {"path": "routes[0]", "origin": "relay.yaml line 3, routes[0]"}},
        "sources": [],
        "waiting": {"domain": 0, "queues": []},
    }
    result = ask("explain", "x.example")
    assert result.exit_code == 0
    assert line_of(result, "mail for it") == f"mail for it {words}"
    assert line_of(result, "set by") == "set by relay.yaml line 3, routes[0]"
    assert "SOURCE" not in result.output


def test_a_route_of_the_configuration(ask, answer):
    answer["route"]["rule"] = {"path": "routes[2]", "origin": "relay.yaml line 60, routes[2]"}
    answer["route"]["ttl_seconds"] = None
    result = ask("explain", "example.com")
    assert line_of(result, "route") == "route by relay.yaml line 60, routes[2]"
    assert line_of(result, "aspmx.google.com ").startswith("hosts 1. ")


def test_a_worker_that_did_not_answer(ask, answer):
    answer["incomplete"] = ["worker 1 is restarting"]
    assert "warning: incomplete: worker 1 is restarting" in ask("explain", "example.com").output


def test_the_relay_refuses(ask, fake_relay):
    fake_relay.answers["explain"] = "worker 0: there is no pool 'x'; the pools are default"
    result = ask("explain", "example.com", "--pool", "x")
    assert result.exit_code == 1
    assert "the pools are default" in result.output
