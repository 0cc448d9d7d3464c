"""Loading: what a good file means, and for each bad one the path, the line and a word of the mend."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.config import schema
from fastrelay.config.load import load, load_document, load_text, parse, state_dir_of
from fastrelay.config.render import render
from fastrelay.errors import ConfigError

ISSUE = """\
hostname: mta1.news.example
state_dir: ./state                     # everything that must survive lives below it
workers: auto                          # or a number; one per core
listeners:
  smtp: [{bind: "127.0.0.1:2525"}]     # several allowed; IPv6 too
  metrics: {bind: "127.0.0.1:9125"}
relay_networks: ["127.0.0.0/8", "::1/128"]
sources:                               # sending addresses; none: the system chooses
  - {name: a, address: 127.0.0.11, ehlo: a.mta1.news.example}
pools: {default: [a]}
dns: {nameservers: ["127.0.0.1:5353"]} # none: the system's
delivery: {port: 25, allow_private_hosts: false, connections_per_site: 10, messages_per_connection: 100}
routes:                                # first match wins; instead of MX; also action: discard | reject
  - {domains: ["*"], hosts: ["127.0.0.1:2526"]}
retry: {first: 10m, factor: 2, max: 4h, expire: 3d, jitter: 10%}
limits: {message_size: 100MiB, recipients_per_message: 1000, smtp_connections: 2000, queued_recipients: 10000000}
"""


def problems_of(text):
    with pytest.raises(ConfigError) as caught:
        load_text(text, "test.yaml")
    return caught.value.problems


def test_every_key_of_the_specification():
    config = load_text(ISSUE, folder="/srv/relay")
    assert config.hostname == "mta1.news.example"
    assert config.state_dir == "/srv/relay/state"
    assert config.workers == "auto"
    assert config.worker_count >= 1
    assert config.listeners.smtp[0].address == ("127.0.0.1", 2525)
    assert config.listeners.metrics.address == ("127.0.0.1", 9125)
    assert config.relay_networks == ["127.0.0.0/8", "::1/128"]
    assert config.source("a") == schema.Source(name="a", address="127.0.0.11", ehlo="a.mta1.news.example")
    assert config.source("b") is None
    assert config.pools == {"default": ["a"]}
    assert config.dns.nameservers == ["127.0.0.1:5353"]
    assert config.delivery.port == 25
    assert config.routes[0] == schema.Route(domains=["*"], hosts=["127.0.0.1:2526"])
    assert config.retry == schema.Retry(
        first_seconds=600.0, factor=2.0, max_seconds=14400.0, expire_seconds=259200.0, jitter_share=0.1
    )
    assert config.limits.message_size_bytes == 100 * 2**20
    assert config.limits.queued_recipients == 10_000_000


def test_only_the_hostname_is_needed():
    config = load_text("hostname: a.example")
    assert config == msgspec.structs.replace(schema.Config(hostname="a.example"))


def test_without_pools_the_default_pool_has_every_source():
    config = load_text("hostname: a.example\nsources: [{name: a, address: 127.0.0.1}, {name: b, address: 127.0.0.2}]")
    assert config.pools == {"default": ["a", "b"]}


def test_texts_are_normalized():
    config = load_text(
        """
hostname: MTA1.News.Example.
listeners: {smtp: [{bind: "[0:0:0::1]:2525"}, {bind: "*:2526"}]}
dns: {nameservers: ["127.0.0.1", "::1", "[::1]:5353"]}
routes:
  - {domains: ["Bücher.Example", "*.B.example.", "[192.0.2.1]"], hosts: ["MX.Example", "::1", "[0::2]:25", "192.0.2.1"]}
