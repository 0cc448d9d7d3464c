"""`fastrelay reports` against a fake relay: the sums, the list, and the import of saved reports."""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastrelay.feedback.reports_read import Report

SUMMARY: dict[str, Any] = {
    "days": 30, "by": "source",
    "dmarc": {
        "reports": 2,
        "rows": [
            {"domain": "example.com", "source": "192.0.2.7", "messages": 1234, "aligned": 1000, "dkim_only": 200,
             "spf_only": 4, "failed": 30, "refused": 5, "ours": "out-a"},
            {"domain": "example.com", "source": "evil\x1b[2J", "messages": 7, "aligned": 0, "dkim_only": 0,
             "spf_only": 0, "failed": 7, "refused": 7, "ours": None},
        ],
        "left_out": 3,
    },
    "tls": {
        "reports": 1,
        "rows": [
            {"domain": "example.com", "result": "certificate-expired", "mx": "mx.example.com", "sessions": 3},
            {"domain": "example.com", "result": "ok", "mx": None, "sessions": 4000},
        ],
        "left_out": 0,
    },
}  # fmt: skip
NOTHING: dict[str, Any] = {
    "days": 30, "by": "source",
    "dmarc": {"reports": 0, "rows": [], "left_out": 0}, "tls": {"reports": 0, "rows": [], "left_out": 0},
}  # fmt: skip
LIST: dict[str, Any] = {
    "reports": [
        {"kind": "dmarc", "org": "google.com", "id": "123\x1b[2J", "domain": "example.com",
         "begin": "2026-09-20T00:00:00Z", "end": "2026-09-20T23:59:59Z", "messages": 1234},
    ],
    "left_out": 9,
}  # fmt: skip
REPORT = (
    b"<feedback><report_metadata><org_name>far.example</org_name><email>a@far.example</email><report_id>r-1</report_id>"
    b"<date_range><begin>1789913601</begin><end>1790000000</end></date_range></report_metadata>"
    b"<policy_published><domain>example.com</domain><p>none</p></policy_published>"
    b"<record><row><source_ip>192.0.2.7</source_ip><count>5</count><policy_evaluated><disposition>none</disposition>"
    b"<dkim>fail</dkim><spf>fail</spf></policy_evaluated></row>"
    b"<identifiers><header_from>example.com</header_from></identifiers><auth_results/></record></feedback>"
)
IN_WORDS = "DMARC report of far.example on example.com: 5 messages, 5 failed"


def lines_of(result: Any) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return [line.split() for line in result.output.splitlines()]


def test_summary(ask, fake_relay) -> None:
    fake_relay.answers["reports.summary"] = SUMMARY
    lines = lines_of(ask("reports"))
    assert fake_relay.arguments == {"days": 30, "by": "source", "domain": "", "most": 50}
    # Domain, source, ours, messages, passed (aligned, DKIM or SPF alone), DKIM only, SPF only, failed, refused.
    assert ["example.com", "192.0.2.7", "out-a", "1,234", "1,204", "200", "4", "30", "5"] in lines
    assert [line[-6:] for line in lines if "7" in line] == [["7", "0", "0", "0", "7", "7"]]
    assert ["example.com", "certificate-expired", "mx.example.com", "3"] in lines
    assert ["example.com", "ok", "4,000"] in lines
    assert ["DMARC:", "2", "reports", "of", "the", "last", "30", "days"] in lines
    assert ["TLS:", "1", "report", "of", "the", "last", "30", "days"] in lines
    assert [line for line in lines if "more" in line] == [["and", "3", "more", "(--most)"]]


def test_summary_by_domain(ask, fake_relay) -> None:
    row = {**SUMMARY["dmarc"]["rows"][0], "domain": "news.example.com"}
    fake_relay.answers["reports.summary"] = {**SUMMARY, "by": "domain", "dmarc": {**SUMMARY["dmarc"], "rows": [row]}}
    options = ("--by", "domain", "--days", "7", "--domain", "Example.COM", "--most", "3")
    lines = lines_of(ask("reports", *options))
    assert fake_relay.arguments == {"days": 7, "by": "domain", "domain": "example.com", "most": 3}
    assert ["news.example.com", "1,234", "1,204", "200", "4", "30", "5"] in lines
    assert any(line[:2] == ["FROM", "DOMAIN"] for line in lines)


