"""Levels of TLS with MX hosts in the configuration: what can't hold, and what never comes into play."""

from __future__ import annotations

import pytest

from fastrelay.config.load import parse
from fastrelay.errors import ConfigError

BASE = "hostname: relay.test\nstate_dir: /tmp/nowhere\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(BASE + text, "test.yaml")
    return [f"{one.path}: {one.problem}" for one in caught.value.problems]


def warnings(text: str) -> list[str]:
    return [f"{one.path}: {one.problem}" for one in parse(BASE + text, "test.yaml").warnings]


def test_every_level() -> None:
    domains = "{a.test: none, b.test: required, '*.c.test': verify, d.test: mta-sts, '*': dane}"
    assert warnings(f"tls: {{outbound: {{domains: {domains}}}}}\n") == []


def test_a_route_without_hosts() -> None:
    [found] = problems("routes: [{domains: [a.test], action: discard, tls: verify}]\n")
    assert found.startswith("routes[0].tls: says how hosts are connected to")


def test_mta_sts_of_named_hosts() -> None:
    [found] = problems("routes: [{domains: [a.test], hosts: [mx.test], tls: mta-sts}]\n")
    assert found.startswith("routes[0].tls: MTA-STS is about the MX hosts of a domain")


def test_what_is_never_reached() -> None:
    [found] = warnings("tls: {outbound: {domains: {'*': required, a.test: none}}}\n")
    assert "'a.test' and what follows is never reached" in found


@pytest.mark.parametrize(
    ("level", "path"),
    [
        ("tls: {outbound: {level: dane}}", "tls.outbound.level"),
        ("tls: {outbound: {domains: {a.test: dane}}}", "tls.outbound.domains.a.test"),
        ("routes: [{domains: [a.test], hosts: [mx.test], tls: dane}]", "routes[0].tls"),
    ],
)
def test_dane_without_a_nameserver_that_is_believed(level: str, path: str) -> None:
    [found] = warnings(f"{level}\ndns: {{nameservers: [192.0.2.1]}}\n")
    assert found.startswith(f"{path}: is dane, and no nameserver")
    assert warnings(f"{level}\ndns: {{nameservers: [192.0.2.1], trust_ad: [192.0.2.0/24]}}\n") == []
    assert warnings(f"{level}\ndns: {{nameservers: ['127.0.0.1:5353']}}\n") == []
    assert warnings("dns: {nameservers: [192.0.2.1]}\n") == []
