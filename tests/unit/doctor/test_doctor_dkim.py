"""DKIM: keys that are published, equal to ours, and verified by dkimpy; printed records help."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fastrelay.dkim.keys import read_key
from fastrelay.sim.dns import SERVFAIL

Clinic = Any
NAME = "s1._domainkey.news.example"


def write(path: Path, private: Any) -> str:
    """The key in a file; the record that belongs to it."""
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem)
    path.chmod(0o600)
    return read_key(pem).record


@pytest.fixture(scope="module")
def rsa_key() -> Any:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def signing(news: Clinic, rsa_key: Any) -> Clinic:
    """A key s1 that is not published yet; `record` is what it should be."""
    news.record = write(news.folder / "s1.pem", rsa_key)
    keys = [{"domain": "news.example", "selector": "s1", "key": str(news.folder / "s1.pem")}]
    news.settings["dkim"] = {"keys": keys}
    return news


def test_a_key_that_is_published_signs_and_verifies(signing: Clinic, txt: Any) -> None:
    txt(signing.zone, NAME, signing.record)
    (finding,) = signing.look("dkim")
    assert finding.severity == "ok"
    assert "rsa 2048 bits" in finding.found


@pytest.mark.parametrize("canonicalization", ["relaxed/relaxed", "simple/simple", "relaxed/simple", "simple/relaxed"])
def test_every_canonicalization_verifies(signing: Clinic, txt: Any, canonicalization: str) -> None:
    signing.settings["dkim"]["canonicalization"] = canonicalization
    txt(signing.zone, NAME, signing.record)
    assert not signing.bad("dkim")


def test_ed25519_verifies_too(signing: Clinic, txt: Any) -> None:
    record = write(signing.folder / "s2.pem", Ed25519PrivateKey.generate())
    key = {"domain": "news.example", "selector": "s2", "key": str(signing.folder / "s2.pem")}
    signing.settings["dkim"]["keys"].append(key)
    txt(signing.zone, NAME, signing.record)
    assert [finding.severity for finding in signing.bad("dkim")] == ["warning"]  # the other half carries the mail
    txt(signing.zone, "s2._domainkey.news.example", record)
    assert [finding.severity for finding in signing.look("dkim")] == ["ok", "ok"]


def test_a_key_that_is_not_published_is_an_error_and_its_mend_helps(signing: Clinic) -> None:
    (finding,) = signing.bad("dkim")
    assert (finding.severity, finding.records[0].value) == ("error", signing.record)
    assert all(len(line) <= 96 for line in finding.records[0].zone_lines())
    assert signing.mend("dkim") == 1


OTHER = (
    "p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALNJ7VdpJkVbLkHhhsSSCTUU5pkAs2sGMVYtK8"
    "zwBNRKVgxYQmPVyxMZLTrEFmRRVBlfTNDfFu0WzVnQKNbrmR0CAwEAAQ=="
)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: [f"v=DKIM1; k=rsa; {OTHER}"],
        lambda record: ["v=DKIM1; p="],
        lambda record: [record, record + ";"],
        lambda record: [record.replace("k=rsa", "k=ed25519")],
        lambda record: [record + "; h=sha1"],
        lambda record: [record + "; s=tlsrpt"],
        lambda record: [record + "; t=y"],
        lambda record: ["v=DKIM1; k=rsa; p=!!!"],
        lambda record: ["hello"],
        lambda record: [record[:-12]],
        lambda record: [record.replace("v=DKIM1", "v=DKIM2")],
    ],
)
def test_a_record_that_is_not_ours_is_replaced(signing: Clinic, txt: Any, change: Any) -> None:
    for record in change(signing.record):
        txt(signing.zone, NAME, record)
    (finding, *_) = signing.bad("dkim")
    assert finding.records
    assert signing.mend("dkim") == 1


@pytest.mark.parametrize("extra", ["; h=sha1:sha256", "; s=*", "; s=email", "; t=s", "; n=a note", "; g=*"])
def test_tags_that_do_no_harm(signing: Clinic, txt: Any, extra: str) -> None:
    txt(signing.zone, NAME, signing.record + extra)
    assert not signing.bad("dkim")


def test_a_short_key_is_a_warning(signing: Clinic, txt: Any) -> None:
    record = write(signing.folder / "s1.pem", rsa.generate_private_key(65537, 1024))
    txt(signing.zone, NAME, record)
    (finding,) = signing.bad("dkim")
    assert (finding.severity, finding.commands[0].split()[:2]) == ("warning", ["fastrelay", "dkim"])


def test_a_key_without_a_file_is_an_error(signing: Clinic) -> None:
    (signing.folder / "s1.pem").unlink()
    (finding,) = signing.bad("dkim")
    assert finding.severity == "error"
    assert "no_dkim_key" in finding.why


def test_a_key_that_no_longer_signs_may_go(signing: Clinic) -> None:
    key = dict(signing.settings["dkim"]["keys"][0], selector="s0", sign=False)
    signing.settings["dkim"]["keys"].append(key)
    signing.mend("dkim")
    assert [finding.severity for finding in signing.look("dkim")] == ["note", "ok"]


def test_a_sender_domain_without_a_key_is_an_error(signing: Clinic, txt: Any) -> None:
    txt(signing.zone, NAME, signing.record)
    (finding,) = signing.bad("dkim", domains=["shop.example"])
    assert (finding.subject, finding.severity) == ("shop.example", "error")
    assert not signing.bad("dkim", domains=["below.news.example"])


def test_a_dns_that_does_not_answer_is_no_verdict(signing: Clinic) -> None:
    signing.zone.script(NAME, SERVFAIL)
    assert [finding.severity for finding in signing.look("dkim")] == ["unknown"]
