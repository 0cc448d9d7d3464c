"""PTR, EHLO, the seen address, block lists and MX: good and bad zones, and the printed records help."""

from typing import Any

import pytest

from fastrelay.sim.dns import SERVFAIL, TIMEOUT
from fastrelay.tls.mta_sts import Policy, PolicyError

Clinic = Any
REVERSE = "11.2.0.192.in-addr.arpa"


@pytest.fixture
def one(clinic: Clinic) -> Clinic:
    """One source, in order."""
    clinic.source("a", "192.0.2.11")
    clinic.zone.add(REVERSE, "PTR", "a.news.example.")
    clinic.zone.address("a.news.example", "192.0.2.11")
    return clinic


def test_a_source_in_order_has_nothing_bad(one: Clinic) -> None:
    assert not one.bad("ptr", "ehlo", "address")
    assert [finding.severity for finding in one.look("ptr", "ehlo")] == ["ok", "ok"]


# --- PTR ---


def test_no_ptr_is_an_error_and_its_mend_helps(one: Clinic) -> None:
    one.zone.clear(REVERSE)
    (finding,) = one.bad("ptr")
    assert finding.severity == "error"
    assert "Gmail (4.7.23, 5.7.25)" in finding.why
    assert [record.zone_lines()[0] for record in finding.records] == [f"{REVERSE}. 3600 IN PTR a.news.example."]
    assert one.mend("ptr") == 1


def test_a_ptr_name_that_does_not_resolve_back_is_an_error(one: Clinic) -> None:
    one.zone.clear(REVERSE)
    one.zone.add(REVERSE, "PTR", "elsewhere.example.")
    (finding,) = one.bad("ptr")
    assert "does not resolve back" in finding.found
    assert one.mend("ptr") == 1


def test_nothing_at_all_is_mended_in_one_go(clinic: Clinic) -> None:
    clinic.source("a", "192.0.2.11")
    (finding,) = clinic.bad("ptr")
    assert len(finding.records) == 2
    assert clinic.mend("ptr") == 1
    assert not clinic.bad("ehlo")


def test_of_several_ptr_names_one_that_resolves_back_is_enough(one: Clinic) -> None:
    one.zone.clear(REVERSE)
    one.zone.add(REVERSE, "PTR", "elsewhere.example.", "a.news.example.")
    assert not one.bad("ptr")


def test_a_name_like_a_home_connection_is_a_warning(one: Clinic) -> None:
    one.zone.clear(REVERSE)
    one.zone.add(REVERSE, "PTR", "dsl-192-0-2-11.isp.example.")
    one.zone.address("dsl-192-0-2-11.isp.example", "192.0.2.11")
    (finding,) = one.bad("ptr")
    assert finding.severity == "warning"
    assert one.mend("ptr") == 1


def test_ipv6_has_its_own_reverse_tree(clinic: Clinic) -> None:
    clinic.source("six", "2001:db8::11")
    (finding,) = clinic.bad("ptr")
    assert finding.records[0].name.endswith(".8.b.d.0.1.0.0.2.ip6.arpa")
    assert finding.records[1].rdtype == "AAAA"
    assert clinic.mend("ptr") == 1


@pytest.mark.parametrize("kind", [SERVFAIL, TIMEOUT])
def test_a_dns_that_does_not_answer_is_no_verdict(one: Clinic, kind: str) -> None:
    one.zone.script(REVERSE, kind)
    one.zone.script("a.news.example", kind)
    assert [finding.severity for finding in one.look("ptr", "ehlo")] == ["unknown", "unknown"]


# --- EHLO ---


def test_an_ehlo_name_that_does_not_resolve_is_an_error(one: Clinic) -> None:
    one.zone.clear("a.news.example")
    (finding,) = one.bad("ehlo")
    assert (finding.severity, finding.records[0].value) == ("error", "192.0.2.11")
    assert one.mend("ehlo") == 1


def test_an_ehlo_name_of_another_address_is_a_warning(one: Clinic) -> None:
    one.zone.clear("a.news.example")
    one.zone.address("a.news.example", "192.0.2.99")
    (finding,) = one.bad("ehlo")
    assert finding.severity == "warning"
    assert "it has 192.0.2.99" in finding.found


def test_an_ehlo_name_that_is_not_the_ptr_name_is_a_note(one: Clinic) -> None:
    one.zone.clear(REVERSE)
    one.zone.add(REVERSE, "PTR", "other.news.example.")
    one.zone.address("other.news.example", "192.0.2.11")
    (finding,) = one.look("ehlo")
    assert finding.severity == "note"
    one.follow(finding.records)
    assert [finding.severity for finding in one.look("ehlo", "ptr")] == ["ok", "ok"]


# --- the address ---


def test_a_private_address_is_an_error_and_nothing_else_is_guessed(clinic: Clinic) -> None:
    clinic.settings["delivery"] = {}
    clinic.settings["sources"] = [{"name": "a", "address": "10.0.0.5"}]
    clinic.settings["doctor"] = {"domains": ["news.example"]}
    address, spf = clinic.bad("address", "ptr", "ehlo", "helo_spf", "block_lists", "spf")
    assert (address.check, address.severity) == ("address", "error")
    assert "public_address" in address.mend
    assert (spf.check, spf.severity) == ("spf", "unknown")


def test_a_public_address_is_fine(clinic: Clinic) -> None:
    clinic.settings["sources"] = [{"name": "a", "address": "10.0.0.5", "public_address": "8.8.4.4"}]
    assert [finding.severity for finding in clinic.look("address")] == ["ok"]


