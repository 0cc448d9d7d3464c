"""SPF: check_host against the RFC's rules and against pyspf, and records that let our addresses pass once published."""

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fastrelay.doctor.findings import quoted
from fastrelay.doctor.spf import SpfResult, check_host
from fastrelay.doctor.spf_check import address_terms, mended
from fastrelay.sim.dns import SERVFAIL, Zone, canonical

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its docstrings have escapes that are none
    import spf as oracle

Clinic = Any
IP = "192.0.2.11"


@pytest.fixture
def zone() -> Zone:
    made = Zone()
    made.address("a.example.com", IP, "2001:db8::11")
    made.address("other.example.com", "198.51.100.1")
    made.mx("example.com", [(10, "mx.example.com"), (20, "a.example.com")])
    made.address("mx.example.com", "198.51.100.2")
    made.add("11.2.0.192.in-addr.arpa", "PTR", "a.example.com.", "elsewhere.example.net.")
    # Both names have addresses: pyspf counts a PTR name without one as void, which the RFC leaves open.
    made.address("elsewhere.example.net", "198.51.100.9", "2001:db8::9")
    made.add("1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "PTR", "a.example.com.")
    made.add("pass.example.net", "TXT", '"v=spf1 ip4:192.0.2.0/24 -all"')
    made.add("fail.example.net", "TXT", '"v=spf1 -all"')
    made.add("neutral.example.net", "TXT", '"v=spf1 ?all"')
    made.add("error.example.net", "TXT", '"v=spf1 nonsense"')
    made.add("two.example.net", "TXT", '"v=spf1 -all"', '"v=spf1 +all"')
    made.add("plain.example.net", "TXT", '"no policy"')
    made.script("broken.example.net", SERVFAIL)
    made.add("192.0.2.11.policy.example.net", "A", "127.0.0.2")
    return made


def judge(resolver: Any, zone: Zone, record: str | None, ip: str = IP, domain: str = "example.com") -> SpfResult:
    if record is not None:
        zone.add(domain, "TXT", quoted(record))
    return asyncio.run(check_host(resolver(zone), ip, domain, f"strong-bad@{domain}", "mta.example.com"))


CASES = [
    ("v=spf1 ip4:192.0.2.11 -all", "pass"),
    ("v=spf1 ip4:192.0.2.0/28 -all", "pass"),
    ("v=spf1 ip4:192.0.2.12 -all", "fail"),
    ("v=spf1 ip4:192.0.2.12 ~all", "softfail"),
    ("v=spf1 ip4:192.0.2.12 ?all", "neutral"),
    ("v=spf1 ip4:192.0.2.12", "neutral"),
    ("v=spf1", "neutral"),
    ("V=SPF1 IP4:192.0.2.11 -ALL", "pass"),
    ("v=spf1 -ip4:192.0.2.11 +all", "fail"),
    ("v=spf1 a -all", "fail"),
    ("v=spf1 a:a.example.com -all", "pass"),
    ("v=spf1 a:other.example.com/8 -all", "fail"),
    ("v=spf1 a:other.example.com/0 -all", "pass"),
    ("v=spf1 a:A.example.com//64 -all", "pass"),
    ("v=spf1 mx -all", "pass"),
    ("v=spf1 mx:example.com/32 -all", "pass"),
    ("v=spf1 ptr -all", "pass"),
    ("v=spf1 ptr:example.net -all", "fail"),
    ("v=spf1 exists:%{i}.policy.example.net -all", "pass"),
    ("v=spf1 exists:%{ir}.policy.example.net -all", "fail"),
    ("v=spf1 include:pass.example.net -all", "pass"),
    ("v=spf1 include:fail.example.net ~all", "softfail"),
    ("v=spf1 include:neutral.example.net -all", "fail"),
    ("v=spf1 include:plain.example.net -all", "permerror"),
    ("v=spf1 include:nothing.example.net -all", "permerror"),
    ("v=spf1 include:error.example.net -all", "permerror"),
    ("v=spf1 include:two.example.net -all", "permerror"),
    ("v=spf1 include:broken.example.net -all", "temperror"),
    ("v=spf1 a:broken.example.net -all", "temperror"),
    ("v=spf1 ip4:192.0.2.11 include:broken.example.net", "pass"),
    ("v=spf1 redirect=pass.example.net", "pass"),
    ("v=spf1 redirect=fail.example.net", "fail"),
    ("v=spf1 redirect=plain.example.net", "permerror"),
    ("v=spf1 ?all redirect=fail.example.net", "neutral"),
    ("v=spf1 redirect=pass.example.net redirect=pass.example.net", "permerror"),
    ("v=spf1 exp=a.example.com exp=a.example.com -all", "permerror"),
    ("v=spf1 unknown=thing ip4:192.0.2.11", "pass"),
    ("v=spf1 ip4:192.0.2.11 -all:example.com", "permerror"),
    ("v=spf1 ip4:192.0.2.11 ip4:192.0.2.300", "permerror"),
    ("v=spf1 ip4:192.0.2.11/33", "permerror"),
    ("v=spf1 ip4:192.0.2.11 ip6:::g", "permerror"),
    ("v=spf1 ip4:192.0.2.11 a:example.com/33", "permerror"),
    ("v=spf1 ip4:192.0.2.11 a:", "permerror"),
    ("v=spf1 ip4:192.0.2.11 include:", "permerror"),
    ("v=spf1 ip4:192.0.2.11 ipv4:192.0.2.11", "permerror"),
    ("v=spf1 ip4:192.0.2.11 exists:%{z}.example.net", "permerror"),
    ("v=spf1 ip4:192.0.2.11 exists:%i.example.net", "permerror"),
    ("v=spf1 ip4:192.0.2.11 a:localhost", "permerror"),
    ("v=spf1 ip4:192.0.2.11 -all all all", "pass"),
    ("v=spf10 ip4:192.0.2.11", "none"),
]


@pytest.mark.parametrize(("record", "outcome"), CASES)
def test_a_record_says_what_the_rfc_says(zone: Zone, resolver: Any, record: str, outcome: str) -> None:
    assert judge(resolver, zone, record).outcome == outcome


def test_ipv6_is_judged_by_its_own_terms(zone: Zone, resolver: Any) -> None:
    record = "v=spf1 ip4:0.0.0.0/0 ip6:2001:db8::/32 -all"
    assert judge(resolver, zone, record, "2001:db8::77").outcome == "pass"
    assert judge(resolver, zone, None, "2001:db9::77").outcome == "fail"


def test_a_mapped_address_is_ipv4(zone: Zone, resolver: Any) -> None:
    assert judge(resolver, zone, "v=spf1 ip4:192.0.2.11 -all", "::ffff:192.0.2.11").outcome == "pass"


def test_macros_of_ipv6_are_nibbles(zone: Zone, resolver: Any) -> None:
    nibbles = ".".join("20010db8000000000000000000000011")
    zone.add(f"{nibbles}.ip6.policy.example.net", "A", "127.0.0.2")
    assert judge(resolver, zone, "v=spf1 exists:%{i}.%{v}.policy.example.net -all", "2001:db8::11").outcome == "pass"


def test_macros_of_the_sender_are_cut_and_turned_round(zone: Zone, resolver: Any) -> None:
    # RFC 7208 section 7.4: %{lr-} of strong-bad is bad.strong; %{d2}, %{o}, %{h}.
    zone.add("bad.strong.lp._spf.example.com", "A", "127.0.0.2")
    assert judge(resolver, zone, "v=spf1 exists:%{lr-}.lp._spf.%{d2} -all").outcome == "pass"


@pytest.mark.parametrize(("count", "outcome"), [(10, "fail"), (11, "permerror")])
def test_ten_terms_may_ask_the_dns(zone: Zone, resolver: Any, count: int, outcome: str) -> None:
    result = judge(resolver, zone, "v=spf1 " + "a:other.example.com " * count + "-all")
    assert (result.outcome, result.lookups) == (outcome, count)


@pytest.mark.parametrize(("count", "outcome"), [(2, "fail"), (3, "permerror")])
def test_two_terms_may_find_nothing(zone: Zone, resolver: Any, count: int, outcome: str) -> None:
    record = "v=spf1 " + " ".join(f"a:void{at}.example.com" for at in range(count)) + " -all"
    result = judge(resolver, zone, record)
    assert (result.outcome, result.void) == (outcome, count)


def test_an_address_without_names_is_a_void_term(zone: Zone, resolver: Any) -> None:
    assert judge(resolver, zone, "v=spf1 ptr ptr -all", "192.0.2.77").outcome == "fail"
    assert judge(resolver, zone, None, "192.0.2.77").void == 2
    zone._records["example.com", "TXT"] = ['"v=spf1 ptr ptr ptr -all"']
    assert judge(resolver, zone, None, "192.0.2.77").outcome == "permerror"


def test_more_than_ten_mx_hosts_are_too_many(zone: Zone, resolver: Any) -> None:
    zone.mx("big.example.com", [(at, "other.example.com") for at in range(1)])
    zone.mx("big.example.com", [(at, f"h{at}.example.com") for at in range(10)])
    assert judge(resolver, zone, "v=spf1 mx:big.example.com -all").outcome == "permerror"


def test_includes_without_end_stop_at_the_limit(zone: Zone, resolver: Any) -> None:
    assert judge(resolver, zone, "v=spf1 include:example.com -all").outcome == "permerror"


def test_a_record_in_several_strings_is_one(zone: Zone, resolver: Any) -> None:
    zone.add("example.com", "TXT", '"v=spf1 ip4:192.0" ".2.11 -all"')
    assert judge(resolver, zone, None).outcome == "pass"


def test_octets_that_are_not_ascii_are_an_error(zone: Zone, resolver: Any) -> None:
    zone.add("example.com", "TXT", r'"v=spf1 ip4:192.0.2.11 a:\228.example"')
    assert judge(resolver, zone, None).outcome == "permerror"


# --- pyspf says the same ---

TERM = st.sampled_from(
    [
        "ip4:192.0.2.11", "ip4:192.0.2.0/24", "-ip4:198.51.100.0/24", "ip6:2001:db8::/32", "ip4:1.2.3", "a", "-a", "mx",
        "a:a.example.com", "a:a.example.com/24//64", "a:void.example.com", "~mx:example.com", "mx:other.example.com",
        "ptr", "ptr:example.net", "include:pass.example.net", "include:fail.example.net", "include:two.example.net",
        "include:loop.example.net", "include:plain.example.net", "exists:%{i}.policy.example.net", "?exists:void.%{d}",
        "redirect=pass.example.net", "redirect=loop.example.net", "exp=a.example.com", "x=y", "all", "-all", "~all",
        "?all", "nonsense", "a:", "a/33", "%{i}", "exists:%{l}.%{o}", "include:neutral.example.net",
    ]
)  # fmt: skip


@pytest.fixture
def pyspf(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """pyspf's outcome for an address, its look-ups answered from the zone."""

    def look_up(name: str, rdtype: str, strict: object = True, timeout: float = 0) -> list[Any]:
        owner = canonical(name)
        found = zone.records(owner, rdtype)
        if rdtype == "TXT":
            wire = [dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, text) for text in found]
            return [((name, rdtype), list(one.strings)) for one in wire]
        if rdtype == "MX":
            pairs = [text.split() for text in found]
            return [((name, rdtype), (int(preference), canonical(host))) for preference, host in pairs]
        return [((name, rdtype), canonical(text) if rdtype == "PTR" else text) for text in found]

    monkeypatch.setattr(oracle, "DNSLookup", look_up)

    def judged(ip: str) -> str:
        query = oracle.query(ip, "strong-bad@example.com", "mta.example.com", querytime=0)
        return str(query.check()[0])

    return judged


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(terms=st.lists(TERM, max_size=6), loop=st.lists(TERM, max_size=3), ip=st.sampled_from([IP, "2001:db8::11"]))
def test_pyspf_says_the_same(
    zone: Zone, resolver: Any, pyspf: Callable[[str], str], terms: list[str], loop: list[str], ip: str
) -> None:
    # Unknown modifiers may come often (RFC 7208 section 6); pyspf calls that an error. And it reads ahead: a record
    # that includes itself is an error even where a term before that matches.
    assume(max(terms.count("x=y"), loop.count("x=y")) < 2)
    assume(not any("loop" in term for term in loop))
    for name, words in (("example.com", terms), ("loop.example.net", loop)):
        zone._records[name, "TXT"] = [quoted(" ".join(["v=spf1", *words]))]
        zone._names.add(name)
    assert judge(resolver, zone, None, ip).outcome == pyspf(ip)


# --- what is printed helps ---


def test_no_record_is_an_error_and_its_mend_helps(news: Clinic) -> None:
    (finding,) = news.look("spf")
    assert (finding.severity, finding.found) == ("error", "no SPF record")
    assert finding.records[0].value == "v=spf1 ip4:192.0.2.11 ip4:192.0.2.12 ~all"
    assert "Gmail" in finding.why
    assert news.mend("spf") == 1


PUBLISHED = [
    ["v=spf1 ip4:192.0.2.11 -all"],
    ["v=spf1 include:_spf.host.example ~all"],
    ["v=spf1 -all"],
    ["v=spf1 redirect=_spf.host.example"],
    ["v=spf1 ip4:192.0.2.11 ip4:192.0.2.12 -all", "v=spf1 include:_spf.host.example -all"],
    ["v=spf1 include:gone.example ip4:192.0.2.12 nonsense -all"],
    ["v=spf1 include:gone.example -all"],
    ["v=spf1 a:a1.example a:a2.example a:a3.example -all"],
    ["v=spf1 " + "include:_spf.host.example " * 11 + "-all"],
    ["v=spf1 +all"],
    ["v=spf1 ip4:192.0.2.11 exists:%{z} ?all"],
    ["v=spf1 " + " ".join(f"ip4:198.51.100.{at}" for at in range(60)) + " -all"],
]


@pytest.mark.parametrize("records", PUBLISHED)
def test_the_printed_record_lets_every_address_pass(news: Clinic, txt: Any, records: list[str]) -> None:
    news.zone.add("_spf.host.example", "TXT", '"v=spf1 ip4:203.0.113.0/24 -all"')
    for record in records:
        txt(news.zone, "news.example", record)
    bad = news.bad("spf")
    assert bad
    assert all(finding.records and finding.why for finding in bad)
    news.mend("spf", rounds=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(records=st.lists(st.lists(TERM, max_size=6), min_size=1, max_size=3))
def test_whatever_is_published_the_printed_record_lets_every_address_pass(
    zone: Zone, news: Clinic, records: list[list[str]]
) -> None:
    news.zone = zone
    news.settings["doctor"]["domains"] = ["example.com"]
    zone._records["loop.example.net", "TXT"] = ['"v=spf1 include:loop.example.net -all"']
    zone._names |= {"loop.example.net", "example.com"}
    zone._records["example.com", "TXT"] = [quoted(" ".join(["v=spf1", *words])) for words in records]
    news.mend("spf", rounds=2)
    assert "ok" in [finding.severity for finding in news.look("spf")]


def test_two_records_become_one_with_the_terms_of_both(news: Clinic) -> None:
    (record,) = mended("news.example", ["v=spf1 a -all", "v=spf1 mx include:x.example ~all"], ["192.0.2.1"])
    assert record.value == "v=spf1 ip4:192.0.2.1 a mx include:x.example ~all"
    assert len(record.replaces) == 2


def test_neighbours_become_a_network_and_nothing_else_does() -> None:
    assert address_terms([f"192.0.2.{at}" for at in range(8)]) == ["ip4:192.0.2.0/29"]
    assert address_terms(["192.0.2.1", "192.0.2.2"]) == ["ip4:192.0.2.1", "ip4:192.0.2.2"]
    assert address_terms(["2001:db8::2", "2001:db8::3"]) == ["ip6:2001:db8::2/127"]


def test_many_addresses_go_into_records_of_their_own(clinic: Clinic) -> None:
    for at in range(60):
        clinic.source(f"s{at}", f"192.0.2.{at * 4 + 1}")
    clinic.settings["doctor"]["domains"] = ["news.example"]
    (finding,) = clinic.bad("spf")
    assert len(finding.records) > 2
    assert all(len(record.value) <= 450 for record in finding.records)
    clinic.mend("spf", rounds=1)


def test_what_is_unwise_in_a_good_record_is_a_note(news: Clinic, txt: Any) -> None:
    includes = " ".join(["include:_spf.host.example"] * 8)
    news.zone.add("_spf.host.example", "TXT", '"v=spf1 ip4:203.0.113.0/24 -all"')
    txt(news.zone, "news.example", f"v=spf1 {includes} ip4:192.0.2.0/24 ptr -all")
    assert [finding.severity for finding in news.look("spf")] == ["note", "note", "ok"]


def test_a_dns_that_does_not_answer_is_no_verdict(news: Clinic) -> None:
    news.zone.script("news.example", SERVFAIL)
    (finding,) = news.look("spf")
    assert finding.severity == "unknown"
    assert "could not tell" in finding.found


def test_only_the_pool_of_a_sender_domain_must_pass(news: Clinic) -> None:
    news.settings["pools"] = {"default": ["a"], "shop": ["b"]}
    news.settings["senders"] = {"news.example": {"pool": "shop"}}
    news.zone.add("news.example", "TXT", '"v=spf1 ip4:192.0.2.12 -all"')
    assert not news.bad("spf")


def test_spf_is_that_of_the_reverse_path_which_compose_makes(news: Clinic) -> None:
    news.settings["compose"] = {"reverse_path": "b+{reference}@bounces.news.example"}
    (finding,) = news.look("spf")
    assert finding.subject == "bounces.news.example"


def test_the_ehlo_name_has_spf_of_its_own(news: Clinic) -> None:
    notes = news.look("helo_spf")
    assert [finding.severity for finding in notes] == ["note", "note"]
    news.zone.add("a.news.example", "TXT", '"v=spf1 -all"')
    (finding,) = news.bad("helo_spf")
    assert finding.subject == "source a"
    assert news.mend("helo_spf") == 1
