"""DMARC (RFC 9989): the tree walk, reading a record, alignment with what we would send; printed records help."""

import asyncio
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fastrelay.doctor.dmarc import aligned, names_to_ask, read_policy, tree_walk
from fastrelay.sim.dns import SERVFAIL, Zone

Clinic = Any


def walk(resolver: Any, zone: Zone, domain: str) -> Any:
    return asyncio.run(tree_walk(resolver(zone), domain))


def policies(**records: str) -> Zone:
    zone = Zone()
    for name, text in records.items():
        zone.add("_dmarc." + name.replace("__", "."), "TXT", f'"{text}"')
    return zone


def test_the_walk_asks_the_domain_and_then_seven_labels_at_most() -> None:
    assert names_to_ask("b.example.com") == ["b.example.com", "example.com", "com"]
    deep = "a.b.c.d.e.f.g.h.i.example.com"
    asked = names_to_ask(deep)
    assert (asked[0], asked[1], len(asked)) == (deep, "e.f.g.h.i.example.com", 8)
    assert names_to_ask("a.b.c.d.e.f.example.com")[1] == "b.c.d.e.f.example.com"


@pytest.mark.parametrize(
    ("records", "domain", "organization", "at"),
    [
        ({}, "news.example.com", "news.example.com", ""),
        ({"example__com": "v=DMARC1; p=none"}, "news.example.com", "example.com", "example.com"),
        ({"news__example__com": "v=DMARC1"}, "news.example.com", "news.example.com", "news.example.com"),
        # The shortest name with a record is the organization; the policy is the domain's own.
        (
            {"news__example__com": "v=DMARC1; p=none", "example__com": "v=DMARC1; p=reject"},
            "news.example.com",
            "example.com",
            "news.example.com",
        ),
        # psd=n: the border is here; what is above does not count.
        (
            {"news__example__com": "v=DMARC1; p=none; psd=n", "example__com": "v=DMARC1; p=reject"},
            "a.news.example.com",
            "news.example.com",
            "news.example.com",
        ),
        # psd=y: the organization is one label below the public suffix.
        ({"co__example": "v=DMARC1; p=reject; psd=y"}, "a.b.co.example", "b.co.example", "co.example"),
        (
            {"co__example": "v=DMARC1; p=reject; psd=y", "b__co__example": "v=DMARC1; p=none"},
            "a.b.co.example",
            "b.co.example",
            "b.co.example",
        ),
        # A domain with psd=y itself sends mail: there is nothing below it, so it stands for itself.
        ({"co__example": "v=DMARC1; p=reject; psd=y"}, "co.example", "co.example", "co.example"),
        # A record that is none is passed over, the walk goes on.
        ({"news__example__com": "v=DMARC2; p=none", "com": "v=DMARC1"}, "news.example.com", "com", "com"),
        ({"news__example__com": "v=dmarc1; p=none"}, "news.example.com", "news.example.com", ""),
    ],
)
def test_the_walk_finds_the_organization_and_the_policy(
    resolver: Any, records: dict[str, str], domain: str, organization: str, at: str
) -> None:
    found = walk(resolver, policies(**records), domain)
    assert (found.organization, found.at) == (organization, at)


def test_several_records_at_a_name_count_as_none(resolver: Any) -> None:
    zone = policies(example__com="v=DMARC1; p=reject")
    zone.add("_dmarc.example.com", "TXT", '"v=DMARC1; p=none"')
    found = walk(resolver, zone, "example.com")
    assert found.policy is None
    assert found.several[0][0] == "example.com"


@pytest.mark.parametrize(
    ("ours", "other", "mode", "fits"),
    [
        ("news.example.com", "news.example.com", "s", True),
        ("news.example.com", "example.com", "s", False),
        ("news.example.com", "example.com", "r", True),
        ("news.example.com", "shop.example.com", "r", True),
        ("news.example.com", "example.net", "r", False),
    ],
)
def test_alignment_is_by_organization_unless_it_is_strict(
    resolver: Any, ours: str, other: str, mode: str, fits: bool
) -> None:
    zone = policies(example__com="v=DMARC1; p=none", example__net="v=DMARC1; p=none")

    async def ask() -> bool:
        dns = resolver(zone)
        return await aligned(dns, await tree_walk(dns, ours), ours, other, mode)

    assert asyncio.run(ask()) is fits


def test_tags_are_read_with_their_defaults() -> None:
    policy = read_policy("v=DMARC1; p=quarantine; sp=reject; rua=mailto:a@x.example!10m,mailto:b@y.example; t=y")
    assert (policy.policy(False), policy.policy(True)) == ("quarantine", "reject")
    assert (policy.adkim, policy.aspf, policy.psd, policy.testing) == ("r", "r", "u", True)
    assert policy.reports_to == [("a@x.example", "x.example"), ("b@y.example", "y.example")]
    assert not policy.problems


@pytest.mark.parametrize(
    "text", ["v=DMARC1; p=nonsense", "v=DMARC1", "v=DMARC1; p=none; adkim=x", "v=DMARC1; p=none; oops"]
)
def test_what_a_receiver_ignores_is_a_problem(text: str) -> None:
    policy = read_policy(text)
    assert policy.problems
    assert policy.policy(False) == "none"


# --- the check ---