def test_json(ask, fake_relay) -> None:
    fake_relay.answers["reports.summary"] = SUMMARY
    fake_relay.answers["reports.list"] = LIST
    assert json.loads(ask("reports", "--json").output) == SUMMARY
    assert json.loads(ask("reports", "list", "--json").output) == LIST


def test_nothing_there_yet(ask, fake_relay) -> None:
    fake_relay.answers["reports.summary"] = NOTHING
    fake_relay.answers["reports.list"] = {"reports": [], "left_out": 0}
    output = ask("reports").output
    assert "DMARC: 0 reports" in output
    assert "TLS: 0 reports" in output
    assert "SESSIONS" not in output, "no table without a row"
    assert "MESSAGES" not in output
    result = ask("reports", "list")
    assert result.exit_code == 0
    assert "more" not in result.output


def test_list(ask, fake_relay) -> None:
    fake_relay.answers["reports.list"] = LIST
    lines = lines_of(ask("reports", "list", "--days", "3", "--most", "1"))
    assert fake_relay.arguments == {"days": 3, "most": 1}
    [line] = [line for line in lines if "google.com" in line]
    assert line[:4] == ["2026-09-20", "dmarc", "google.com", "example.com"]
    assert line[-1] == "1,234"
    assert ["and", "9", "more", "(--most)"] in lines


@pytest.mark.parametrize("packed", [False, True], ids=["xml", "gzip"])
def test_import(ask, fake_relay, tmp_path: Path, packed: bool) -> None:
    fake_relay.answers["reports.add"] = [{"new": True}, {"new": False}]
    file = tmp_path / "saved"
    file.write_bytes(gzip.compress(REPORT) if packed else REPORT)
    result = ask("reports", "import", file, file)
    assert result.exit_code == 0
    assert result.output.splitlines() == [f"{file}: {IN_WORDS}", f"{file}: {IN_WORDS} (was there already)"]
    first, second = fake_relay.requests
    assert first["arguments"] == second["arguments"]
    report = msgspec.convert(first["arguments"]["report"], Report)  # as the relay does
    assert (report.kind, report.org, report.id) == ("dmarc", "far.example", "r-1")
    assert report.domain == "example.com"
    assert [(row.source, row.count) for row in report.dmarc] == [("192.0.2.7", 5)]


def test_import_goes_on_behind_a_bad_file(ask, fake_relay, tmp_path: Path) -> None:
    """A broken and an absent one are told, the good one behind them is taken in, and the exit code says it."""
    fake_relay.answers["reports.add"] = {"new": True}
    broken, absent, good = (tmp_path / name for name in ("broken", "absent", "good"))
    broken.write_bytes(REPORT[:300])
    good.write_bytes(REPORT)
    result = ask("reports", "import", "--json", broken, absent, good)
    assert result.exit_code == 1
    first, second, third = json.loads(result.stdout)["files"]
    assert (first["file"], "error" in first, "what" in first) == (str(broken), True, False)
    assert second == {"file": str(absent), "error": "can't be read: No such file or directory"}
    assert third == {"file": str(good), "what": IN_WORDS, "new": True}
    assert len(fake_relay.requests) == 1


@pytest.mark.parametrize("what", ["broken", "absent"])
def test_import_of_nothing_good(ask, fake_relay, tmp_path: Path, what: str) -> None:
    (tmp_path / "broken").write_bytes(b"From: a@b.example\n\nno report\n")
    result = ask("reports", "import", tmp_path / what)
    assert result.exit_code == 1
    assert result.output.startswith(f"{tmp_path / what}: ")
    assert fake_relay.requests == []


def test_import_that_the_relay_refuses(ask, fake_relay, tmp_path: Path) -> None:
    fake_relay.answers["reports.add"] = "its time ends in the future"
    (tmp_path / "good").write_bytes(REPORT)
    result = ask("reports", "import", tmp_path / "good")
    assert result.exit_code == 1
    assert "in the future" in result.output


def test_usage(ask, fake_relay, fastrelay, tmp_path: Path) -> None:
    for words in (("import",), ("show",), ("list", "more"), ("--by", "colour"), ("--days", "0")):
        assert ask("reports", *words).exit_code == 2, words
    assert fake_relay.requests == []
    fake_relay.close()
    assert ask("reports").exit_code == 3
