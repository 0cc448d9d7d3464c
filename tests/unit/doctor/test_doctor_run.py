"""A whole look: what is looked at, in what order, what one fault leaves standing; and the counts for the metrics."""

import asyncio
from typing import Any

import pytest

from fastrelay.clock import SimulatedClock
from fastrelay.doctor import host_check, run
from fastrelay.doctor.findings import CHECKS, SEVERITIES, SLOW_CHECKS, DnsMend, Finding, Report, listed
from fastrelay.doctor.lookups import Lookups, tags_of, txt_octets
from fastrelay.doctor.results import Results
from fastrelay.doctor.run import DOMAIN_CHECKS, HOST_CHECKS, SOURCE_CHECKS, Doctor, Wish
from fastrelay.doctor.subjects import sender_domains, subjects_of
from fastrelay.metrics import names
from fastrelay.metrics.collector import Facts
from fastrelay.route.resolver import Answer

Clinic = Any


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "sync_rate", lambda folder, clock: 5000.0)


def finding(severity: Any, check: str = "spf", subject: str = "news.example") -> Finding:
    return Finding(check=check, subject=subject, severity=severity, found="something")


def report(*severities: str) -> Report:
    return Report(findings=[finding(one) for one in severities], finished=1.0, took_seconds=0.1, complete=True)


@pytest.mark.parametrize(
    ("severities", "code"),
    [
        ((), 0),
        (("ok", "note"), 0),
        (("ok", "unknown"), 0),
        (("warning", "ok"), 1),
        (("warning", "error"), 2),
        (("unknown", "unknown"), 3),
        (("unknown", "error"), 2),
        (("unknown", "warning"), 1),
    ],
)
def test_exit_codes(severities: tuple[str, ...], code: int) -> None:
    assert report(*severities).exit_code() == code


def test_every_check_is_carried_out_by_something() -> None:
    assert {*SOURCE_CHECKS, *DOMAIN_CHECKS, *HOST_CHECKS, "disk"} == set(CHECKS)
    assert set(SLOW_CHECKS) < set(CHECKS)


def test_a_whole_look_has_a_finding_of_every_check(news: Clinic) -> None:
    news.settings["doctor"]["block_lists"] = ["bl.example"]
    found = news.report()
    # No certificate, and no secrets, so there is nothing to say of them.
    assert {one.check for one in found.findings} == set(CHECKS) - {"certificate", "secrets"}
    assert found.complete
    assert {one.subject for one in found.findings} == {"source a", "source b", "news.example", "configuration", "host"}


def test_findings_come_by_area_and_subject(news: Clinic) -> None:
    areas = [CHECKS[one.check][0] for one in news.look()]
    order = list(dict.fromkeys(area for area, _ in CHECKS.values()))
    assert areas == sorted(areas, key=order.index)
    subjects = [one.subject for one in news.look()]
    assert list(dict.fromkeys(subjects)) == ["source a", "source b", "news.example", "configuration", "host"]


def test_quick_leaves_out_what_is_slow(news: Clinic) -> None:
    news.settings["doctor"] = {"timeout": "10ms", "block_lists": ["bl.example"]}
    quick = asyncio.run(Doctor(news.config(), SimulatedClock(), Wish(quick=True), Silent()).look())
    assert not {one.check for one in quick.findings} & set(SLOW_CHECKS)
    assert not quick.complete


class Silent:
    """A resolver that never answers."""

    async def query(self, name: str, rdtype: str) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError


def test_a_dns_that_is_silent_ends_in_could_not_tell(news: Clinic) -> None:
    news.settings["doctor"]["timeout"] = "10ms"
    wish = Wish(only=(*SOURCE_CHECKS, *DOMAIN_CHECKS))
    found = asyncio.run(Doctor(news.config(), SimulatedClock(), wish, Silent()).look())
    told = {one.check for one in found.findings if one.severity != "unknown"}
    assert told == {"address", "dkim"}  # which ask nobody


