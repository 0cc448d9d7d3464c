"""fastrelay user: the file that it writes, passwords that are nowhere on the command line, words when it can't."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.users import PASSWORD, cheap

from fastrelay.config.sending import Assignment
from fastrelay.ingest import sasl
from fastrelay.ingest.users import Users, read_users


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)


@pytest.fixture
def user(fastrelay: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    """Runs a command on a users file of its own."""

    def run(*words: object, stdin: str | None = None) -> Result:
        return fastrelay("user", *words, "--file", tmp_path / "users", stdin=stdin)

    return run


def written(tmp_path: Path) -> Users:
    return read_users(str(tmp_path / "users"))


def test_add_takes_the_password_from_standard_input(user: Callable[..., Result], tmp_path: Path) -> None:
    result = user(
        *("add", "shop", "--pool", "slow", "--tenant", "acme", "--campaign", "spring", "--priority", "normal"),
        *("--sender", "shop.example", "--sender", "*.shop.example", "--rate", "3000/h burst 50", "--connections", "20"),
        *("--recipients-per-day", "50000", "--note", "the web shop"),
        stdin=f"{PASSWORD}\nmore\n",
    )
    assert result.exit_code == 0
    assert PASSWORD not in result.output
    account = written(tmp_path).accounts["shop"]
    assert account.hash is not None
    assert account.hash.fits(PASSWORD)
    assert account.cram_md5 is None
    assert account.mail == Assignment(pool="slow", tenant="acme", campaign="spring", priority="normal")
    one = account.user
    assert (one.senders, one.rate) == (["shop.example", "*.shop.example"], "3000/h burst 50")
    assert (one.connections, one.recipients_per_day, one.note) == (20, 50_000, "the web shop")
    assert one.created.endswith("Z")
    assert not one.disabled


def test_generated_passwords_are_shown_once_and_right(user: Callable[..., Result], tmp_path: Path) -> None:
    shown = json.loads(user("add", "shop", "--generate", "--json").stdout)
    account = written(tmp_path).accounts["shop"]
    assert account.hash is not None
    assert account.hash.fits(shown["password"])
    assert account.scram is not None
    keys = sasl.scram_keys(shown["password"], account.scram.salt, account.scram.iterations)
    assert keys.stored_key == account.scram.stored_key
    text = user("passwd", "shop", "--generate").stdout
    changed = written(tmp_path).accounts["shop"]
    assert changed.hash is not None
    assert changed.hash.fits(text.split("password: ")[1].strip())
    assert shown["password"] not in text


def test_cram_md5_is_said_plainly_and_kept_until_it_is_taken_back(user: Callable[..., Result], tmp_path: Path) -> None:
    result = user("add", "crm", "--cram-md5", stdin=PASSWORD)
    assert "stored in the clear" in result.stderr
    assert "CRAM-MD5" in result.stdout
    assert written(tmp_path).accounts["crm"].cram_md5 == PASSWORD.encode()
    user("passwd", "crm", stdin="another one")
    assert written(tmp_path).accounts["crm"].cram_md5 == b"another one"
    user("passwd", "crm", "--no-cram-md5", stdin="another one")
    assert written(tmp_path).accounts["crm"].cram_md5 is None
    assert "another one" not in (tmp_path / "users").read_text()
    assert "THE PASSWORD" in user("add", "--help").output


def test_set_changes_what_is_given_and_nothing_else(user: Callable[..., Result], tmp_path: Path) -> None:
    user(
        "add", "shop", "--pool", "slow", "--tenant", "acme", "--rate", "5/s", "--sender", "shop.example", stdin=PASSWORD
    )
    before = written(tmp_path).accounts["shop"]
    assert user("set", "shop", "--tenant", "none", "--rate", "none", "--sender", "any", "--disable").exit_code == 0
    after = written(tmp_path).accounts["shop"]
    assert after.secrets == before.secrets
    assert after.mail == Assignment(pool="slow")
    assert (after.user.rate, after.user.senders, after.user.disabled) == (None, [], True)
    user("set", "shop", "--enable")
    assert not written(tmp_path).accounts["shop"].user.disabled


def test_list_and_remove(user: Callable[..., Result], tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        user("add", name, "--note", f"note of {name}", stdin=PASSWORD)
    listed = user("list")
    assert all(f"note of {name}" in listed.stdout for name in "abc")
    assert "$" not in listed.stdout
    assert [one["name"] for one in json.loads(user("list", "--json").stdout)["users"]] == ["a", "b", "c"]
    refused = user("remove", "a", "x")
    assert refused.exit_code == 1
    assert "there is no user x" in refused.stderr
    assert len(written(tmp_path).accounts) == 3
    assert json.loads(user("remove", "a", "c", "--json").stdout) == {"removed": ["a", "c"]}
    assert list(written(tmp_path).accounts) == ["b"]
    user("remove", "b")
    assert "no users in" in user("list").stdout


@pytest.mark.parametrize(
    ("words", "stdin", "code", "said"),
    [
        (["add", "a b"], PASSWORD, 2, "is not a user's name"),
        (["add", "x"], "", 2, "no password"),
        (["add", "x"], "short", 2, "shorter than 8"),
        (["add", "x", "--rate", "10"], PASSWORD, 2, "has no period"),
        (["add", "x", "--sender", "*"], PASSWORD, 2, "leave senders away"),
        (["add", "x", "--connections", "0"], PASSWORD, 2, "not a number from 1"),
        (["add", "x", "--recipients-per-day", "many"], PASSWORD, 2, "not a number from 1"),
        (["add", "x", "--pool", "a b"], PASSWORD, 2, "is not a name"),
        (["add", "x", "--password", "hush"], PASSWORD, 2, "No such option"),
        (["add", "there"], PASSWORD, 1, "is a user already"),
        (["set", "there"], None, 2, "nothing to change"),
        (["set", "x", "--disable"], None, 1, "there is no user x"),
        (["passwd", "x"], PASSWORD, 1, "there is no user x"),
    ],
)
def test_what_can_not_be_done(
    user: Callable[..., Result], tmp_path: Path, words: list[str], stdin: str | None, code: int, said: str
) -> None:
    user("add", "there", stdin=PASSWORD)
    before = (tmp_path / "users").read_bytes()
    result = user(*words, stdin=stdin)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert (tmp_path / "users").read_bytes() == before


def test_the_configuration_names_the_file(fastrelay: Callable[..., Result], tmp_path: Path) -> None:
    config = tmp_path / "relay.yaml"
    config.write_text(
        "hostname: a.example\nauth: {users: sub/users}\nsources: [{name: a, address: 127.0.0.1}]\n"
        "pools: {default: [a], slow: [a]}\n"
    )
    refused = fastrelay("user", "add", "shop", "-c", config, stdin=PASSWORD)
    assert refused.exit_code == 2  # the folder is not there
    assert "cannot be opened" in refused.stderr
    (tmp_path / "sub").mkdir()
    result = fastrelay("user", "add", "shop", "--pool", "fast", "-c", config, stdin=PASSWORD)
    assert result.exit_code == 0
    assert "no pool 'fast'" in result.stderr
    assert "shop" in read_users(str(tmp_path / "sub" / "users")).accounts
    config.write_text("hostname: a.example\n")
    result = fastrelay("user", "list", "-c", config)
    assert result.exit_code == 2
    assert "names no users file; add auth: with users:" in result.stderr


def test_a_broken_file_is_left_alone(user: Callable[..., Result], tmp_path: Path) -> None:
    user("add", "shop", stdin=PASSWORD)
    path = tmp_path / "users"
    path.write_text(path.read_text() + "{\n")
    for words in (["add", "x", "--generate"], ["list"], ["remove", "shop"], ["set", "shop", "--disable"]):
        result = user(*words)
        assert result.exit_code == 2, words
        assert "is not JSON" in result.stderr
    assert "error" in json.loads(user("list", "--json").stdout)


def test_list_warns_of_a_file_that_others_may_read(user: Callable[..., Result], tmp_path: Path) -> None:
    user("add", "shop", stdin=PASSWORD)
    os.chmod(tmp_path / "users", 0o640)
    assert "has mode 0640" in user("list").stderr
