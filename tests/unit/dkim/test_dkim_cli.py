"""`fastrelay dkim new|dns|check`, on a zone of our own."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from support.served_dns import ServedDns, txt

from fastrelay.cli.group import cli
from fastrelay.clock import RealClock
from fastrelay.dkim.keys import read_key
from fastrelay.dkim.uses import FILE
from fastrelay.sim.dns import SERVFAIL, Zone

DAY = 86400.0


@pytest.fixture
def dns() -> Iterator[ServedDns]:
    with ServedDns(Zone()) as served:
        yield served


class Desk:
    """A folder with a configuration and keys, and commands on it."""

    def __init__(self, folder: Path, dns: ServedDns) -> None:
        self.folder = folder
        self.dns = dns
        self.keys: list[dict[str, object]] = []

    def run(self, *words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["dkim", *words])
        assert result.exit_code == code, result.output + result.stderr
        return result

    def new(self, selector: str, *words: str, publish: bool = True, **settings: object) -> dict[str, object]:
        """A new key that is configured; what --json says of it."""
        file = str(self.folder / f"{selector}.pem")
        made = json.loads(self.run("new", "news.example", "--selector", selector, "-o", file, "--json", *words).stdout)
        self.keys.append({**made["config"], **settings})
        if publish:
            self.publish(selector, made["record"]["value"])
        return dict(made)

    def publish(self, selector: str, text: str) -> None:
        name = f"{selector}._domainkey.news.example"
        self.dns.zone.clear(name)
        self.dns.zone.add(name, "TXT", txt(text))

    def record(self, selector: str) -> str:
        return read_key((self.folder / f"{selector}.pem").read_bytes()).record

    def config(self, more: dict[str, object] | None = None) -> str:
        file = self.folder / "relay.yaml"
        dns = {"nameservers": [self.dns.nameserver], "timeout": "1s"}
        settings = {
            "hostname": "relay.news.example",
            "state_dir": str(self.folder),
            "dns": dns,
            "dkim": {"keys": self.keys},
        }
        file.write_bytes(msgspec.json.encode({**settings, **(more or {})}))
        return str(file)

    def used(self, **days_ago: float) -> None:
        """What the supervisor noted."""
        now = RealClock().wall()
        notes = {f"{selector}._domainkey.news.example": now - days * DAY for selector, days in days_ago.items()}
        (self.folder / FILE).write_bytes(msgspec.json.encode(notes))

    def check(self, code: int, *words: str) -> list[tuple[str, str]]:
        """(severity, found) of all findings."""
        answer = json.loads(self.run("check", "-c", self.config(), "--json", *words, code=code).stdout)
        assert answer["exit_code"] == code
        return [(finding["severity"], finding["found"]) for finding in answer["findings"]]


@pytest.fixture
def desk(tmp_path: Path, dns: ServedDns) -> Desk:
    return Desk(tmp_path, dns)


# -- new --------------------------------------------------------------------------------------------------------------


def test_a_new_key(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.folder)
    text = desk.run("new", "News.Example", "--selector", "fr2026").stdout
    file = desk.folder / "news.example.fr2026.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = read_key(file.read_bytes())
    assert (key.algorithm, key.bits) == ("rsa", 2048)
    assert "fr2026._domainkey.news.example. 3600 IN TXT (" in text
    assert "".join(re.findall(r'^ +"(.*)"$', text, re.MULTILINE)) == key.record
    assert f"    - domain: news.example\n      selector: fr2026\n      key: {file}\n" in text


@pytest.mark.parametrize(("words", "bits"), [(["--bits", "3072"], 3072), (["--type", "ed25519"], 256)])
def test_other_kinds_of_key(desk: Desk, words: list[str], bits: int) -> None:
    made = desk.new("s1", *words)
    key = read_key((desk.folder / "s1.pem").read_bytes())
    assert (made["bits"], key.bits) == (bits, bits)
    record = made["record"]
    assert isinstance(record, dict)
    assert record["value"] == key.record
    assert "".join(record["strings"]) == key.record
    assert max(map(len, record["strings"])) <= 255


def test_selectors_of_their_own(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.folder)
    one = json.loads(desk.run("new", "news.example", "--json").stdout)
    two = json.loads(desk.run("new", "news.example", "--type", "ed25519", "--json").stdout)
    assert re.fullmatch(r"fr\d{6}", one["selector"])
    assert re.fullmatch(r"fr\d{6}e", two["selector"])


def test_a_key_is_never_overwritten(desk: Desk) -> None:
    file = desk.folder / "s1.pem"
    file.write_text("precious")
    refused = desk.run("new", "news.example", "-o", str(file), code=1)
    assert "is there already" in refused.stderr
    assert file.read_text() == "precious"
    (desk.folder / "link").symlink_to(desk.folder / "elsewhere")
    desk.run("new", "news.example", "-o", str(desk.folder / "link"), code=1)
    assert not (desk.folder / "elsewhere").exists()


def test_what_new_refuses(desk: Desk) -> None:
    assert "is not a domain name" in desk.run("new", "no domain", code=2).stderr
    assert "cannot stand in the DNS" in desk.run("new", "news.example", "--selector", "a_b", code=2).stderr
    assert "cannot be written" in desk.run("new", "news.example", "-o", str(desk.folder / "x" / "y"), code=1).stderr


# -- dns --------------------------------------------------------------------------------------------------------------


def test_the_records_of_a_configuration(desk: Desk) -> None:
    desk.new("s1")
    desk.new("old", "--type", "ed25519", sign=False)
    answer = json.loads(desk.run("dns", "-c", desk.config(), "--json").stdout)
    assert [(one["name"], one["sign"]) for one in answer["records"]] == [
        ("s1._domainkey.news.example", True),
        ("old._domainkey.news.example", False),
    ]
    zone = desk.run("dns", "-c", desk.config(), "--domain", "news.example").stdout
    assert "; no longer signs\nold._domainkey.news.example. 3600 IN TXT" in zone
    assert "".join(re.findall(r'"(.*)"', zone)) == desk.record("s1") + desk.record("old")


def test_a_key_that_cannot_be_read_has_no_record(desk: Desk) -> None:
    desk.new("s1")
    desk.new("s2")
    (desk.folder / "s1.pem").unlink()
    result = desk.run("dns", "-c", desk.config(), code=1)
    assert "s2._domainkey" in result.stdout
    assert "s1._domainkey.news.example can't be used" in result.stderr


def test_without_keys_there_is_nothing_to_show(desk: Desk) -> None:
    assert "has no dkim.keys" in desk.run("dns", "-c", desk.config(), code=1).stderr
    desk.new("s1")
    assert "no key of other.example" in desk.run("dns", "-c", desk.config(), "--domain", "other.example", code=1).stderr


# -- check ------------------------------------------------------------------------------------------------------------


def test_two_live_selectors(desk: Desk) -> None:
    desk.new("s1")
    desk.new("e1", "--type", "ed25519")
    assert [severity for severity, _ in desk.check(0)] == ["ok", "ok"]
    assert "2 ok" in desk.run("check", "-c", desk.config()).stdout


def test_what_is_wrong_with_a_record(desk: Desk) -> None:
    desk.new("s1", publish=False)
    assert "is not published" in desk.check(2)[0][1]
    desk.publish("s1", "v=DKIM1; p=")
    assert "revoked" in desk.check(2)[0][1]
    desk.publish("s1", "v=DKIM1; k=ed25519; p=AAAA")
    assert "k=ed25519" in desk.check(2)[0][1]
    desk.new("s2", publish=False)
    desk.publish("s1", desk.record("s2"))
    desk.publish("s2", desk.record("s2"))
    assert any("another key than ours" in words for _, words in desk.check(2))
    desk.publish("s1", desk.record("s1").replace("k=rsa;", "k=rsa; t=y;"))
    assert ("warning", "s1._domainkey.news.example is in test (t=y)") in desk.check(1)


def test_a_dns_that_does_not_answer(desk: Desk) -> None:
    desk.new("s1", publish=False)
    desk.dns.zone.script("s1._domainkey.news.example", SERVFAIL)
    assert [severity for severity, _ in desk.check(3)] == ["unknown"]


def test_how_long_an_old_record_is_needed(desk: Desk) -> None:
    desk.new("new")
    desk.new("old", sign=False)
    desk.used(old=1.0)
    found = desk.check(0)
    (words,) = [words for severity, words in found if severity == "note"]
    assert re.search(r"old\._domainkey.* must stay published until \d{4}-\d\d-\d\d \d\d:\d\d UTC", words)
    desk.dns.zone.clear("old._domainkey.news.example")
    assert ("error", "old._domainkey.news.example is not published") in desk.check(2)


def test_an_old_record_that_is_not_needed_any_more(desk: Desk) -> None:
    desk.new("new")
    desk.new("old", publish=False, sign=False)
    desk.used(old=300.0)
    found = desk.check(0)
    assert [severity for severity, _ in found] == ["ok", "ok"]
    assert "is not needed since" in found[1][1]


def test_when_nobody_noted_its_use(desk: Desk) -> None:
    desk.new("old", sign=False)
    assert any("is not known, for no relay noted it" in words for _, words in desk.check(0))


def test_a_key_that_was_taken_out_of_the_configuration(desk: Desk) -> None:
    desk.new("new")
    desk.used(gone=1.0, long_gone=300.0)
    found = desk.check(2)
    assert any(
        severity == "note" and "gone._domainkey.news.example no longer signs" in words for severity, words in found
    )
    assert (
        "error",
        "gone._domainkey.news.example is not published, and mail that it signed may still be on its way",
    ) in found
    assert "long_gone" not in str(found)
    desk.publish("gone", "v=DKIM1; k=ed25519; p=AAAA")
    assert "error" not in [severity for severity, _ in desk.check(0)]


def test_a_key_without_its_file(desk: Desk) -> None:
    desk.new("s1")
    (desk.folder / "s1.pem").unlink()
    assert "cannot be read" in desk.check(2)[0][1]
