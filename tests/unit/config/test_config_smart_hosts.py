"""AUTH at smart hosts in the configuration: what does not fit together, and files that can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastrelay.config.checks import HostCheck
from fastrelay.config.load import parse
from fastrelay.errors import ConfigError
from fastrelay.sim.certificates import Authority

BASE = "hostname: relay.test\nstate_dir: /tmp/nowhere\n"
LOGIN = "username: us, password_file: secret"


def problems(routes: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(f"{BASE}routes: [{routes}]\n", "test.yaml")
    return [f"{one.path}: {one.problem}" for one in caught.value.problems]


@pytest.mark.parametrize(
    "route",
    [
        "hosts: ['smtp.test:587'], tls: verify",
        "hosts: ['smtp.test:465'], tls: implicit",
        "hosts: [smtp.test], tls: dane",
        "hosts: ['127.0.0.1:2525', '[::1]:2525']",
    ],
)
def test_what_is_sound(route: str) -> None:
    parse(f"{BASE}routes: [{{domains: ['*'], {route}, {LOGIN}}}]\n", "test.yaml")


@pytest.mark.parametrize(
    ("route", "path", "words"),
    [
        ("hosts: [smtp.test], tls: verify, username: us", "username", "without password_file"),
        ("hosts: [smtp.test], tls: verify, password_file: x", "password_file", "without username"),
        (f"action: discard, {LOGIN}", "username", "this route has none"),
        (f"hosts: [smtp.test], {LOGIN}", "username", "prove who they are"),
        (f"hosts: [smtp.test], tls: required, {LOGIN}", "username", "prove who they are"),
        (f"hosts: ['127.0.0.1:25', '192.0.2.1:25'], tls: none, {LOGIN}", "username", "prove who they are"),
    ],
)
def test_what_does_not_fit(route: str, path: str, words: str) -> None:
    [found] = problems(f"{{domains: ['*'], {route}}}")
    assert found.startswith(f"routes[0].{path}: ")
    assert words in found


def test_two_logins_for_the_same_hosts() -> None:
    one = f"{{domains: [a.test], hosts: [smtp.test], tls: verify, {LOGIN}}}"
    other = "{domains: ['*'], hosts: ['smtp.test:25'], tls: verify, username: them, password_file: x}"
    [found] = problems(f"{one}, {other}")
    assert found.startswith("routes[1].username: differs from that of routes[0]")


def check(text: str) -> tuple[list[str], list[str]]:
    """Problems and warnings about files."""
    document = parse(BASE + text, "test.yaml")
    host = HostCheck(document.config, document.file, document.lines)
    host.check_outbound_files()
    found = host.findings
    return [one.problem for one in found.problems], [one.problem for one in found.warnings]


def test_password_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    text = f"routes: [{{domains: ['*'], hosts: [smtp.test], tls: verify, username: us, password_file: {secret}}}]\n"
    assert "No such file" in check(text)[0][0]
    secret.write_text("\n")
    secret.chmod(0o600)
    assert "no password in its first line" in check(text)[0][0]
    secret.write_text("secret\n")
    assert check(text) == ([], [])
    secret.chmod(0o644)
    problems, [warning] = check(text)
    assert problems == []
    assert "every user of this host may read" in warning


def test_ca_file(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    text = f"tls: {{outbound: {{ca_file: {ca_file}}}}}\n"
    assert "No such file" in check(text)[0][0]
    ca_file.write_text("nothing\n")
    assert "no certificate in it" in check(text)[0][0]
    Authority().write(str(ca_file))
    assert check(text) == ([], [])