"""
    )
    assert config.hostname == "mta1.news.example"
    assert [listener.bind for listener in config.listeners.smtp] == ["[::1]:2525", "0.0.0.0:2526"]
    assert config.dns.nameservers == ["127.0.0.1:53", "[::1]:53", "[::1]:5353"]
    assert config.routes[0].domains == ["xn--bcher-kva.example", "*.b.example", "[192.0.2.1]"]
    assert config.routes[0].hosts == ["mx.example", "[::1]", "[::2]:25", "192.0.2.1"]


def test_a_section_without_a_value_keeps_its_defaults():
    config = load_text("hostname: a.example\nretry:\nsources:\npools:\nlisteners:\n  smtp:\nroutes:\n")
    assert config == schema.Config(hostname="a.example")


def test_json_form_comes_back():
    config = load_text(ISSUE)
    wire = msgspec.json.encode(schema.to_builtins(config))
    assert schema.from_builtins(msgspec.json.decode(wire)) == config


def test_rendered_form_loads_again():
    config = load_text(ISSUE, folder="/srv")
    assert load_text(render(config), folder="/elsewhere") == config


def test_relative_state_dir_starts_at_the_file(tmp_path):
    file = tmp_path / "etc" / "relay.yaml"
    file.parent.mkdir()
    file.write_text("hostname: a.example\nstate_dir: ../state\n")
    assert load(file).state_dir == str(tmp_path / "state")
    assert load(file).control_socket == str(tmp_path / "state" / "control.sock")


def test_state_dir_is_found_in_a_faulty_file(tmp_path):
    file = tmp_path / "relay.yaml"
    file.write_text("hostnam: a.example\nstate_dir: here\nretry: 5\n")
    assert state_dir_of(file) == str(tmp_path / "here")
    file.write_text("hostname: a.example\n")
    assert state_dir_of(file) == schema.DEFAULT_STATE_DIR


H = "hostname: a.example\n"

# (text, path, line, word of the mend)
BAD = {
    "misspelt key": (H + "wokers: 3", "wokers", 2, "`workers`"),
    "misspelt key below": (H + "retry:\n  frist: 5m", "retry.frist", 3, "`first`"),
    "synonym": (H + "mynetworks: []", "mynetworks", 2, "`relay_networks`"),
    "hyphen": (H + "state-dir: x", "state-dir", 2, "`state_dir`"),
    "key of nowhere": (H + "events: {zzzzz: 1}", "events.zzzzz", 2, "rotate_size"),
    "no hostname": ("workers: 2", "hostname", 1, "reverse DNS"),
    "empty hostname": ("hostname:", "hostname", 1, "write"),
    "hostname a number": ("hostname: 5", "hostname", 1, "quotes"),
    "hostname an address": ("hostname: 192.0.2.1", "hostname", 1, "reverse DNS"),
    "hostname with underscore": ("hostname: a_b.example", "hostname", 1, "hyphen"),
    "hostname with space": ('hostname: "a b"', "hostname", 1, "as in DNS"),
    "hostname with CR": ('hostname: "a\\r\\nb"', "hostname", 1, "as in DNS"),
    "key twice": (H + "workers: 1\nworkers: 2", "workers", 3, "keep one"),
    "key twice below": (H + "retry: {max: 1h, max: 2h}", "retry.max", 2, "keep one"),
    "workers zero": (H + "workers: 0", "workers", 2, "whole number"),
    "workers a word": (H + "workers: many", "workers", 2, "auto"),
    "workers quoted": (H + 'workers: "2"', "workers", 2, "auto"),
    "workers a share": (H + "workers: 1.5", "workers", 2, "auto"),
    "duration without unit": (H + "retry: {first: 10}", "retry.first", 2, "10m"),
    "duration of a bad unit": (H + "retry: {first: 10 fortnights}", "retry.first", 2, "units are"),
    "duration negative": (H + "retry: {first: -10m}", "retry.first", 2, "number and a unit"),
    "duration zero": (H + "retry: {first: 0}", "retry.first", 2, "duration"),
    "duration a list": (H + "retry: {first: [10m]}", "retry.first", 2, "duration"),
    "duration yes": (H + "retry: {first: yes}", "retry.first", 2, "duration"),
    "size of a bad unit": (H + "limits: {message_size: 10Mi}", "limits.message_size", 2, "MiB"),
    "size zero": (H + "limits: {message_size: 0}", "limits.message_size", 2, "size"),
    "share above all": (H + "retry: {jitter: 110%}", "retry.jitter", 2, "100%"),
    "share without percent": (H + "retry: {jitter: 10}", "retry.jitter", 2, "10%"),
    "factor below one": (H + "retry: {factor: 0.5}", "retry.factor", 2, "number"),
    "factor a word": (H + "retry: {factor: two}", "retry.factor", 2, "number"),
    "count zero": (H + "limits: {smtp_connections: 0}", "limits.smtp_connections", 2, "whole number"),
    "count quoted": (H + 'limits: {smtp_connections: "5"}', "limits.smtp_connections", 2, "without quotes"),
    "count octal": (H + "limits: {smtp_connections: 010}", "limits.smtp_connections", 2, "whole number"),
    "count sexagesimal": (H + "limits: {smtp_connections: 1:30}", "limits.smtp_connections", 2, "whole number"),
    "count huge": (H + f"limits: {{smtp_connections: {10**12}}}", "limits.smtp_connections", 2, "whole number"),
    "port above": (H + "delivery: {port: 70000}", "delivery.port", 2, "whole number"),
    "flag a word": (H + "delivery: {allow_private_hosts: maybe}", "delivery.allow_private_hosts", 2, "true or false"),
    "flag a number": (H + "delivery: {prefer_ipv6: 1}", "delivery.prefer_ipv6", 2, "true or false"),
    "wrong word": (H + "smtp: {bare_line_ends: refus}", "smtp.bare_line_ends", 2, "`refuse`"),
    "section a number": (H + "delivery: 3", "delivery", 2, "port"),
    "section a list": (H + "retry: [first]", "retry", 2, "first"),
    "list a text": (H + "relay_networks: 10.0.0.0/8", "relay_networks", 2, "[10.0.0.0/8]"),
    "bad CIDR": (H + 'relay_networks:\n  - "::1"\n  - 10.0.0/8', "relay_networks[1]", 4, "address/prefix"),
    "CIDR with host bits": (H + "relay_networks: [10.1.0.0/8]", "relay_networks[0]", 2, "10.0.0.0/8"),
    "CIDR null": (H + "relay_networks: [~]", "relay_networks[0]", 2, "write"),
    "bind without port": (H + "listeners: {smtp: [{bind: 127.0.0.1}]}", "listeners.smtp[0].bind", 2, "127.0.0.1:2525"),
    "bind a name": (H + 'listeners: {smtp: [{bind: "localhost:25"}]}', "listeners.smtp[0].bind", 2, "127.0.0.1"),
    "bind IPv6 unclear": (H + 'listeners: {smtp: [{bind: "::1:25"}]}', "listeners.smtp[0].bind", 2, "brackets"),
    "bind port above": (H + 'listeners: {smtp: [{bind: "127.0.0.1:99999"}]}', "listeners.smtp[0].bind", 2, "65535"),
    "no bind": (H + "listeners:\n  smtp:\n    - {}", "listeners.smtp[0].bind", 4, "2525"),
    "smtp not a list": (H + 'listeners: {smtp: {bind: "127.0.0.1:25"}}', "listeners.smtp", 2, "list"),
    "two on one bind": (
        H + 'listeners:\n  smtp: [{bind: "127.0.0.1:25"}]\n  metrics:\n    bind: "127.0.0.1:25"',
        "listeners.metrics.bind",
        5,
        "port of its own",
    ),
    "one bind covers another": (
        H + 'listeners: {smtp: [{bind: "*:25"}, {bind: "127.0.0.1:25"}]}',
        "listeners.smtp[1].bind",
        2,
        "port of its own",
    ),
    "source address a name": (H + "sources: [{name: a, address: mta}]", "sources[0].address", 2, "192.0.2.11"),
    "source address a network": (
        H + "sources: [{name: a, address: 10.0.0.0/8}]",
        "sources[0].address",
        2,
        "one address",
    ),
    "source address unspecified": (H + "sources: [{name: a, address: 0.0.0.0}]", "sources[0].address", 2, "this host"),
    "source address missing": (H + "sources:\n  - name: a", "sources[0].address", 3, "this host"),
    "source address misnamed": (H + "sources: [{name: a, ip: 10.0.0.1}]", "sources[0].ip", 2, "`address`"),
    "source name bad": (H + 'sources: [{name: "a b", address: 10.0.0.1}]', "sources[0].name", 2, "letters"),
    "source name twice": (
        H + "sources:\n - {name: a, address: 10.0.0.1}\n - {name: a, address: 10.0.0.2}",
        "sources[1].name",
        4,
        "name of its own",
    ),
    "source address twice": (
        H + "sources:\n - {name: a, address: '::1'}\n - {name: b, address: '0::1'}",
        "sources[1].address",
        4,
        "keep one",
    ),
    "source a text": (H + "sources: [10.0.0.1]", "sources[0]", 2, "name, address"),
    "pool of an unknown source": (
        H + "sources: [{name: mail1, address: 10.0.0.1}]\npools: {default: [mali1]}",
        "pools.default[0]",
        3,
        "`mail1`",
    ),
    "pool without sources": (H + "pools: {default: [a]}", "pools.default[0]", 2, "sources"),
    "pool empty": (H + "sources: [{name: a, address: 10.0.0.1}]\npools: {default: []}", "pools.default", 3, "[a]"),
    "pool null": (H + "pools: {default: }", "pools.default", 2, "list"),
    "pool a text": (H + "pools: {default: a}", "pools.default", 2, "[a]"),
    "pool twice the same": (
        H + "sources: [{name: a, address: 10.0.0.1}]\npools: {default: [a, a]}",
        "pools.default[1]",
        3,
        "keep one",
    ),
    "no default pool": (H + "sources: [{name: a, address: 10.0.0.1}]\npools: {bulk: [a]}", "pools", 3, "default: [a]"),
    "nameserver a name": (H + "dns: {nameservers: [dns.example]}", "dns.nameservers[0]", 2, "addresses"),
    "nameserver twice": (H + "dns: {nameservers: [127.0.0.1, '127.0.0.1:53']}", "dns.nameservers[1]", 2, "keep one"),
    "ttl crossed": (H + "dns: {min_ttl: 2d}", "dns.min_ttl", 2, "shorter"),
    "tries above": (H + "dns: {tries: 11}", "dns.tries", 2, "whole number"),
    "route of both": (
        H + "routes: [{domains: ['*'], hosts: [a.example], action: discard}]",
        "routes[0]",
        2,
        "keep one",
    ),
    "route of neither": (H + "routes: [{domains: ['*']}]", "routes[0]", 2, "hosts"),
    "route of no hosts": (H + "routes: [{domains: ['*'], hosts: []}]", "routes[0].hosts", 2, "at least one"),
    "route of no domains": (H + "routes: [{domains: [], action: discard}]", "routes[0].domains", 2, '["*"]'),
    "route without domains": (H + "routes: [{action: discard}]", "routes[0].domains", 2, "example.com"),
    "route of null domains": (H + "routes: [{domains: , action: discard}]", "routes[0].domains", 2, "list"),
    "route of a bad action": (H + "routes: [{domains: ['*'], action: bounce}]", "routes[0].action", 2, "reject"),
    "route domain with @": (
        H + "routes: [{domains: ['@b.example'], action: discard}]",
        "routes[0].domains[0]",
        2,
        "b.example",
    ),
    "route domain with dot": (
        H + "routes: [{domains: [.b.example], action: discard}]",
        "routes[0].domains[0]",
        2,
        "*.b.example",
    ),
    "route domain with inner *": (
        H + "routes: [{domains: ['b.*'], action: discard}]",
        "routes[0].domains[0]",
        2,
        "patterns",
    ),
    "route host bad": (H + "routes: [{domains: ['*'], hosts: ['a b:25']}]", "routes[0].hosts[0]", 2, "as in DNS"),
    "route host bad address": (
        H + "routes: [{domains: ['*'], hosts: ['10.0.0.300:25']}]",
        "routes[0].hosts[0]",
        2,
        "255",
    ),
    "route host port 0": (
        H + "routes: [{domains: ['*'], hosts: ['b.example:0']}]",
        "routes[0].hosts[0]",
        2,
        "b.example:25",
    ),
    "route of another IP version": (
        H + "sources: [{name: a, address: 10.0.0.1}]\nroutes:\n  - domains: ['*']\n    hosts: ['[::1]:25']",
        "routes[0].hosts",
        5,
        "IPv6",
    ),
    "first above max": (H + "retry:\n  first: 5h\n  max: 4h", "retry.first", 3, "shorter"),
    "expire too short": (H + "retry:\n  first: 10m\n  expire: 9m", "retry.expire", 4, "several times"),
    "backoff crossed": (H + "delivery: {connect_backoff: {first: 1h}}", "delivery.connect_backoff.first", 2, "shorter"),
    "more per site than in all": (H + "delivery: {connections: 5}", "delivery.connections_per_site", 2, "lower"),
    "large above segment": (H + "spool: {large_message: 1GiB}", "spool.large_message", 2, "segment_size"),
    "segment tiny": (H + "spool: {segment_size: 64KiB, large_message: 1KiB}", "spool.segment_size", 2, "1MiB"),
    "map tiny": (H + "spool: {map_size: 1MiB}", "spool.map_size", 2, "sparse"),
    "map odd": (H + "spool: {map_size: 1000000001}", "spool.map_size", 2, "MiB"),
    "message too large": (H + "limits: {message_size: 3GiB}", "limits.message_size", 2, "2GiB"),
    "header with colon": (H + "headers: {campaign: ['X-Job:']}", "headers.campaign[0]", 2, "colon"),
    "header of the message": (H + "headers: {campaign: [Subject]}", "headers.campaign[0]", 2, "your own"),
    "header of the body": (H + "headers: {pool: [Content-Type]}", "headers.pool[0]", 2, "your own"),
    "header of two meanings": (H + "headers: {tenant: [X-Job-Id, x-job]}", "headers.tenant[1]", 2, "one of the lists"),
    "state_dir the root": (H + "state_dir: /", "state_dir", 2, "/var/lib/fastrelay"),
    "state_dir a number": (H + "state_dir: 5", "state_dir", 2, "quotes"),
    "state_dir empty": (H + "state_dir: ''", "state_dir", 2, "leave the key out"),
    "tab": ("hostname: a.example\nretry:\n\tfirst: 5m", "", 3, "tab"),
    "star unquoted": (H + "routes: [{domains: [*], action: discard}]", "", 2, "quotes"),
    "bracket open": (H + "pools: {default: [a", "", 2, "brackets"),
    "two documents": (H + "---\n" + H, "", 2, "one document"),
    "not a section": ("- hostname", "", 1, "key: value"),
    "a control character": (H + "state_dir: a\x07b", "", 2, "character"),
    "a key that is a list": (H + "? [a, b]\n: c", "", 2, "plain words"),
    "a merge key": (H + "retry: {<<: {first: 5m}}", "retry.<<", 2, "keys here"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name):
    text, path, line, word = BAD[name]
    found = problems_of(text)
    assert [(problem.path, problem.line) for problem in found] == [(path, line)], found
    assert found[0].file == "test.yaml"
    assert found[0].problem
    assert word in found[0].mend


def test_all_problems_at_once_in_the_order_of_the_file():
    found = problems_of(
        """\