def test_a_check_that_fails_hides_no_other(news: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> list[Finding]:
        raise RuntimeError("oops")

    monkeypatch.setitem(run.DOMAIN_CHECKS, "spf", broken)
    found = news.look("spf", "mx")
    assert [(one.check, one.severity) for one in found] == [("spf", "unknown"), ("mx", "error")]
    assert "oops" in found[0].found


def test_progress_is_told(news: Clinic) -> None:
    told: list[tuple[int, int]] = []
    resolver = Silent()
    news.settings["doctor"]["timeout"] = "10ms"
    doctor = Doctor(news.config(), SimulatedClock(), Wish(only=("mx", "ptr")), resolver)
    doctor.progress = lambda done, of, what: told.append((done, of))
    asyncio.run(doctor.look())
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_question_is_asked_once() -> None:
    asked: list[str] = []

    class Counting:
        async def query(self, name: str, rdtype: str) -> Answer:
            asked.append(name)
            await asyncio.sleep(0)
            return Answer("nodata")

    async def ask() -> None:
        dns = Lookups(Counting(), 5.0)
        await asyncio.gather(*(dns.query(name, "A") for name in ("a.example", "A.example.", "a.example")))
        await dns.query("a.example", "A")
        await dns.close()

    asyncio.run(ask())
    assert asked == ["a.example"]


# --- the configuration ---


@pytest.mark.parametrize(
    ("outbound", "severity"),
    [({}, "ok"), ({"level": "none"}, "error"), ({"domains": {"old.example": "none"}}, "note")],
)
def test_tls_with_mx_hosts_is_wanted(clinic: Clinic, outbound: dict[str, Any], severity: str) -> None:
    clinic.settings["tls"] = {"outbound": outbound}
    assert [one.severity for one in clinic.look("outbound_tls")] == [severity]


@pytest.mark.parametrize(
    ("settings", "severity"),
    [
        ({}, "note"),
        ({"checks": {"warn": ["unsubscribe"]}}, "ok"),
        ({"compose": {"list_unsubscribe": "https://news.example/u/{reference}"}}, "ok"),
    ],
)
def test_somebody_sees_to_unsubscribing(clinic: Clinic, settings: dict[str, Any], severity: str) -> None:
    clinic.settings.update(settings)
    assert [one.severity for one in clinic.look("unsubscribe")] == [severity]


# --- subjects ---


def test_sender_domains_come_from_everywhere(clinic: Clinic) -> None:
    key = str(clinic.folder / "k")
    clinic.settings["dkim"] = {
        "keys": [{"domain": "a.example", "selector": "s", "key": key, "senders": ["b.example", "*.c.example"]}]
    }
    clinic.settings["senders"] = {"d.example": {}, "*.d.example": {}, "x.c.example": {}, "*.e.example": {}, "*": {}}
    clinic.settings["doctor"] = {"domains": ["f.example", "a.example"]}
    named, left_out = sender_domains(clinic.config())
    assert named == ["a.example", "b.example", "d.example", "x.c.example", "f.example"]
    assert left_out == ["*.e.example"]


def test_a_tenants_pools_are_the_ones_that_send(clinic: Clinic) -> None:
    for name in "abc":
        clinic.source(name, f"192.0.2.{ord(name)}")
    clinic.settings["pools"] = {"default": ["a"], "p": ["b"], "q": ["c"]}
    clinic.settings["tenants"] = {"t": {"pools": ["p"]}}
    clinic.settings["senders"] = {"x.example": {"tenant": "t"}, "y.example": {"pool": "q"}}
    found = subjects_of(clinic.config(), ("x.example", "y.example", "z.example"))
    sending = {one.name: [sender.name for sender in one.senders] for one in found.domains}
    assert sending == {"x.example": ["b"], "y.example": ["c"], "z.example": ["a", "b", "c"]}
    narrowed = subjects_of(clinic.config(), ("z.example",), ("b",))
    assert [sender.name for sender in narrowed.senders] == ["b"]
    assert [sender.name for sender in narrowed.domains[0].senders] == ["b"]


def test_without_sources_the_systems_address_is_looked_at(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrelay.doctor.subjects.system_address", lambda: "10.1.2.3")
    clinic.settings["delivery"] = {}
    (found,) = clinic.look("address")
    assert (found.severity, found.subject) == ("error", "source system")
    monkeypatch.setattr("fastrelay.doctor.subjects.system_address", lambda: None)
    assert not clinic.look("address")


# --- small things ---


def test_a_long_record_is_printed_in_strings_that_read_as_one() -> None:
    lines = DnsMend(name="s._domainkey.news.example", rdtype="TXT", value="v=DKIM1; p=" + "A" * 300).zone_lines()
    assert all(len(line) <= 92 for line in lines)
    joined = "".join(line.strip().strip('"') for line in lines[1:-1])
    assert joined == "v=DKIM1; p=" + "A" * 300


def test_quotes_and_backslashes_are_escaped() -> None:
    assert DnsMend(name="x.example", rdtype="TXT", value='a"b\\c').zone_lines() == [
        'x.example. 3600 IN TXT "a\\"b\\\\c"'
    ]


def test_tags_and_strings() -> None:
    assert tags_of("v=DMARC1;; P = none ;p=reject") == {"v": "DMARC1", "p": "none"}
    assert tags_of("v=DMARC1; nonsense") is None
    assert txt_octets(b"\x03abc\x02de") == b"abcde"
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefg")) == "a, b, c, d and 3 more"


# --- metrics ---


def test_results_become_metrics() -> None:
    results = Results()
    facts = Facts()
    results.add_to(facts)
    assert facts.values == {(names.DOCTOR_RUN_TIMESTAMP.name, ()): 0.0}
    results.take(report("error", "ok", "ok").by_check(), 1_795_000_000.0)
    results.add_to(facts)
    assert facts.values[names.DOCTOR_FINDINGS.name, ("spf", "ok")] == 2
    assert facts.values[names.DOCTOR_FINDINGS.name, ("spf", "error")] == 1
    assert facts.values[names.DOCTOR_FINDINGS.name, ("spf", "warning")] == 0
    assert facts.values[names.DOCTOR_RUN_TIMESTAMP.name, ()] == 1_795_000_000.0


@pytest.mark.parametrize(
    ("findings", "finished"),
    [
        (None, 1.0),
        ({"spf": {"ok": 1}}, None),
        ({"spf": {"ok": 1}}, -1),
        ({"nonsense": {"ok": 1}}, 1.0),
        ({"spf": {"terrible": 1}}, 1.0),
        ({"spf": {"ok": -1}}, 1.0),
        ({"spf": {"ok": "1"}}, 1.0),
        ({"spf": 1}, 1.0),
    ],
)
def test_what_is_no_result_is_refused(findings: Any, finished: Any) -> None:
    results = Results()
    with pytest.raises(ValueError, match=r"doctor\.results"):
        results.take(findings, finished)
    assert not results.findings


def test_severities_go_from_good_to_bad() -> None:
    assert SEVERITIES[0] == "ok"
    assert list(report("ok").counts()) == ["error", "warning", "unknown", "note", "ok"]