@pytest.fixture
def signed(news: Clinic) -> Clinic:
    """news.example signs and passes SPF; DMARC is what is missing."""
    key = Ed25519PrivateKey.generate()
    path = news.folder / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    news.settings["dkim"] = {"keys": [{"domain": "news.example", "selector": "s", "key": str(path)}]}
    news.zone.add("news.example", "TXT", '"v=spf1 ip4:192.0.2.0/24 -all"')
    return news


def test_no_policy_is_an_error_and_its_mend_helps(signed: Clinic) -> None:
    (finding,) = signed.bad("dmarc")
    assert finding.severity == "error"
    assert finding.records[0].name == "_dmarc.news.example"
    assert signed.mend("dmarc") == 1


@pytest.mark.parametrize(
    "records",
    [
        ["v=DMARC1; p=reject", "v=DMARC1; p=none; rua=mailto:d@news.example"],
        ["v=DMARC1"],
        ["v=DMARC1; p=reject"],
        ["v=DMARC1; p=rejekt; rua=mailto:d@news.example"],
        ["v=DMARC1; rua=mailto:d@news.example; p=none; aspf=relaxed"],
        ["v=DMARC1; p=none; rua=d@news.example"],
        ["v=DMARC1; p=none; rua=mailto:d@reports.example; adkim=s; aspf=s"],
    ],
)
def test_the_printed_records_mend_a_policy(signed: Clinic, txt: Any, records: list[str]) -> None:
    for record in records:
        txt(signed.zone, "_dmarc.news.example", record)
    assert signed.bad("dmarc")
    signed.mend("dmarc")


def test_a_record_at_the_wrong_place_is_moved(signed: Clinic, txt: Any) -> None:
    txt(signed.zone, "news.example", "v=DMARC1; p=reject; rua=mailto:d@news.example")
    (finding,) = signed.bad("dmarc")
    assert "nobody looks" in finding.found
    assert finding.records[0].value == "v=DMARC1; p=reject; rua=mailto:d@news.example"
    assert signed.mend("dmarc") == 1


def test_what_a_mend_keeps(signed: Clinic, txt: Any) -> None:
    txt(
        signed.zone,
        "_dmarc.news.example",
        "v=DMARC1; sp=reject; p=quarantine; pct=0; ri=3600; fo=1; rua=mailto:d@news.example",
    )
    (note,) = [one for one in signed.look("dmarc") if one.severity == "note"]
    assert "pct and ri" in note.found
    assert note.records[0].value == "v=DMARC1; p=quarantine; sp=reject; fo=1; rua=mailto:d@news.example; t=y"


def test_strict_alignment_that_our_mail_fails_is_relaxed(signed: Clinic, txt: Any) -> None:
    signed.settings["dkim"]["keys"][0]["senders"] = ["*.news.example"]
    signed.settings["compose"] = {"reverse_path": "b@bounces.news.example"}
    signed.settings["doctor"]["domains"] = ["shop.news.example"]
    txt(signed.zone, "bounces.news.example", "v=spf1 ip4:192.0.2.0/24 -all")
    txt(signed.zone, "_dmarc.news.example", "v=DMARC1; p=reject; adkim=s; aspf=s; rua=mailto:d@news.example")
    wish = {"domains": ["shop.news.example"]}
    (finding,) = signed.bad("dmarc", **wish)
    assert finding.severity == "error"
    assert "adkim=s" in finding.found
    assert finding.records[0].value == "v=DMARC1; p=reject; adkim=r; aspf=r; rua=mailto:d@news.example"
    signed.follow(finding.records)
    assert not signed.bad("dmarc", **wish)


def test_one_leg_alone_is_a_warning(signed: Clinic, txt: Any) -> None:
    txt(signed.zone, "_dmarc.news.example", "v=DMARC1; p=none; rua=mailto:d@news.example")
    assert not signed.bad("dmarc")
    del signed.settings["dkim"]
    (finding,) = signed.bad("dmarc")
    assert (finding.severity, finding.commands[0].split()[:3]) == ("warning", ["fastrelay", "dkim", "new"])
    signed.zone.clear("news.example")
    (finding,) = signed.bad("dmarc")
    assert finding.severity == "error"


def test_a_policy_above_counts_for_a_domain_below(signed: Clinic, txt: Any) -> None:
    signed.settings["doctor"]["domains"] = ["a.news.example"]
    txt(signed.zone, "a.news.example", "v=spf1 ip4:192.0.2.0/24 -all")
    txt(signed.zone, "_dmarc.news.example", "v=DMARC1; p=none; sp=reject; rua=mailto:d@news.example")
    found = signed.look("dmarc", domains=["a.news.example"])
    assert [one.found for one in found] == [
        "p=reject, from _dmarc.news.example",
        "DKIM (d=news.example) and SPF (reverse-path in a.news.example) align",
    ]


def test_reports_to_another_domain_want_its_consent(signed: Clinic, txt: Any) -> None:
    txt(signed.zone, "_dmarc.news.example", "v=DMARC1; p=none; rua=mailto:d@reports.example")
    (finding,) = signed.bad("dmarc")
    assert finding.records[0].name == "news.example._report._dmarc.reports.example"
    assert signed.mend("dmarc") == 1


def test_a_dns_that_does_not_answer_is_no_verdict(signed: Clinic) -> None:
    signed.zone.script("_dmarc.example", SERVFAIL)
    assert [one.severity for one in signed.look("dmarc")] == ["unknown"]
