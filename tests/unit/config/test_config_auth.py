"""The configuration's rules about AUTH, and the users file as the host check sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.users import cheap, put_user

from fastrelay.config.checks import check_host
from fastrelay.config.load import load_text, parse
from fastrelay.config.sending import Assignment
from fastrelay.errors import ConfigError

TLS = "tls: {certificate: relay.pem}\n"
HEAD = "hostname: a.example\nstate_dir: state\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(HEAD + text)
    return [str(problem) for problem in caught.value.problems]


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in parse(HEAD + text, "relay.yaml", "/").warnings]


@pytest.mark.parametrize("auth", ["optional", "required"])
def test_auth_without_users(auth: str) -> None:
    (problem,) = problems(f'{TLS}listeners: {{smtp: [{{bind: "127.0.0.1:25", auth: {auth}}}]}}')
    assert f"listeners.smtp[0].auth: is {auth}, but there are no users; name a file in auth.users" in problem


@pytest.mark.parametrize(
    ("listener", "more"),
    [
        ('bind: "192.0.2.1:25", auth: required, tls: none', TLS),
        ('bind: "192.0.2.1:25", auth: required', ""),
        ('bind: "192.0.2.1:25", auth: required', "without_tls_on_loopback"),
        ('bind: "127.0.0.1:25", auth: required', ""),
    ],
)
def test_auth_that_nobody_can_do(listener: str, more: str) -> None:
    auth = (
        "auth: {users: u, without_tls_on_loopback: true}\n"
        if more == "without_tls_on_loopback"
        else "auth: {users: u}\n"
    )
    tls = TLS if more == TLS else ""
    assert any(
        "nobody can: there is no TLS here" in one
        for one in problems(f"{tls}{auth}listeners: {{smtp: [{{{listener}}}]}}")
    )


@pytest.mark.parametrize(
    "text",
    [
        f'{TLS}auth: {{users: u}}\nlisteners: {{smtp: [{{bind: "192.0.2.1:25", auth: required}}]}}',
        f'{TLS}auth: {{users: u}}\nlisteners: {{smtp: [{{bind: "192.0.2.1:465", tls: implicit}}]}}',
        'auth: {users: u, without_tls_on_loopback: true}\nlisteners: {smtp: [{bind: "127.0.0.1:25", auth: required}]}',
        'auth: {users: u, without_tls_on_loopback: true}\nlisteners: {smtp: [{bind: "[::]:25"}]}',
    ],
)
def test_auth_that_works_is_silent(text: str) -> None:
    assert not [warning for warning in warnings(text) if "auth" in warning]


@pytest.mark.parametrize("listener", ['bind: "192.0.2.1:25"', 'bind: "192.0.2.1:25", auth: none'])
def test_users_that_nobody_can_be(listener: str) -> None:
    (warning,) = [
        one for one in warnings(f"auth: {{users: u}}\nlisteners: {{smtp: [{{{listener}}}]}}") if "auth" in one
    ]
    assert "auth.users: is of no use" in warning


def test_mechanisms_and_delays() -> None:
    assert "auth.mechanisms: is empty" in problems("auth: {mechanisms: []}")[0]
    assert "auth.mechanisms[1]: PLAIN is in the list twice" in problems("auth: {mechanisms: [PLAIN, PLAIN]}")[0]
    assert "auth.failure_delay: is longer than" in problems("auth: {failure_delay: 11m}")[0]
    assert problems("auth: {mechanisms: [NTLM]}")


def test_users_stand_beside_the_configuration_and_make_up_for_relay_networks() -> None:
    document = parse(f"{HEAD}{TLS}auth: {{users: sub/users}}\nrelay_networks: []\n", "relay.yaml", "/etc/fastrelay")
    assert document.config.auth.users == "/etc/fastrelay/sub/users"
    assert not any("relay_networks" in str(warning) for warning in document.warnings)
    assert any("relay_networks" in one for one in warnings("relay_networks: []\n"))


# -- on the host ------------------------------------------------------------------------------------------------------


def checked(folder: Path) -> tuple[list[str], list[str]]:
    config = load_text(
        f"hostname: a.example\nstate_dir: {folder}\nlisteners: {{smtp: []}}\nauth: {{users: {folder / 'users'}}}\n"
        "sources: [{name: a, address: 127.0.0.11}]\npools: {default: [a], slow: [a]}\n"
    )
    found = check_host(config, "relay.yaml")
    return [str(one) for one in found.problems], [str(one) for one in found.warnings if "auth" in str(one)]


def test_a_users_file_that_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    put_user(tmp_path / "users", "shop", mail=Assignment(pool="slow"))
    assert checked(tmp_path) == ([], [])


def test_a_users_file_that_is_not_there(tmp_path: Path) -> None:
    ((problem,), _) = checked(tmp_path)
    assert problem.startswith(
        f"{tmp_path}/users: cannot be read (No such file or directory); make it with fastrelay user"
    )


def test_a_users_file_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    put_user(tmp_path / "users", "shop")
    (tmp_path / "users").chmod(0o644)
    ((problem,), _) = checked(tmp_path)
    assert "auth.users" in problem
    assert f"has mode 0644, so others than its owner may read or change it; chmod 600 {tmp_path}/users" in problem


def test_a_broken_users_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.touch(0o600)
    path.write_text('# users\n{"name": "x", "rate": "5"}\n')
    ((problem,), _) = checked(tmp_path)
    assert problem.startswith(f"{path}:2: rate: '5' has no period; write 5/s")


def test_a_pool_that_is_none_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    put_user(tmp_path / "users", "shop", mail=Assignment(pool="fast"))
    ([], (warning,)) = checked(tmp_path)
    assert "user shop" in warning
    assert "'fast'" in warning
    assert "default, slow" in warning
