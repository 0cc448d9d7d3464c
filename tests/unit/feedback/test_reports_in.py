"""DMARC and TLS reports of others: read as providers write them, bounded whatever they are, counted once, summed up."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay._core.lmdb import Environment
from fastrelay._core.slab import Slab
from fastrelay.config.load import load_text
from fastrelay.feedback.reports import DATABASE, Reports
from fastrelay.feedback.reports_read import (
    KEPT_ROWS,
    MAX_DEPTH,
    Bounds,
    DmarcRow,
    Report,
    ReportRefused,
    looks_like_report,
    read_report,
)
from fastrelay.metrics.meters import Meters

END = 1_790_000_000
SMALL = Bounds(size=200_000, records=5000)


def record(source: str = "192.0.2.1", count: int = 3, dkim: str = "pass", spf: str = "fail", of: str = "none") -> str:
    return (
        f"<record><row><source_ip>{source}</source_ip><count>{count}</count><policy_evaluated>"
        f"<disposition>{of}</disposition><dkim>{dkim}</dkim><spf>{spf}</spf></policy_evaluated></row>"
        "<identifiers><header_from>Example.com</header_from></identifiers><auth_results><dkim><domain>esp.test</domain>"
        "<result>pass</result></dkim><spf><domain>x.test</domain><result>pass</result></spf></auth_results></record>"
    )


def aggregate(
    *records: str, root: str = "<feedback>", org: str = "google.com", id: str = "123", domain: str = "example.com"
) -> bytes:
    name = root.strip("<>").split()[0]
    return (
        f'<?xml version="1.0" encoding="UTF-8" ?>\n{root}<report_metadata><org_name>{org}</org_name>'
        f"<email>noreply@{org}</email><report_id>{id}</report_id><date_range><begin>{END - 86399}</begin>"
        f"<end>{END}</end></date_range></report_metadata><policy_published><domain>{domain}</domain>"
        f"<adkim>r</adkim><aspf>r</aspf><p>none</p><sp>none</sp><pct>100</pct></policy_published>"
        f"{''.join(records) or record()}</{name}>"
    ).encode()


def zipped(*files: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def tls_report(**changes: Any) -> bytes:
    report: dict[str, Any] = {
        "organization-name": "Google Inc.",
        "date-range": {"start-datetime": "2026-09-20T00:00:00Z", "end-datetime": "2026-09-20T23:59:59Z"},
        "contact-info": "smtp-tls-reporting@google.com",
        "report-id": "2026-09-20T00:00:00Z_example.com",
        "policies": [
            {
                "policy": {"policy-type": "sts", "policy-string": ["version: STSv1"], "policy-domain": "example.com"},
                "summary": {"total-successful-session-count": 40, "total-failure-session-count": 3},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "192.0.2.7",
                        "receiving-mx-hostname": "mx.example.com",
                        "failed-session-count": 2,
                    }
                ],
            }
        ],
    }
    return json.dumps(report | changes).encode()


def mail(content: bytes, content_type: str, name: str, subject: str, body_only: bool = False) -> bytes:
    encoded = base64.encodebytes(content).replace(b"\n", b"\r\n")
    part = (
        f'Content-Type: {content_type}; name="{name}"\r\nContent-Disposition: attachment; filename="{name}"\r\n'
        "Content-Transfer-Encoding: base64\r\n"
    )
    head = f"From: noreply@google.com\r\nTo: dmarc@example.com\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n"
    if body_only:
        return (head + part + "\r\n").encode() + encoded
    return (
        f'{head}Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n'
        f"This is an aggregate report.\r\n--b\r\n{part}\r\n"
    ).encode() + encoded + b"--b--\r\n"  # fmt: skip


NAME = f"google.com!example.com!{END - 86399}!{END}"
SUBJECT = "Report domain: example.com Submitter: google.com Report-ID: 123"
MESSAGES = {
    "google": mail(zipped((NAME + ".xml", aggregate())), "application/zip", NAME + ".zip", SUBJECT, body_only=True),
    "yahoo": mail(gzip.compress(aggregate()), "application/gzip", NAME + ".xml.gz", SUBJECT),
    "microsoft": mail(gzip.compress(aggregate()), "application/octet-stream", NAME + ".xml.gz", SUBJECT),
    "fastmail": mail(gzip.compress(aggregate()), "application/x-gzip", NAME + ".xml.gz", f"[Preview] {SUBJECT}"),
    "plain": mail(aggregate(), "text/xml", NAME + ".xml", SUBJECT),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_as_providers_send_them(message: bytes) -> None:
    assert looks_like_report(message)
    assert read_report(message, SMALL) == Report(
        "dmarc", "google.com", "123", END - 86399, END, "example.com", "none",
        [DmarcRow("192.0.2.1", "example.com", "none", True, False, 3)],
    )  # fmt: skip


@pytest.mark.parametrize(
    "root",
    ["<feedback>", '<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0">', '<ns0:feedback xmlns:ns0="urn:x">',
     '<feedback xmlns="http://dmarc.org/dmarc-xml/0.1">'],
)  # fmt: skip
def test_namespaces(root: str) -> None:
    assert read_report(aggregate(root=root), SMALL).domain == "example.com"


def test_rfc_9990_and_what_is_not_ours_to_know() -> None:
    report = aggregate().replace(b"<pct>100</pct>", b"<np>reject</np><testing>n</testing><discovery_method>treewalk"
                                 b"</discovery_method>")  # fmt: skip
    report = report.replace(b"<auth_results>", b"<extension><count>9</count></extension><auth_results>")
    assert read_report(report, SMALL).dmarc == [DmarcRow("192.0.2.1", "example.com", "none", True, False, 3)]


def test_rows_that_are_alike_are_one() -> None:
    report = read_report(aggregate(record(count=1), record(count=4), record("2001:DB8::1", 2, "fail")), SMALL)
    assert [(row.source, row.count) for row in report.dmarc] == [("192.0.2.1", 5), ("2001:db8::1", 2)]


def test_more_rows_than_are_kept_are_summed() -> None:
    many = [record(f"10.0.{n // 250}.{n % 250}", 2 if n < KEPT_ROWS else 1) for n in range(KEPT_ROWS + 100)]
    rows = read_report(aggregate(*many), Bounds()).dmarc
    assert len(rows) == KEPT_ROWS + 1
    assert (rows[-1].source, rows[-1].count) == ("", 100)


def test_a_tls_report() -> None:
    message = mail(gzip.compress(tls_report()), "application/tlsrpt+gzip", "a!b!1!2.json.gz", "Report Domain: example")
    assert looks_like_report(message)
    for octets in (message, tls_report(), gzip.compress(tls_report())):
        report = read_report(octets, SMALL)
        assert (report.kind, report.org, report.domain) == ("tls", "Google Inc.", "example.com")
        assert [(row.result, row.count, row.mx) for row in report.tls] == [
            ("ok", 40, ""), ("certificate-expired", 2, "mx.example.com"), ("unknown", 1, ""),
        ]  # fmt: skip


def nested_zip(depth: int) -> bytes:
    content = aggregate()
    for _ in range(depth):
        content = zipped(("a.zip", content))
    return content


BILLION = b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><feedback>&b;</feedback>"""
REFUSED = {
    "gzip bomb": gzip.compress(b" " * 5_000_000),
    "zip bomb": zipped(("a.xml", b" " * 5_000_000)),
    "gzip in gzip": gzip.compress(gzip.compress(gzip.compress(gzip.compress(aggregate())))),
    "zip in zip": nested_zip(5),
    "many files": zipped(*((f"{n}.xml", b"<a/>") for n in range(50))),
    "empty zip": zipped(),
    "cut gzip": gzip.compress(aggregate())[:-20],
    "cut zip": zipped(("a.xml", aggregate()))[:-30],
    "cut xml": aggregate()[:-50],
    "entities": BILLION,
    "external": b'<!DOCTYPE feedback SYSTEM "file:///etc/passwd"><feedback/>',
    "deep": b"<feedback>" + b"<a>" * (MAX_DEPTH + 5),
    "other xml": b"<html></html>",
    "records": aggregate(*[record()] * 5001)[:190_000],
    "no address": aggregate(record(source="here")),
    "no count": aggregate(record().replace(">3<", ">many<")),
    "no domain": aggregate(domain="not a domain"),
    "json": b'{"a": 1}',
    "deep json": b'{"policies":' + b"[" * 100_000,
    "no policies": tls_report(policies=[]),
    "no time": tls_report(**{"date-range": {"start-datetime": "soon", "end-datetime": "later"}}),
    "nothing": b"Subject: Report domain: x\r\n\r\nhello",
    "empty": b"",
}