# --- block lists ---


@pytest.fixture
def listed(one: Clinic) -> Clinic:
    one.settings["doctor"] = {"block_lists": ["bl.example"], "timeout": "5s"}
    return one


def test_no_list_is_asked_unless_one_is_configured(one: Clinic) -> None:
    assert not one.look("block_lists")


@pytest.mark.parametrize(
    ("answer", "severity"),
    [(None, "ok"), ("127.0.0.2", "error"), ("127.255.255.254", "unknown"), ("203.0.113.1", "unknown")],
)
def test_what_a_list_answers(listed: Clinic, answer: str | None, severity: str) -> None:
    if answer:
        listed.zone.add("11.2.0.192.bl.example", "A", answer)
    (finding,) = listed.look("block_lists")
    assert finding.severity == severity


def test_a_listing_shows_the_words_of_the_list(listed: Clinic) -> None:
    listed.zone.add("11.2.0.192.bl.example", "A", "127.0.0.4")
    listed.zone.add("11.2.0.192.bl.example", "TXT", '"see https://bl.example/?192.0.2.11"')
    (finding,) = listed.look("block_lists")
    assert "https://bl.example/?192.0.2.11" in finding.found


def test_a_list_is_asked_for_ipv6_by_nibbles(clinic: Clinic) -> None:
    clinic.source("six", "2001:db8::11")
    clinic.settings["doctor"] = {"block_lists": ["bl.example"], "timeout": "5s"}
    nibbles = ".".join(reversed("20010db8000000000000000000000011"))
    clinic.zone.add(f"{nibbles}.bl.example", "A", "127.0.0.2")
    assert [finding.severity for finding in clinic.look("block_lists")] == ["error"]


# --- MX, MTA-STS, TLS-RPT ---


def test_a_domain_that_takes_mail(news: Clinic) -> None:
    news.zone.mx("news.example", [(10, "mx.news.example")])
    news.zone.address("mx.news.example", "192.0.2.1")
    assert [finding.severity for finding in news.look("mx", "mta_sts", "tls_rpt")] == ["ok", "ok", "ok"]


def test_a_null_mx_is_an_error_and_its_mend_helps(news: Clinic) -> None:
    news.zone.null_mx("news.example")
    news.zone.address("mta.news.example", "192.0.2.1")
    (finding,) = news.bad("mx")
    assert "null MX" in finding.found
    assert news.mend("mx") == 1


def test_a_domain_that_is_not_there_is_an_error(news: Clinic) -> None:
    (finding,) = news.bad("mx")
    assert "does not exist" in finding.found


def test_an_address_in_place_of_mx_is_a_warning(news: Clinic) -> None:
    news.zone.address("news.example", "192.0.2.1")
    news.zone.address("mta.news.example", "192.0.2.1")
    assert [finding.severity for finding in news.bad("mx")] == ["warning"]
    assert news.mend("mx") == 1


@pytest.mark.parametrize(("alive", "severity"), [(True, "warning"), (False, "error")])
def test_an_mx_host_without_an_address(news: Clinic, alive: bool, severity: str) -> None:
    news.zone.mx("news.example", [(10, "gone.news.example"), (20, "mx.news.example")])
    if alive:
        news.zone.address("mx.news.example", "2001:db8::1")
    assert [finding.severity for finding in news.bad("mx")] == [severity]


@pytest.mark.parametrize(
    ("check", "name", "records"),
    [
        ("mta_sts", "_mta-sts.news.example", ["v=STSv1; id=bad id"]),
        ("mta_sts", "_mta-sts.news.example", ["v=STSv1; id=1", "v=STSv1; id=2"]),
        ("tls_rpt", "_smtp._tls.news.example", ["v=TLSRPTv1; rua=nobody"]),
        ("tls_rpt", "_smtp._tls.news.example", ["v=TLSRPTv1; rua=mailto:a@b.example", "v=TLSRPTv1; rua=x"]),
    ],
)
def test_records_of_tls_that_are_broken(news: Clinic, txt: Any, check: str, name: str, records: list[str]) -> None:
    news.zone.address("mta-sts.news.example", "192.0.2.1")
    for record in records:
        txt(news.zone, name, record)
    assert [finding.severity for finding in news.bad(check)] == ["warning"]
    assert news.mend(check) == 1


def test_a_policy_host_that_is_not_there_is_a_warning(news: Clinic, txt: Any) -> None:
    txt(news.zone, "_mta-sts.news.example", "v=STSv1; id=20261123")
    assert [finding.severity for finding in news.bad("mta_sts")] == ["warning"]


@pytest.mark.parametrize(
    ("policy", "severity"),
    [
        (Policy("enforce", ("*.news.example",), 86400), "ok"),
        (Policy("enforce", ("mx.other.example",), 86400), "error"),
        (Policy("testing", ("mx.other.example",), 86400), "warning"),
        (Policy("none", (), 86400), "ok"),
        (PolicyError("sts-policy-fetch-error", "status 404"), "warning"),
    ],
)
def test_a_policy_names_the_hosts_that_take_mail(news: Clinic, txt: Any, policy: Any, severity: str) -> None:
    news.zone.mx("news.example", [(10, "mx.news.example")])
    news.zone.address("mta-sts.news.example", "192.0.2.1")
    txt(news.zone, "_mta-sts.news.example", "v=STSv1; id=20261123")
    news.policy = policy
    assert [finding.severity for finding in news.look("mta_sts")] == [severity]