wokers: 3
retry: {first: 5, max: 1x}
sources:
  - {name: a, address: 10.0.0.300}
pools: {default: [b]}
routes: [{domains: ["*"]}]
limits: {message_size: 0}
"""
    )
    assert [(problem.line, problem.path) for problem in found] == [
        (1, "wokers"),
        (1, "hostname"),
        (2, "retry.first"),
        (2, "retry.max"),
        (4, "sources[0].address"),
        (6, "routes[0]"),
        (7, "limits.message_size"),
    ]  # pools.default[0] is not blamed while sources are at fault


def test_error_text_names_all():
    with pytest.raises(ConfigError) as caught:
        load_text("hostname: a.example\nwokers: 3\nretry: {first: 5}", "relay.yaml")
    error = caught.value
    assert (error.file, error.line, error.path) == ("relay.yaml", 2, "wokers")
    assert error.problem == "is not a key we know"
    assert "workers" in error.mend
    assert str(error).splitlines()[0] == "relay.yaml:2: wokers: is not a key we know; did you mean `workers`?"
    assert len(str(error).splitlines()) == 2


# (text, path, a word)
WARNINGS = {
    "open relay": (H + "relay_networks: [0.0.0.0/0]", "relay_networks[0]", "whole world"),
    "wide relay": (H + "relay_networks: [8.0.0.0/8]", "relay_networks[0]", "public internet"),
    "nobody may relay": (H + "relay_networks: []", "relay_networks", "refused"),
    "no listener": (H + "listeners: {smtp: []}", "listeners.smtp", "nothing can be submitted"),
    "source in no pool": (
        H + "sources: [{name: a, address: 10.0.0.1}, {name: b, address: 10.0.0.2}]\npools: {default: [a]}",
        "sources[1]",
        "no pool",
    ),
    "IPv6 alone": (H + "sources: [{name: a, address: '2001:db8::1'}]\npools: {default: [a]}", "pools.default", "IPv4"),
    "hidden route": (
        H + "routes: [{domains: ['*'], action: discard}, {domains: [b.example], action: reject}]",
        "routes[1].domains[0]",
        "first match",
    ),
    "short expire": (H + "retry: {first: 1m, expire: 10m}", "retry.expire", "outage"),
    "short name": ("hostname: mta", "hostname", "full name"),
    "small messages": (H + "limits: {message_size: 1KiB}", "limits.message_size", "64KiB"),
    "few recipients": (H + "limits: {recipients_per_message: 10}", "limits.recipients_per_message", "100"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name):
    text, path, word = WARNINGS[name]
    document = parse(text, "test.yaml")
    assert [warning.path for warning in document.warnings] == [path]
    assert word in document.warnings[0].problem


def test_the_specified_configuration_has_no_warnings():
    assert parse(ISSUE, "test.yaml").warnings == []


@pytest.mark.parametrize(
    ("octets", "line", "word"),
    [(b"hostname: a\xff.example", 1, "UTF-8"), (b"a: 1\nhostname: \xe4\n", 2, "UTF-8")],
)
def test_unreadable_text(tmp_path, octets, line, word):
    file = tmp_path / "relay.yaml"
    file.write_bytes(octets)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.line == line
    assert word in caught.value.problem


def test_byte_order_mark_and_crlf_are_fine(tmp_path):
    file = tmp_path / "relay.yaml"
    file.write_bytes(b"\xef\xbb\xbfhostname: a.example\r\nworkers: 2\r\n")
    assert load_document(file).lines["workers"] == 2


def test_files_that_cannot_be_read(tmp_path):
    for path, word in ((tmp_path / "none.yaml", "-c"), (tmp_path, "file in it")):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.file == str(path)
        assert word in caught.value.mend


def test_a_file_of_deep_brackets_is_refused_in_words():
    found = problems_of("hostname: " + "[" * 5000)
    assert len(found) == 1


def test_aliases_do_not_multiply():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 8) + "]" for n in range(1, 12)]
    found = problems_of(H + "\n".join(levels))
    assert len(found) == 12  # one unknown key each; nothing was expanded


@given(st.text(alphabet=st.sampled_from(" \n:-[]{}'\"#,&*!|>%@`abhostname0159.~?\t\r<="), max_size=60))
def test_any_text_loads_or_is_refused_in_words(text):
    problems = ()
    try:
        load_text(text, "test.yaml")
    except ConfigError as error:
        problems = error.problems
    assert all(problem.problem and problem.mend for problem in problems)