@pytest.mark.parametrize("octets", REFUSED.values(), ids=REFUSED)
def test_refused_in_words(octets: bytes) -> None:
    with pytest.raises(ReportRefused) as caught:
        read_report(octets, SMALL)
    assert str(caught.value)


def test_a_bomb_in_a_message_is_refused() -> None:
    bomb = gzip.compress(b"<feedback>" + b" " * 5_000_000)
    with pytest.raises(ReportRefused, match="unpacks to more"):
        read_report(mail(bomb, "application/gzip", NAME + ".xml.gz", SUBJECT), SMALL)


def test_what_is_no_report() -> None:
    assert not looks_like_report(b"Subject: Undelivered Mail Returned to Sender\r\n\r\nuser unknown")
    assert not looks_like_report(b"")


@given(st.binary(max_size=400), st.sampled_from([b"", b"<feedback>", b"{", b"\x1f\x8b\x08", b"PK\x03\x04"]))
def test_any_octets(octets: bytes, start: bytes) -> None:
    try:
        read_report(start + octets, SMALL)
    except ReportRefused:
        pass


@given(st.data())
def test_a_report_that_was_changed(data: st.DataObject) -> None:
    octets = bytearray(data.draw(st.sampled_from([*MESSAGES.values(), tls_report(), aggregate()])))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_report(bytes(octets[: data.draw(st.integers(0, len(octets)))]), SMALL)
    except ReportRefused:
        pass


# -- kept and summed up -----------------------------------------------------------------------------------------------


class FakeClock:
    def __init__(self) -> None:
        self.now = END + 3600.0

    def wall(self) -> float:
        return self.now


class FakeDesk:
    def __init__(self, folder: Path) -> None:
        self.config = load_text(
            "hostname: a.example.com\nsources: [{name: first, address: 192.0.2.1, ehlo: a.example.com}]\n",
            "t",
            str(folder),
        )
        self.clock = FakeClock()
        self.store = Environment(str(folder / "feedback"), (DATABASE,), map_bytes=64 << 20)
        self.meters = Meters(Slab(str(folder / "slab"), create=True))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[FakeDesk]:
    made = FakeDesk(tmp_path)
    yield made
    made.store.close()


def value(desk: FakeDesk, name: str, **labels: str) -> float:
    from fastrelay.metrics import names

    return float(desk.meters.slab.value(desk.meters.entry(names.METRICS[name], **labels)))


def test_counted_once_and_summed_by_source(desk: FakeDesk) -> None:
    part = Reports(desk)  # type: ignore[arg-type]
    octets = aggregate(record(), record("198.51.100.9", 7, "fail", of="reject"))
    assert (
        part.take_octets(octets, desk.clock.now) == "DMARC report of google.com on example.com: 10 messages, 7 failed"
    )
    assert part.take_octets(gzip.compress(octets), desk.clock.now).startswith("again, ")
    part.take_octets(aggregate(record(), org="yahoo.com"), desk.clock.now)
    assert part.take(None, part.read(MESSAGES["google"])) is True  # type: ignore[arg-type]
    answer = part.summary()
    assert answer["dmarc"]["reports"] == 2
    assert [(row["source"], row["ours"], row["messages"], row["failed"]) for row in answer["dmarc"]["rows"]] == [
        ("198.51.100.9", None, 7, 7), ("192.0.2.1", "first", 6, 0),
    ]  # fmt: skip
    assert value(desk, "fastrelay_dmarc_messages_total", source="other", result="failed") == 7
    assert value(desk, "fastrelay_dmarc_messages_total", source="first", result="dkim_only") == 6
    assert value(desk, "fastrelay_reports_in_total", kind="dmarc", result="repeated") == 2
    assert {row["org"] for row in part.summary(by="org")["dmarc"]["rows"]} == {"google.com", "yahoo.com"}
    assert part.summary(domain="other.test")["dmarc"]["rows"] == []
    assert [one["org"] for one in part.each()["reports"]] in (["google.com", "yahoo.com"], ["yahoo.com", "google.com"])


def test_tls_is_summed(desk: FakeDesk) -> None:
    part = Reports(desk)  # type: ignore[arg-type]
    part.take_octets(tls_report(), desk.clock.now)
    rows = part.summary(days=400)["tls"]["rows"]
    assert [(row["result"], row["sessions"]) for row in rows] == [
        ("certificate-expired", 2),
        ("unknown", 1),
        ("ok", 40),
    ]
    assert value(desk, "fastrelay_tlsrpt_sessions_total", result="ok") == 40


def test_reports_go_when_they_are_old(desk: FakeDesk) -> None:
    part = Reports(desk)  # type: ignore[arg-type]
    part.take_octets(aggregate(), desk.clock.now)
    part.sweep()
    assert desk.store.count(DATABASE) == 1
    desk.clock.now += 91 * 86400
    part.sweep()
    assert desk.store.count(DATABASE) == 0
    with pytest.raises(ReportRefused, match=r"longer than reports\.keep"):
        part.take_octets(aggregate(), desk.clock.now)
    with pytest.raises(ReportRefused, match="future"):
        part.take_octets(aggregate(), END - 10 * 86400.0)


def test_what_can_not_be_used_is_counted(desk: FakeDesk) -> None:
    part = Reports(desk)  # type: ignore[arg-type]
    found = part.read(mail(b"<x/>", "text/xml", NAME + ".xml", SUBJECT))
    assert isinstance(found, ReportRefused)
    assert part.take(None, found) is False
    assert value(desk, "fastrelay_reports_in_total", kind="unknown", result="refused") == 1
    assert part.read(b"Subject: hello\r\n\r\n") is None
